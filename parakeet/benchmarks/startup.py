"""`parakeet bench startup`: the wait for the help, for a reply's first token, and for a build with nothing to do."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import click

from parakeet.benchmarks.process import print_result
from parakeet.errors import ParakeetError
from parakeet.formatting import format_duration, render_table
from parakeet.home import home
from parakeet.stages import ACTIVE_RECIPE_FILE, Build, active_recipe

TARGETS = {"help": 0.4, "first token of chat": 4.0, "build with nothing to do": 15.0}
PARAKEET = (sys.executable, "-m", "parakeet.cli")


def run(runs: int) -> None:
    """Time each as a whole process from its start, and print minimum, median and maximum in seconds."""
    root = home()
    recipe = active_recipe(root)
    if Build(root, recipe).find("release") is None:
        raise ParakeetError(
            f"Recipe {recipe.name} is not built, so there is nothing to measure. Make one with: parakeet build"
        )
    measures: dict[str, Callable[[], float]] = {
        "help": lambda: _whole((*PARAKEET, "--help")),
        "first token of chat": lambda: _first_byte((*PARAKEET, "chat", "-m", "hi")),
        "build with nothing to do": lambda: _whole((*PARAKEET, "build", "--recipe", str(root / ACTIVE_RECIPE_FILE))),
    }
    results = {}
    for name, measure in measures.items():
        seconds = sorted(measure() for _ in range(runs))
        found = {"min": seconds[0], "median": statistics.median(seconds), "max": seconds[-1]}
        results[name] = {what: round(value, 3) for what, value in found.items()}
    rows = [(name, *map(format_duration, (*found.values(), TARGETS[name]))) for name, found in results.items()]
    click.echo(render_table((f"{runs} runs each", "min", "median", "max", "target"), rows, right=range(1, 5)))
    print_result({"benchmark": "startup", "runs": runs, "seconds": results})


def _whole(command: Sequence[str]) -> float:
    began = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if finished.returncode != 0:
        raise ParakeetError(
            f"{' '.join(command[2:])} ended with status {finished.returncode}: {finished.stderr.strip()}"
        )
    return seconds


def _first_byte(command: Sequence[str]) -> float:
    """Seconds from the start of the process to the first byte of the reply, its first token."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    if not first:
        raise ParakeetError(f"{' '.join(command[2:])} printed no reply.")
    return seconds
