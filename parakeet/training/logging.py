"""Everything that a run reports while it trains: to its folder, the terminal, TensorBoard and Dagster.

A run and the decay branches cut from it share one folder. `metrics.jsonl` is the history of the schedule named in
`metrics-schedule.json`; each other schedule that was trained here has its own in `metrics-of-<schedule>.jsonl`.
`events.jsonl` is common to all. Imports torch only if TensorBoard is asked for.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from io import SEEK_END
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal

from parakeet.artifact import replace_file, sync_directory, sync_file
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.training.job import METRICS_FILE, TrainingJob
from parakeet.training.schedule import Schedule

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

EVENTS_FILE = "events.jsonl"
SCHEDULE_FILE = "metrics-schedule.json"
LONGEST_LINE = 2048
"""Upper bound for the bytes of a line of metrics; typical are 300 to 400."""

Kind = Literal[
    "started", "resumed", "skipped", "rolled_back", "saved", "save_failed", "validated", "stopped", "finished"
]
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class StepRecord:
    """The measurements of one optimizer step. The fields are the keys of a line of `metrics.jsonl`.

    tokens          targets trained on so far, including this step
    loss            mean of the step, in nats a token; may not be finite if the step was skipped
    gradient_norm   before clipping; may not be finite if the step was skipped
    seconds         the whole step; data_seconds: the part of it spent waiting for data
    mfu, mfu_palm   model FLOPs utilisation with attention counted causally, and as in the PaLM paper; None if the
                    device's peak speed is unknown
    memory_bytes    peak so far
    skipped         the reason if the step was skipped
    time            Unix time, for people: nothing is computed from it
    """

    step: int
    tokens: int
    loss: float
    gradient_norm: float
    learning_rate: float
    sequence_length: int
    seconds: float
    tokens_per_second: float
    data_seconds: float
    mfu: float | None
    mfu_palm: float | None
    memory_bytes: int
    skipped: str | None = None
    validation_loss: float | None = None
    time: float = field(default_factory=time.time)

    def to_json(self) -> str:
        """One line, without a line end. Values that are not finite become null."""
        digits = {"seconds": 6, "data_seconds": 6, "tokens_per_second": 1, "mfu": 4, "mfu_palm": 4, "time": 3}
        values = asdict(self)
        for name in ("skipped", "validation_loss"):
            if values[name] is None:
                del values[name]
        for name, places in digits.items():
            if values[name] is not None:
                values[name] = round(values[name], places)
        return json.dumps({_key(name): _finite(value) for name, value in values.items()})


def _key(name: str) -> str:
    """The key of a field in metrics.jsonl: one keeps the name that it had when the first runs were written."""
    return "row_tokens" if name == "sequence_length" else name


NUMBERS = tuple(_key(field.name) for field in fields(StepRecord) if field.name != "skipped")


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
        reporter.recipe = job.recipe.name
        self._leads = leads
        self._log = RunLog(job.run, progress)
        tensorboard = leads and job.recipe.training.tensorboard
        self._tensorboard = TensorBoardWriter(job.run, progress.say) if tensorboard else None
        self._heartbeat = Heartbeat(job.run, run_id) if leads else None

    def task(self, tokens: int) -> AbstractContextManager[Task]:
        """The progress bar."""
        return self.progress.task("training", tokens, "tokens")

    def step(self, record: StepRecord, total: int) -> None:
        """Log a step that was made, of `total` steps."""
        if not self._leads:
            return
        self._log.step(record)
        self._reporter.metrics(record, total)
        if self._tensorboard is not None:
            self._tensorboard.step(record)
        if self._heartbeat is not None:
            loss = record.loss if record.skipped is None else None
            self._heartbeat.beat(record.step, total, record.tokens_per_second, loss)

    def event(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Write something to the run's log only."""
        if self._leads:
            self._log.event(kind, step, text, **more)

    def report(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Write something to the log and show it in Dagster."""
        self.event(kind, step, text, **more)
        self._reporter.event(text)

    def announce(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Report something, and print it on the terminal."""
        self.progress.say(text)
        self.report(kind, step, text, **more)

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


# --- The history in the run's folder.


class RunLog:
    """Writes the history of the run in folder `run`; whoever writes it holds the run's lock.

    A line that cannot be written (a full disk) does not end training: this is reported once, and every later line
    retries all that are waiting. Call `resume` before the first step.
    """

    def __init__(self, run: Path, progress: Progress | None = None) -> None:
        say = (progress or Progress()).say
        self._metrics = _LineFile(run / METRICS_FILE, say)
        self._events = _LineFile(run / EVENTS_FILE, say)

    def step(self, record: StepRecord) -> None:
        self._metrics.append(record.to_json())

    def event(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Something that happened after `step` steps, in words, with details in `more`. Events are never removed."""
        values = {"time": round(time.time(), 3), "kind": kind, "step": step, "text": text, **more}
        self._events.append(json.dumps({name: _finite(value) for name, value in values.items()}))

    def resume(self, step: int, schedule: Schedule, source: Schedule | None) -> None:
        """Make `metrics.jsonl` the history of a run of `schedule` that continues after `step`.

        `source` is the schedule of the run that wrote the checkpoint of that step, None for the beginning. The
        history of another schedule is set aside until that run continues. Raises OSError, with nothing lost.
        """
        _switch_history(self._metrics.path, step, _name(schedule), None if source is None else _name(source))
        self.truncate(step)

    def truncate(self, step: int) -> None:
        """Remove the metrics of the steps after `step`, which will be repeated, and half a line at the end."""
        self._metrics.truncate(step)

    def flush(self) -> None:
        """Write waiting lines and make the files durable, so that no checkpoint is ahead of its history."""
        self._metrics.flush()
        self._events.flush()


def read_metrics(path: Path, last: int | None = None) -> Records:
    """One dictionary a step, with the fields of `StepRecord`; if `last` is given, only the last ones.

    Damaged lines are ignored; a missing file has no lines. `loss` and `gradient_norm` are None if they were not
    finite. Runs of older versions have fewer fields.
    """
    records = _read(path, _metrics_record, None if last is None else last * LONGEST_LINE)
    return records if last is None else records[-last:]


def read_events(path: Path) -> Records:
    """The events of a run, oldest first: time, kind, step, text, and more depending on the kind."""
    return _read(path, _event_record, None)


class _LineFile:
    """Appends whole lines. The file is opened for each (30 µs): if a file held open were deleted, the rest of a long
    run would be lost with it."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._waiting: list[bytes] = []
        self._failing = False

    def append(self, line: str) -> None:
        self._waiting.append(line.encode() + b"\n")
        self._write_waiting()

    def flush(self) -> None:
        if self._waiting:
            self._write_waiting()
        try:
            if self.path.exists():
                sync_file(self.path)
        except OSError as error:
            self._failed(error)

    def truncate(self, step: int) -> None:
        self._waiting = [line for line in self._waiting if json.loads(line)["step"] <= step]
        if self.path.exists():
            end = _end_of_step(self.path, step)
            if end < self.path.stat().st_size:
                os.truncate(self.path, end)

    def _write_waiting(self) -> None:
        try:
            self._write(b"".join(self._waiting))
        except OSError as error:
            self._failed(error)
            return
        self._waiting.clear()
        if self._failing:
            self._failing = False
            self._say(f"{self.path} is being written again; no line is missing.")

    def _write(self, data: bytes) -> None:
        with self.path.open("a+b", buffering=0) as file:
            end = file.seek(0, SEEK_END)
            if end:
                file.seek(end - 1)
                # End the half line of a process that was killed while it wrote.
                data = data if file.read(1) == b"\n" else b"\n" + data
            try:
                _write_whole(file, data)
            except OSError:
                file.truncate(end)
                raise

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._say(
                f"{error.strerror or error} while writing {self.path}. Training continues, and every step retries the "
                "lines that are missing. Check free space and permissions."
            )
        self._failing = True


def _write_whole(file: IO[bytes], data: bytes) -> None:
    """A nearly full disk accepts a part, and fails only on the next write."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _switch_history(metrics: Path, step: int, mine: str, source: str | None) -> None:
    """Set the history of another schedule aside, and put the steps up to `step` of `source` in its place.

    The process may be killed between any two lines. As long as a schedule has a file set aside, that file is its
    history, and `metrics.jsonl` is not (not yet, or no longer).
    """
    run = metrics.parent
    # Folders of older versions do not name the owner: most likely it is the run that wrote the checkpoint.
    owner = _owner(run) or source or mine
    stale = _aside(run, mine)
    if owner != mine or source not in (mine, None) or stale.exists():
        beginning = run / f".{METRICS_FILE}.beginning"
        try:
            kept = _aside(run, source or mine)
            _copy_beginning(kept if kept.exists() else metrics, step, beginning)
            if owner != mine and metrics.exists() and not _aside(run, owner).exists():
                metrics.rename(_aside(run, owner))
                sync_directory(run)
            beginning.replace(metrics)
        finally:
            beginning.unlink(missing_ok=True)
        sync_directory(run)
    for left in run.glob(f".{SCHEDULE_FILE}.*"):
        left.unlink()
    if _owner(run) != mine:
        replace_file(run / SCHEDULE_FILE, json.dumps({"schedule": mine}) + "\n")
    stale.unlink(missing_ok=True)


def _copy_beginning(history: Path, step: int, target: Path) -> None:
    with target.open("wb") as copy:
        if history.exists():
            with history.open("rb") as file:
                shutil.copyfileobj(file, copy)
            copy.truncate(_end_of_step(history, step))
        copy.flush()
        os.fsync(copy.fileno())


def _owner(run: Path) -> str | None:
    """The schedule whose history `metrics.jsonl` is."""
    try:
        name = json.loads((run / SCHEDULE_FILE).read_text(encoding="utf-8"))["schedule"]
        return name if re.fullmatch(r"\d+-[0-9a-f]{8}", name) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _aside(run: Path, schedule: str) -> Path:
    return run / f"metrics-of-{schedule}.jsonl"


def _name(schedule: Schedule) -> str:
    """A schedule's name in file names: its steps, and a digest, since two with different decays may have as many."""
    # With the key that phases had when the first runs were written, so that their histories keep their names.
    phases = [{"row_tokens": phase.sequence_length, "last_step": phase.last_step} for phase in schedule.phases]
    values = asdict(schedule) | {"phases": phases}
    # What there was at first: linear decays, and batches of one size, which a run cannot change.
    del values["batch_tokens"]
    for key, at_first in (("decay", "linear"), ("growth", ())):
        if values[key] == at_first:
            del values[key]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{schedule.total_steps:08d}-{digest[:8]}"


def _end_of_step(path: Path, step: int) -> int:
    """Length in bytes up to the end of the last whole line that is not after `step`."""
    end = position = 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            record = _metrics_record(line)
            if record is not None and record["step"] > step:
                break
            if record is not None and line.endswith(b"\n"):
                end = position
    return end


def _read(path: Path, parse: Callable[[bytes], dict[str, Any] | None], tail: int | None) -> Records:
    try:
        with path.open("rb") as file:
            if tail is not None and path.stat().st_size > tail:
                file.seek(-tail, SEEK_END)
                file.readline()
            records = [parse(line) for line in file]
    except FileNotFoundError:
        return []
    return [record for record in records if record is not None]


def _metrics_record(line: bytes) -> dict[str, Any] | None:
    values = _object(line)
    known = all(values.get(name) is None or is_number(values[name]) for name in NUMBERS)
    needed = is_count(values.get("step")) and is_count(values.get("tokens")) and is_number(values.get("seconds"))
    return values if known and needed and "loss" in values else None


def _event_record(line: bytes) -> dict[str, Any] | None:
    values = _object(line)
    words = all(isinstance(values.get(name), str) for name in ("kind", "text"))
    return values if words and is_count(values.get("step")) and is_number(values.get("time")) else None


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def is_number(value: object) -> bool:
    """Whether a value from a JSON file, which people can edit, is a finite number."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- The heartbeat: a file in the run's folder for people. The run's lock, not this file, says whether it is alive.

SECONDS_BETWEEN_HEARTBEATS = 10.0


class Heartbeat:
    """Writes the progress of one process, which holds the lock of the run in folder `run`, into a file of its own.

    With a shared file, the last heartbeat of a process that died would be mistaken for the next one's. Files left by
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

SECONDS_BETWEEN_OBSERVATIONS = 30.0
"""Less often than that, a person watches a terminal in vain."""
MOST_OBSERVATIONS = 500
"""Of one training, whatever it takes. Each is 5 kB in Dagster's history; `metrics.jsonl` has every step."""
AVERAGED = ("loss", "gradient_norm", "mfu")
"""Figures that Dagster gets as means over the steps since the last message."""


class DagsterReporter:
    """Sends messages and observations to Dagster through its pipes; without pipes it does nothing.

    Observations are sent at most every 30 s and `MOST_OBSERVATIONS` times in a training, evenly over its steps, as
    means over the steps since the last one. Skipped steps count in no mean. A validation loss is sent once, with the
    next observation. `recipe` is the name of what is trained.
    """

    recipe = ""

    def __init__(self, pipes: "PipesContext | None" = None) -> None:
        self._pipes = pipes
        self._sent: float | None = None
        self._part = -1
        self._records: list[StepRecord] = []

    def metrics(self, record: StepRecord, total: int) -> None:
        """Called for each step, of `total` steps."""
        if self._pipes is None:
            return
        self._records.append(record)
        late = self._sent is None or time.monotonic() - self._sent >= SECONDS_BETWEEN_OBSERVATIONS
        part = record.step * MOST_OBSERVATIONS // max(1, total)
        # After a rollback the part is an earlier one: that is sent too.
        if late and part != self._part:
            self._part = part
            self.send()

    def event(self, text: str) -> None:
        """Something that a person wants to know: a resume, a skipped step, a rollback, a checkpoint."""
        if self._pipes is not None:
            self._pipes.log.info(text)

    def send(self) -> None:
        """Send the steps since the last observation, if there are any."""
        if self._pipes is not None and self._records:
            values = _observation(self._records)
            self._pipes.report_custom_message({"kind": "metrics", "recipe": self.recipe, "values": values})
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
        **{name: mean([getattr(record, name) for record in trained]) for name in AVERAGED},
    }


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
