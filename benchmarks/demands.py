"""What a benchmark must reach, beside what it measured; and how the benchmarks here are run."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from parakeet.benchmarks.process import print_result
from parakeet.cli.common import Commands
from parakeet.formatting import render_table

VERDICTS = {True: "met", False: "NOT MET", None: "not measured"}


@dataclass(frozen=True)
class Demand:
    """`met` is None when it was not measured; `found` may then say why."""

    text: str
    found: str
    met: bool | None


def at_least(text: str, value: float | None, limit: float, unit: str = "") -> Demand:
    """A figure that has to reach `limit`. None: not measured."""
    return _judged(f"{text}: at least {limit:,g}{unit}", value, unit, value is not None and value >= limit)


def at_most(text: str, value: float | None, limit: float, unit: str = "") -> Demand:
    """A figure that must not exceed `limit`. None: not measured."""
    return _judged(f"{text}: at most {limit:,g}{unit}", value, unit, value is not None and value <= limit)


def print_demands(result: Mapping[str, Any], demands: Sequence[Demand], threads: int = 0) -> None:
    """The end of a benchmark: its demands with their verdicts, and the JSON line."""
    rows = [(demand.text, VERDICTS[demand.met], demand.found) for demand in demands]
    click.echo(f"\n{render_table(('', '', ''), rows)}\n")
    print_result({**result, "demands": [asdict(demand) for demand in demands]}, threads)


def run_command(command: click.Command) -> None:
    """Run a benchmark's command; like `parakeet`, it reports a user's mistake in one message."""
    name = command.name or ""
    Commands(commands={name: command})(args=[name, *sys.argv[1:]], prog_name="python -m benchmarks")


def _judged(text: str, value: float | None, unit: str, met: bool) -> Demand:
    if value is None:
        return Demand(text, "", None)
    return Demand(text, f"{value:{',.0f' if abs(value) >= 1000 else '.3g'}}{unit}", met)
