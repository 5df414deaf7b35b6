"""What long work says while it runs: a live bar on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.text import Text

from parakeet.sanitise import sanitise

SECONDS_BETWEEN_LINES = 5.0


class Task:
    """One piece of work that is under way; made by `Progress.task`."""

    def __init__(self, progress: "Progress", name: str, total: float | None, unit: str) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.note = ""
        self._progress = progress
        self._start = time.monotonic()
        self._skipped = 0.0

    def skip(self, amount: float) -> None:
        """Count work that an earlier run did: it is done, but tells nothing of today's rate."""
        self.done += amount
        self._skipped += amount
        self._progress.refresh(self)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """`amount` more units are done; `note` is shown behind the rate (a loss, say)."""
        self.done += amount
        self.note = note or self.note
        self._progress.refresh(self)

    @property
    def rate(self) -> float:
        """Units per second since the task began, 0 before the first."""
        return (self.done - self._skipped) / max(time.monotonic() - self._start, 1e-9)

    def describe(self) -> str:
        """`1,200 of 4,000 documents, 300 documents/s, ETA 0:09`."""
        words = f"{self.done:,.0f}" + (f" of {self.total:,.0f}" if self.total else "") + f" {self.unit}"
        words += f", {self.rate:,.0f} {self.unit}/s" if self.rate >= 10 else f", {self.rate:.2g} {self.unit}/s"
        return words + self._outlook()

    def describe_briefly(self) -> str:
        """`1.2k documents, 300/s, ETA 0:09`: what fits beside a bar in 80 columns."""
        return f"{brief(self.done)} {self.unit}, {brief(self.rate)}/s" + self._outlook()

    def _outlook(self) -> str:
        words = f", ETA {clock((self.total - self.done) / self.rate)}" if self.total and self.rate > 0 else ""
        return words + (f", {self.note}" if self.note else "")


class _Words(ProgressColumn):
    """Our own rate and ETA: rich's would take the work of an earlier run for this one's."""

    def render(self, task: BarTask) -> Text:
        return Text(str(task.fields["words"]), style="cyan")


class Progress:
    """Speaks on `stream` (standard error by default, so that results can be piped)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._said = 0.0

    def say(self, text: str) -> None:
        """One line of plain text, with anything that could steer a terminal taken out."""
        line = sanitise(text)
        if self._bars is not None:
            self._bars.console.print(Text(line))
        else:
            print(line, file=self.stream, flush=True)

    @contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        """Show the advance of a task of `total` units (None where nobody knows) until the block ends."""
        task = Task(self, name, total, unit)
        self._said = time.monotonic()
        if not self.live or self._bars is not None:
            yield task
            return
        console = Console(file=self.stream)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10),
            _Words(),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            self._bars = bars
            self._bar = bars.add_task(sanitise(name), total=total, words="")
            try:
                yield task
            finally:
                self._bars = None

    def refresh(self, task: Task) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, total=task.total, completed=task.done, words=sanitise(task.describe_briefly()))
        elif not self.live and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.say(f"{task.name}: {task.describe()}")


def brief(number: float) -> str:
    """Three digits and a unit: `7`, `850`, `12.3k`, `1.25M`, `3.2G`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """`0:09`, `1:02:03`."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
