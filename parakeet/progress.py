"""How long work shows its progress: a live bar on a terminal, plain lines everywhere else."""

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

from parakeet.formatting import format_bytes, format_count, format_duration
from parakeet.sanitise import sanitise

SECONDS_BETWEEN_LINES = 5.0
BYTES = "bytes"
"""A task in this unit shows its amounts as sizes: `1.2 GiB of 3.0 GiB`."""


class Task:
    """One piece of work in progress, made by `Progress.task`."""

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
        """Count work that an earlier run did. It is done, but does not count towards the rate."""
        self.done += amount
        self._skipped += amount
        self._progress.refresh(self)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """`amount` more units are done. `note`, a loss for example, is shown behind the rate."""
        self.done += amount
        self.note = note or self.note
        self._progress.refresh(self)

    @property
    def rate(self) -> float:
        """Units per second since the task began, without those skipped."""
        return (self.done - self._skipped) / max(time.monotonic() - self._start, 1e-9)

    def describe(self, brief: bool = False) -> str:
        """`1,200 of 4,000 documents, 300 documents/s, ETA 9 s`, or briefly `1,200 documents, 300/s, ETA 9 s`.

        The brief form fits beside a bar in 80 columns.
        """
        total = f" of {self._amount(self.total)}" if self.total and not brief else ""
        unit = "" if self.unit == BYTES else f" {self.unit}"
        words = f"{self._amount(self.done)}{total}{unit}, {self._amount(self.rate)}{'' if brief else unit}/s"
        if self.total and self.rate > 0:
            words += f", ETA {format_duration((self.total - self.done) / self.rate)}"
        return words + (f", {self.note}" if self.note else "")

    def _amount(self, number: float) -> str:
        return format_bytes(number) if self.unit == BYTES else format_count(number)


class _Words(ProgressColumn):
    """Our own rate and ETA. Rich's would count the work of an earlier run as done in this one."""

    def render(self, task: BarTask) -> Text:
        return Text(str(task.fields["words"]), style="cyan")


class Progress:
    """Writes to `stream`: standard error by default, so that results can be piped."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """Print one line of sanitised text."""
        line = sanitise(text)
        if self._bars is not None:
            self._bars.console.print(Text(line))
        else:
            print(line, file=self.stream, flush=True)

    @contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        """Show a task of `total` units (None if unknown) until the block ends."""
        task = Task(self, name, total, unit)
        self._last_line = time.monotonic()
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
            words = sanitise(task.describe(brief=True))
            # The total again: a download learns it on the way.
            self._bars.update(self._bar, total=task.total, completed=task.done, words=words)
        elif not self.live and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{task.name}: {task.describe()}")
