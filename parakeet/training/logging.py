"""Everything that a run reports while it trains: to the terminal, its folder, TensorBoard and Dagster.

Imports torch only if TensorBoard is asked for.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.training.job import TrainingJob
from parakeet.training.metrics import EVENTS_FILE, Kind, RunLog, StepRecord
from parakeet.training.schedule import Schedule

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

SECONDS_BETWEEN_HEARTBEATS = 10.0
SECONDS_BETWEEN_OBSERVATIONS = 30.0
"""An observation takes 13 ms and 5 kB in Dagster's history: 100 MB a week. `metrics.jsonl` has every step."""
AVERAGED = ("loss", "gradient_norm", "mfu")
"""Figures that Dagster gets as means over the steps since the last message."""
TENSORBOARD_FIGURES = (
    "loss",
    "validation_loss",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "data_seconds",
    "mfu",
    "mfu_palm",
    "memory_bytes",
)


class TrainingLogger:
    """The terminal, the run's log and heartbeat, TensorBoard and Dagster. Ranks that do not lead write none of them.

    Use it in a `with`, which closes the log.
    """

    def __init__(
        self, job: TrainingJob, leads: bool, progress: Progress, reporter: "DagsterReporter", run_id: str
    ) -> None:
        self.progress = progress
        self.events_file = job.run / EVENTS_FILE
        self._reporter = reporter
        self._leads = leads
        self._log = RunLog(job.run, progress)
        tensorboard = leads and job.training.tensorboard
        self._tensorboard = TensorBoardWriter(job.run, progress.say) if tensorboard else None
        self._heartbeat = Heartbeat(job.run, run_id) if leads else None

    def say(self, text: str) -> None:
        self.progress.say(text)

    def task(self, tokens: int) -> AbstractContextManager[Task]:
        """The progress bar."""
        return self.progress.task("training", tokens, "tokens")

    def step(self, record: StepRecord, total: int) -> None:
        """Log a step that was made, of `total` steps."""
        if not self._leads:
            return
        self._log.step(record)
        self._reporter.metrics(record)
        if self._tensorboard is not None:
            self._tensorboard.step(record)
        if self._heartbeat is not None:
            loss = record.loss if record.skipped is None else None
            self._heartbeat.beat(record.step, total, record.tokens_per_second, loss)

    def event(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Write something to the run's log only."""
        if self._leads:
            self._log.event(kind, step, text, **more)

    def announce(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Write something to the log, and show it on the terminal and in Dagster."""
        self.event(kind, step, text, **more)
        self.say(text)
        self._reporter.event(text)

    def saved(self, step: int) -> None:
        text = f"Checkpoint of step {step:,} saved."
        self.event("saved", step, text)
        self._reporter.event(text)

    def save_failed(self, step: int, text: str) -> None:
        self.event("save_failed", step, text)
        self._reporter.event(text)

    def resume(self, step: int, schedule: Schedule, source: Schedule | None) -> None:
        """A run of `schedule` continues after `step`; `source` is the checkpoint's schedule, None for the beginning."""
        if self._leads:
            self._log.resume(step, schedule, source)

    def truncate(self, step: int) -> None:
        """Remove the steps after `step`, which will be repeated."""
        if self._leads:
            self._log.truncate(step)
        if self._tensorboard is not None:
            # The next step was made before: a new file hides it.
            self._tensorboard.close()

    def flush(self) -> None:
        """Make the log durable, so that no checkpoint is ahead of it."""
        if self._leads:
            self._log.flush()
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def __enter__(self) -> "TrainingLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._heartbeat is not None:
            self._heartbeat.remove()


# --- The heartbeat: a file in the run's folder for people. The run's lock, not this file, says whether it is alive.


class Heartbeat:
    """Writes the progress of one process, which holds the lock of the run in folder `run`, into a file of its own.

    With a shared file, the last heartbeat of a process that died would be taken for the next one's. Files left by
    earlier processes are deleted: with the lock held, none of them is alive. `id` is Dagster's run or the process.
    """

    def __init__(self, run: Path, id: str) -> None:
        self._id = re.sub(r"[^A-Za-z0-9-]+", "-", id)[:64] or "run"
        self._path = run / f"heartbeat-{self._id}.json"
        self._last: float | None = None
        for path in run.glob("heartbeat-*.json"):
            with contextlib.suppress(OSError):
                path.unlink()

    def beat(self, step: int, total: int, tokens_per_second: float, loss: float | None) -> None:
        """Replace the file, unless that was done less than ten seconds ago."""
        now = time.monotonic()
        if self._last is not None and now - self._last < SECONDS_BETWEEN_HEARTBEATS:
            return
        self._last = now
        values = {
            "id": self._id,
            "process": os.getpid(),
            "time": time.time(),
            "step": step,
            "total": total,
            "tokens_per_second": round(tokens_per_second, 1),
            "loss": loss if loss is not None and math.isfinite(loss) else None,
        }
        temporary = self._path.with_name(f".{self._path.name}")
        # Not synced: after a power cut it is worthless. Errors are not reported: the metrics report the same ones.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")
            temporary.replace(self._path)

    def remove(self) -> None:
        """The process ends in good order."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def last_heartbeat(run: Path) -> float | None:
    """Unix time of the latest heartbeat in a run's folder; unreadable files are ignored."""
    times = []
    for path in run.glob("heartbeat-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            times.append(float(json.loads(path.read_text(encoding="utf-8"))["time"]))
    return max(times, default=None)


# --- TensorBoard, which is an extra.


class TensorBoardWriter:
    """Event files in `run`/tensorboard. ParakeetError if TensorBoard is not installed, before anything is trained.

    A write that fails is reported, and the next `flush` retries: the figures between are only in `metrics.jsonl`.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ParakeetError(
                f"training.tensorboard is on, but TensorBoard cannot be imported ({error}). Install it with "
                "pip install 'parakeet-lm[tensorboard]', or set training.tensorboard to false."
            ) from None
        self._open = SummaryWriter
        self._folder = run / "tensorboard"
        self._say = say
        self._writer: Any = None
        self._failed = False

    def step(self, record: StepRecord) -> None:
        if self._failed:
            return
        with self._errors_reported():
            if self._writer is None:
                # An earlier process may have written steps from here on. They are repeated: TensorBoard hides them.
                self._writer = self._open(str(self._folder), purge_step=record.step)
            for name in TENSORBOARD_FIGURES:
                if (value := getattr(record, name)) is not None:
                    self._writer.add_scalar(name, value, record.step, walltime=record.time)

    def flush(self) -> None:
        self._failed = False
        if self._writer is not None:
            with self._errors_reported():
                self._writer.flush()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._errors_reported():
                writer.close()

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._say(f"{error.strerror or error} while writing {self._folder}; the next checkpoint retries.")
            self._writer = None
            self._failed = True


# --- Dagster, if it started this process.


class DagsterReporter:
    """Sends messages and observations to Dagster through its pipes; without pipes it does nothing.

    Observations are sent at most every 30 s, as means over the steps since the last one. Skipped steps count in no
    mean. A validation loss is sent once, with the next observation.
    """

    def __init__(self, pipes: "PipesContext | None" = None) -> None:
        self._pipes = pipes
        self._sent: float | None = None
        self._records: list[StepRecord] = []

    def metrics(self, record: StepRecord) -> None:
        """Called for each step."""
        if self._pipes is None:
            return
        self._records.append(record)
        if self._sent is None or time.monotonic() - self._sent >= SECONDS_BETWEEN_OBSERVATIONS:
            self.send()

    def event(self, text: str) -> None:
        """Something that a person wants to know: a resume, a skipped step, a rollback, a checkpoint."""
        if self._pipes is not None:
            self._pipes.log.info(text)

    def send(self) -> None:
        """Send the steps since the last observation, if there are any."""
        if self._pipes is not None and self._records:
            self._pipes.report_custom_message({"kind": "metrics", "values": _observation(self._records)})
            self._records.clear()
            self._sent = time.monotonic()


@contextmanager
def open_reporter() -> Iterator[DagsterReporter]:
    """The reporter of this process, connected if Dagster's pipes started it."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield DagsterReporter()
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        reporter = DagsterReporter(pipes)
        try:
            yield reporter
        finally:
            reporter.send()


def _observation(records: list[StepRecord]) -> dict[str, float | None]:
    last = records[-1]
    trained = [record for record in records if record.skipped is None]
    seconds = sum(record.seconds for record in records)
    tokens = sum(record.tokens_per_second * record.seconds for record in records)
    measured = [record.validation_loss for record in records if record.validation_loss is not None]
    return {
        "step": last.step,
        "tokens": last.tokens,
        "learning_rate": last.learning_rate,
        "tokens_per_second": tokens / seconds if seconds else None,
        "validation_loss": measured[-1] if measured else None,
        **{name: _mean([getattr(record, name) for record in trained]) for name in AVERAGED},
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
