"""`parakeet runs` and `compare`."""

import sys
from pathlib import Path

import click

from parakeet.cli.common import say


@click.command()
@click.argument("run", required=False, default="")
def runs(run: str) -> None:
    """List the training runs, or show RUN in detail.

    RUN is the key of a run, or its first characters.
    """
    import shutil

    from parakeet.home import home, runs_folder
    from parakeet.training.runs import render_run, render_runs

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    folder = runs_folder(home())
    say(render_run(folder, run) if run else render_runs(folder, width))


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
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
