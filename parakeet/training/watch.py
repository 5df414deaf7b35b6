"""Whatever watches a run is told through here, by the one rank that speaks. Imports no torch."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from parakeet.progress import Progress, Task
from parakeet.training.heartbeat import Heartbeat
from parakeet.training.job import TrainingJob
from parakeet.training.metrics import EVENTS_FILE, Kind, RunLog, StepRecord
from parakeet.training.reporting import Reporter
from parakeet.training.schedule import Schedule


class Watch:
    """The terminal, the run's log and heartbeat, and Dagster. For ranks that do not lead, nothing of all this.

    To be used in a `with`, which closes the log.
    """

    def __init__(self, job: TrainingJob, leads: bool, progress: Progress, reporter: Reporter, run_id: str) -> None:
        self.progress = progress
        self.events_file = job.run / EVENTS_FILE
        self._reporter = reporter
        self._log = RunLog(job.run, job.training.tensorboard, progress) if leads else None
        self._heartbeat = Heartbeat(job.run, run_id) if leads else None

    def say(self, text: str) -> None:
        self.progress.say(text)

    def task(self, tokens: int) -> AbstractContextManager[Task]:
        return self.progress.task("training", tokens, "tokens")

    def step(self, record: StepRecord, total: int) -> None:
        """A step was made."""
        if self._log is None or self._heartbeat is None:
            return
        self._log.step(record)
        self._reporter.metrics(record)
        loss = record.loss if record.skipped is None else None
        self._heartbeat.beat(record.step, total, record.tokens_per_second, loss)

    def event(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Something for the run's log only."""
        if self._log is not None:
            self._log.event(kind, step, text, **more)

    def tell(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Something that a person wants to know at once."""
        self.event(kind, step, text, **more)
        self.say(text)
        self._reporter.event(text)

    def saved(self, step: int) -> None:
        self.event("saved", step, f"Checkpoint of step {step:,} saved.")
        self._reporter.saved(step)

    def save_failed(self, step: int, text: str) -> None:
        self.event("save_failed", step, text)
        self._reporter.event(text)

    def resume(self, step: int, schedule: Schedule, source: Schedule | None) -> None:
        """A run of `schedule` goes on after `step` from the checkpoint of one of `source`; None: from the beginning."""
        if self._log is not None:
            self._log.resume(step, schedule, source)

    def cut_back(self, step: int) -> None:
        """The steps after `step` will be made again."""
        if self._log is not None:
            self._log.cut_back(step)

    def flush(self) -> None:
        """All of the log on the disk, so that a checkpoint may follow."""
        if self._log is not None:
            self._log.flush()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None and self._heartbeat is not None:
            self._log.close()
            self._heartbeat.remove()
