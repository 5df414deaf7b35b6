"""`parakeet runs` and `compare`."""

from pathlib import Path

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_runs
from parakeet.cli.output import examples, json_option, say_json, terminal_width


@click.command(epilog=examples("parakeet runs", "parakeet runs ba1c68e5", "parakeet runs --json"))
@click.argument("run", required=False, default="", shell_complete=complete_runs)
@json_option
def runs(run: str, as_json: bool) -> None:
    """List the training runs, or show RUN in detail.

    RUN is the key of a run, or its first characters.
    """
    from parakeet.home import home, runs_folder
    from parakeet.training.runs import render_run, render_runs, run_document, runs_document

    folder = runs_folder(home())
    if as_json:
        say_json(run_document(folder, run) if run else runs_document(folder))
    else:
        say(render_run(folder, run) if run else render_runs(folder, terminal_width()))


@click.command(
    short_help="Compare two training runs.",
    epilog=examples("parakeet compare ba1c68e5 07b7ca5c", "parakeet compare ba1c 07b7 --output curves.png"),
)
@click.argument("first", metavar="A", shell_complete=complete_runs)
@click.argument("second", metavar="B", shell_complete=complete_runs)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Save a plot of both loss curves."
)
def compare(first: str, second: str, output: Path | None) -> None:
    """Compare two training runs: settings, loss at equal tokens, speed.

    A and B are keys of runs, or their first characters.
    """
    from parakeet.home import home, runs_folder
    from parakeet.training.runs import render_comparison

    say(render_comparison(runs_folder(home()), first, second, output))
