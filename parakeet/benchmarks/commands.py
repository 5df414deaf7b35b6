"""`parakeet bench …`. As in parakeet/cli.py, every command imports what it needs when it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_THREADS = click.option(
    "--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: what torch chooses]"
)


def _several(name: str, parameter: str, least: int, said: str) -> Callable[[Any], Any]:
    """An option that can be given again and again, for whole numbers."""
    return click.option(name, parameter, multiple=True, type=click.IntRange(least), metavar="N", help=said)


@click.group()
def bench() -> None:
    """Measure Parakeet on this machine.

    Each benchmark prints a table for people and one JSON line last.
    """


@bench.command("startup")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs of each command.")
def bench_startup(runs: int) -> None:
    """Time `parakeet --help`, the first token of `parakeet chat -m hi`, and a build with nothing to do."""
    from parakeet.benchmarks.startup import run

    run(runs)


@bench.command("generate")
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@_THREADS
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True, help="Samples of each number.")
@click.option("--compile", "compiled", is_flag=True, help="Let Inductor compile the step (a minute for each dtype).")
def bench_generate(recipe_name: str, threads: int, rounds: int, compiled: bool) -> None:
    """Time prefill and decode of a model of the recipe's shape in every precision.

    Beside them stand the bandwidth of the memory, the rate of large matrix products, and what a precision costs in
    held-out bits per byte of the model that was trained here.
    """
    from parakeet.benchmarks.generate import run
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name), threads, rounds, compiled, home())


@bench.command("train")
@click.option("--recipe", "recipe_name", help="Measure this recipe's model, on a card if there is one.")
@click.option("--shape", "shapes", multiple=True, type=click.Choice(["3M", "25M"]), help="On the CPU.  [default: both]")
@_several("--length", "lengths", 8, "Tokens in a row, on the CPU.  [default: 256, 1024, 4096]")
@click.option("--memory", default="", metavar="SIZE", help="Most that may be taken of the card, as 11.2GiB.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Samples of each number.  [default: 3, on a card 15]")
@_THREADS
def bench_train(
    recipe_name: str | None,
    shapes: tuple[str, ...],
    lengths: tuple[int, ...],
    memory: str,
    rounds: int | None,
    threads: int,
) -> None:
    """Time training steps and measure their memory, from the original's way to ours.

    On a CPU one change a row, at several row lengths. On a card the lengths that fit each way, beside the forecast.
    """
    if recipe_name and shapes:
        raise click.UsageError("--recipe and --shape both say which model to measure: give one of them.")
    from parakeet.benchmarks.training import run
    from parakeet.recipe_file import load_recipe

    run(load_recipe(recipe_name) if recipe_name else None, shapes, lengths, memory, rounds, threads)


@bench.command("attention")
@_several("--length", "lengths", 8, "Tokens in a row.  [default: 512 to 8192]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@_THREADS
def bench_attention(lengths: tuple[int, ...], rounds: int, threads: int) -> None:
    """Time the attention backends, and measure their memory and their distance from float64."""
    from parakeet.benchmarks.attention import run

    run(lengths, rounds, threads)


@bench.command("loss")
@click.option("--tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens in the batch.")
@_several("--width", "widths", 8, "Width of the hidden states.  [default: 192, 1152]")
@_several("--vocabulary", "vocabularies", 8, "Rows of the embedding.  [default: 4160, 100288]")
@_several("--rows", "pieces", 1, "Rows of logits at once.  [default: 64, 256, 1024, 4096]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@_THREADS
def bench_loss(
    tokens: int,
    widths: tuple[int, ...],
    vocabularies: tuple[int, ...],
    pieces: tuple[int, ...],
    rounds: int,
    threads: int,
) -> None:
    """Time the loss in pieces and whole, and measure its memory and its error."""
    from parakeet.benchmarks.loss import run

    run(tokens, widths, vocabularies, pieces, rounds, threads)


@bench.command("data")
@click.option(
    "--text",
    multiple=True,
    type=click.Path(exists=True),
    metavar="FILE",
    help="Text to measure with, up to 64 MiB; several times for several.  [default: Parakeet's own words]",
)
@click.option(
    "--megabytes", type=click.IntRange(1), default=100, show_default=True, help="Text that the stages are run over."
)
@click.option("--pairs", type=click.IntRange(1), default=300, show_default=True, help="Planted pairs in each band.")
@click.option(
    "--labelled",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of labelled sets: <name>.train and <name>.truth.",
)
@click.option("--memory", is_flag=True, help="Run the stages over ten times the text too, and compare their memory.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes.  [default: one a core]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each time.")
def bench_data(
    text: tuple[str, ...], megabytes: int, pairs: int, labelled: Path | None, memory: bool, workers: int, rounds: int
) -> None:
    """Time the data stages, and measure their memory and what they find.

    Cleaning and deduplication stand beside datatrove's defaults, tokenising beside bare tiktoken, near duplicates
    beside the formula of their buckets; and there is a forecast for 50 GB.
    """
    from parakeet.benchmarks.data import run

    run(text, megabytes, pairs, labelled, memory, workers, rounds)
