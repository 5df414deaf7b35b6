"""`parakeet bench`."""

from pathlib import Path

import click

from parakeet.cli.common import Whole
from parakeet.cli.completion import complete_recipes
from parakeet.cli.output import examples

RECIPE = click.option(
    "--recipe",
    "recipe_name",
    default="demo",
    show_default=True,
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.",
)
THREADS = click.option("--threads", type=Whole(0), default=0, help="CPU threads.  [default: what torch chooses]")


@click.group(epilog=examples("parakeet bench data --megabytes 20", "parakeet bench generate"))
def bench() -> None:
    """Measure Parakeet on this machine.

    Each benchmark prints a table, and one JSON line last.
    """


@bench.command("startup", short_help="Time the start of commands.", epilog=examples("parakeet bench startup"))
@click.option("--runs", type=Whole(1, 100), default=5, show_default=True, help="Runs of each command.")
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    metavar="CHECKOUT",
    help="Compare with another checkout of Parakeet, in turn. Leaves out the build.",
)
def bench_startup(runs: int, against: Path | None) -> None:
    """Time the start of commands: `--help`, the first token of a chat, and a build with nothing to do.

    CPU time is that of all threads, which other programs disturb less.
    """
    from parakeet.benchmarks.startup import run

    run(runs, against)


@bench.command("generate", epilog=examples("parakeet bench generate --recipe parakeet-378m --threads 2"))
@RECIPE
@THREADS
@click.option("--rounds", type=Whole(1, 1000), default=9, show_default=True, help="Most samples of each number.")
def bench_generate(recipe_name: str, threads: int, rounds: int) -> None:
    """Time text generation in every precision, for ten minutes at most.

    The model has the recipe's shape. Prefill and decode are timed, with the memory bandwidth and the speed of large
    matrix products beside them. If a model was trained here, its held-out bits per byte are measured too.
    """
    from parakeet.benchmarks.generate import run
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name), threads, rounds, home())


@bench.command("serve", epilog=examples("parakeet bench serve", "parakeet bench serve --recipe demo --dtype fp32"))
@click.option(
    "--recipe",
    "recipe_name",
    default="parakeet-378m",
    show_default=True,
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.",
)
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
    multiple=True,
    default=("auto", "int8"),
    show_default=True,
    help="Precision of the weights. Repeatable.",
)
@THREADS
@click.option("--rounds", type=Whole(1, 1000), default=5, show_default=True, help="Most samples of each number.")
def bench_serve(recipe_name: str, dtypes: tuple[str, ...], threads: int, rounds: int) -> None:
    """Time the replies of a server beside those of a chat, for ten minutes at most.

    The model has the recipe's shape and random weights. Measures one stream and eight at once, and the gaps between
    tokens while a long prompt arrives.
    """
    from parakeet.benchmarks.serve import run
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name), dtypes, threads, rounds)


@bench.command("export", epilog=examples("parakeet bench export", "parakeet bench export --recipe demo"))
@click.option(
    "--recipe",
    "recipe_name",
    default="parakeet-378m-16h",
    show_default=True,
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.",
)
def bench_export(recipe_name: str) -> None:
    """Time the export of a model in every format, and measure its memory.

    The model has the recipe's shape and random weights. It and the largest export take 3.4 GB of temporary disk space
    for the default recipe.
    """
    from parakeet.benchmarks.export import run
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name))


@bench.command("evaluate", epilog=examples("parakeet bench evaluate --threads 2"))
@RECIPE
@THREADS
@click.option("--rounds", type=Whole(1, 1000), default=9, show_default=True, help="Samples of each number.")
def bench_evaluate(recipe_name: str, threads: int, rounds: int) -> None:
    """Time the scoring of benchmarks, beside a prefill. Needs pip install 'parakeet-lm[eval]'."""
    from parakeet.evaluation.benchmarks.upstream import check_installed

    check_installed()
    from parakeet.benchmarks.evaluate import run
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name), threads, rounds)


@bench.command("train", epilog=examples("parakeet bench train --recipe parakeet-378m --memory 11.2GiB"))
@RECIPE
@click.option("--memory", default="", metavar="SIZE", help="Limit the GPU's memory: 11.2GiB.")
@click.option("--rounds", type=Whole(1, 1000), help="Steps to time.  [default: 3, on a GPU 15]")
@THREADS
def bench_train(recipe_name: str, memory: str, rounds: int | None, threads: int) -> None:
    """Time training steps of a recipe, and measure their memory.

    Prints a row for each kind of activation checkpointing (none, mlp, block), which trades speed for memory, with the
    forecast beside the memory. The arrow marks the kind that training would choose. A GPU is used if there is one.
    """
    from parakeet.benchmarks.training import run
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name), memory, rounds, threads)


@bench.command("data", epilog=examples("parakeet bench data", "parakeet bench data --megabytes 20"))
@click.option(
    "--text",
    multiple=True,
    type=click.Path(exists=True),
    metavar="FILE",
    help="Text to measure with, up to 64 MiB. Repeatable.  [default: words of Parakeet's own dialogues]",
)
@click.option("--megabytes", type=Whole(1), default=100, show_default=True, help="Amount of text to process.")
@click.option("--workers", type=Whole(0), default=0, help="Processes.  [default: one per core]")
def bench_data(text: tuple[str, ...], megabytes: int, workers: int) -> None:
    """Time the data stages, and forecast 50 GB of text.

    Measures their memory and disk space too.
    """
    from parakeet.benchmarks.data import run

    run(text, megabytes, workers)


@bench.command("trace", epilog=examples("parakeet bench trace", "parakeet bench trace --tokens 2000000"))
@click.option(
    "--tokens",
    type=Whole(10_000),
    default=100_000_000,
    show_default=True,
    help="Size of the text to look replies up in.",
)
def bench_trace(tokens: int) -> None:
    """Time the trace index: how fast it is built, with how much memory, and how fast it answers.

    The text is invented. With 100 million tokens it takes a minute of CPU time, 1.6 GB of memory, and 0.8 GB of disk.
    """
    from parakeet.benchmarks.trace import run

    run(tokens)
