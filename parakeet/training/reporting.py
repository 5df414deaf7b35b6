"""To whom the trainer tells how it goes while it runs: to Dagster, where Dagster started it. Imports no torch."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from parakeet.training.metrics import StepRecord

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

SECONDS_BETWEEN_MESSAGES = 30.0
"""An observation takes Dagster 13 ms and 5 kB of its history: 100 MB a week. `metrics.jsonl` holds every step."""

AVERAGED = ("loss", "gradient_norm", "mfu")


class Reporter(Protocol):
    def saved(self, step: int) -> None:
        """A checkpoint of `step` is on the disk."""

    def metrics(self, record: StepRecord) -> None:
        """A step was made; called for each."""

    def event(self, text: str) -> None:
        """Something that a person wants to know: a resume, a skipped step, a rollback."""


class SilentReporter:
    """Without Dagster the terminal and the run's folder tell everything."""

    def saved(self, step: int) -> None:
        pass

    def metrics(self, record: StepRecord) -> None:
        pass

    def event(self, text: str) -> None:
        pass


class PipesReporter:
    """Sends Dagster a message of metrics at most every 30 s: means over the steps since the last one.

    A validation loss goes out once, with the next message. Skipped steps count in no mean.
    """

    def __init__(self, pipes: "PipesContext") -> None:
        self._pipes = pipes
        self._sent: float | None = None
        self._records: list[StepRecord] = []

    def saved(self, step: int) -> None:
        self._pipes.log.info(f"Checkpoint of step {step:,} saved.")

    def metrics(self, record: StepRecord) -> None:
        self._records.append(record)
        if self._sent is None or time.monotonic() - self._sent >= SECONDS_BETWEEN_MESSAGES:
            self.send()

    def event(self, text: str) -> None:
        self._pipes.log.info(text)

    def send(self) -> None:
        """Send what has come together since the last message, if anything has."""
        if self._records:
            self._pipes.report_custom_message({"kind": "metrics", "values": _summary(self._records)})
            self._records.clear()
            self._sent = time.monotonic()


def _summary(records: list[StepRecord]) -> dict[str, float | None]:
    last = records[-1]
    trained = [record for record in records if record.skipped is None]
    seconds = sum(record.seconds for record in records)
    tokens = sum(record.tokens_per_second * record.seconds for record in records)
    measured = [record.validation_loss for record in records if record.validation_loss is not None]
    values = {name: _mean([getattr(record, name) for record in trained]) for name in AVERAGED}
    return {
        "step": last.step,
        "tokens": last.tokens,
        "learning_rate": last.learning_rate,
        "tokens_per_second": tokens / seconds if seconds else None,
        "validation_loss": measured[-1] if measured else None,
        **values,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """The reporter of this process; for Dagster where Dagster's Pipes started it."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield SilentReporter()
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        reporter = PipesReporter(pipes)
        try:
            yield reporter
        finally:
            reporter.send()
