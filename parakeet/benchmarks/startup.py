"""`parakeet bench startup`: the wait for the help, for `import parakeet`, for a reply's first token, and for a build.

The build has nothing to do.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click

import parakeet
from parakeet.benchmarks.process import print_result
from parakeet.errors import ParakeetError
from parakeet.formatting import format_duration, render_table
from parakeet.home import home
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, recipe_built_last

TARGETS = {"help": 0.4, "import parakeet": 0.1, "first token of chat": 4.0, "build with nothing to do": 15.0}
IMPORT = "import parakeet; getattr(parakeet, 'load', None)"
"""An earlier checkout has no `load`."""
PARAKEET = (sys.executable, "-m", "parakeet.cli")


class Cost(NamedTuple):
    """Wall time, and the CPU time of user and system in all threads; in seconds."""

    seconds: float
    cpu_seconds: float


def run(runs: int, against: Path | None = None) -> None:
    """Time each as a whole process from its start, and print minimum, median and maximum in seconds.

    `against` is another checkout of Parakeet, whose processes run in turn with ours on the same store. Nothing is built
    then, because another version may find something to do. Raises ParakeetError if nothing is built here, or `against`
    is no checkout.
    """
    root = home()
    recipe = load_recipe(recipe_built_last(root), report_old_keys=False)
    if Build(root, recipe).find("release") is None:
        raise ParakeetError(
            f"Recipe {recipe.name} is not built, so there is nothing to measure. Make one with: parakeet build"
        )
    checkouts = {"": Path(parakeet.__file__).parents[1]}
    if against is not None:
        if not (against / "parakeet" / "cli" / "__main__.py").is_file():
            raise ParakeetError(f"{against} is no checkout of Parakeet: give the folder that holds its README.md.")
        checkouts[f", {against}"] = against
    measures: dict[str, Callable[[Path], Cost]] = {
        "help": lambda checkout: _whole((*PARAKEET, "--help"), checkout),
        "import parakeet": lambda checkout: _whole((sys.executable, "-c", IMPORT), checkout),
        "first token of chat": lambda checkout: _first_byte((*PARAKEET, "chat", "-m", "hi"), checkout),
    }
    if against is None:
        build = (*PARAKEET, "build", "--recipe", recipe_built_last(root))
        measures["build with nothing to do"] = lambda checkout: _whole(build, checkout)
    wall, cpu, rows = {}, {}, []
    for name, measure in measures.items():
        costs: dict[str, list[Cost]] = {label: [] for label in checkouts}
        for _ in range(runs):
            for label, checkout in checkouts.items():
                costs[label].append(measure(checkout))
        for label, found in costs.items():
            wall[name + label], cpu[name + label] = (_spread(values) for values in zip(*found, strict=True))
            figures = (*wall[name + label].values(), TARGETS[name], cpu[name + label]["median"])
            rows.append((name + label, *map(format_duration, figures)))
    headings = (f"{runs} runs each", "min", "median", "max", "target", "CPU time")
    click.echo(render_table(headings, rows, right=range(1, 6)))
    print_result({"benchmark": "startup", "runs": runs, "seconds": wall, "cpu_seconds": cpu})


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {what: round(value, 3) for what, value in found.items()}


def _whole(command: Sequence[str], checkout: Path) -> Cost:
    began, spent = time.perf_counter(), _cpu_of_ended()
    finished = subprocess.run(command, cwd=checkout, env=_environment(), capture_output=True, text=True)
    cost = Cost(time.perf_counter() - began, _cpu_of_ended() - spent)
    if finished.returncode != 0:
        raise ParakeetError(
            f"{' '.join(command[2:])} ended with status {finished.returncode}: {finished.stderr.strip()}"
        )
    return cost


def _first_byte(command: Sequence[str], checkout: Path) -> Cost:
    """From the start of the process to the first byte of the reply, its first token."""
    import psutil

    began = time.perf_counter()
    with subprocess.Popen(command, cwd=checkout, env=_environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        spent = psutil.Process(process.pid).cpu_times()
        process.stdout.read()
    if not first:
        raise ParakeetError(f"{' '.join(command[2:])} printed no reply.")
    return Cost(seconds, spent.user + spent.system)


def _environment() -> dict[str, str]:
    """Another checkout would look for its own artefacts."""
    return {**os.environ, "PARAKEET_HOME": str(home())}


def _cpu_of_ended() -> float:
    """CPU seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
