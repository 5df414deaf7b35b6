"""What a run writes down of itself: `metrics.jsonl`, a line a step, and `events.jsonl`. Imports no torch.

A longer run and the decay branches cut from it share one folder. `metrics.jsonl` is the history of the schedule
that `metrics-schedule.json` names, and `metrics-of-<schedule>.jsonl` that of each other one that was trained here.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from io import SEEK_END
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from parakeet.artifact import replace_file, sync_directory, sync_file
from parakeet.progress import Progress
from parakeet.training.job import METRICS_FILE
from parakeet.training.schedule import Schedule

if TYPE_CHECKING:
    from parakeet.training.tensorboard import TensorBoard

EVENTS_FILE = "events.jsonl"
SCHEDULE_FILE = "metrics-schedule.json"
LONGEST_LINE = 2048
"""Bytes of one line of metrics, generously: they take 300 to 400."""

Kind = Literal[
    "started", "resumed", "skipped", "rolled_back", "saved", "save_failed", "validated", "stopped", "finished"
]
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step measured: one line of `metrics.jsonl`.

    `tokens` counts the targets trained on so far, this step's included. `loss` is the step's mean in nats a
    token, `gradient_norm` is from before clipping; neither need be finite where the step was `skipped`, which
    gives the reason. `seconds` is the whole step, `data_seconds` its part spent waiting for data. `mfu` counts
    attention causally, `mfu_palm` as the PaLM paper does; both are None where the card's peak is not known.
    `memory_bytes` is the peak so far. `time` is Unix time, for people: nothing is computed from it.
    """

    step: int
    tokens: int
    loss: float
    gradient_norm: float
    learning_rate: float
    row_tokens: int
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
        """One line without its end. What is not finite becomes null: JSON has no word for it."""
        digits = {"seconds": 6, "data_seconds": 6, "tokens_per_second": 1, "mfu": 4, "mfu_palm": 4, "time": 3}
        values = asdict(self)
        for name in ("skipped", "validation_loss"):
            if values[name] is None:
                del values[name]
        for name, places in digits.items():
            if values[name] is not None:
                values[name] = round(values[name], places)
        return json.dumps({name: _finite(value) for name, value in values.items()})


NUMBERS = tuple(field.name for field in fields(StepRecord) if field.name != "skipped")


class RunLog:
    """The log of the run in folder `run`; whoever writes it holds the run's lock.

    A line that cannot be written (a full disk) ends no training: it is said once, and every later line tries
    again for all that wait. With `tensorboard`, the figures are written for TensorBoard as well; ParakeetError
    if it is not installed. Call `resume` before the first step.
    """

    def __init__(self, run: Path, tensorboard: bool, progress: Progress | None = None) -> None:
        say = (progress or Progress()).say
        self._metrics = _LineFile(run / METRICS_FILE, say)
        self._events = _LineFile(run / EVENTS_FILE, say)
        self._tensorboard = _open_tensorboard(run, say) if tensorboard else None

    def step(self, record: StepRecord) -> None:
        self._metrics.append(record.to_json())
        if self._tensorboard is not None:
            self._tensorboard.step(record)

    def event(self, kind: Kind, step: int, text: str, **more: Any) -> None:
        """Something that happened after `step` steps, in words, with figures in `more`. Never cut back."""
        values = {"time": round(time.time(), 3), "kind": kind, "step": step, "text": text, **more}
        self._events.append(json.dumps({name: _finite(value) for name, value in values.items()}))

    def resume(self, step: int, schedule: Schedule, source: Schedule | None) -> None:
        """Make `metrics.jsonl` the history of a run of `schedule` that goes on after `step`.

        `source` is the schedule of the run that wrote the checkpoint of that step, None for the beginning. The
        history of another schedule is kept, for when it goes on itself. Raises OSError, with nothing lost.
        """
        _take_over(self._metrics.path, step, _name(schedule), None if source is None else _name(source))
        self.cut_back(step)

    def cut_back(self, step: int) -> None:
        """Drop the metrics of the steps after `step`, which will be made again, and half a line at the end."""
        self._metrics.cut_back(step)
        if self._tensorboard is not None:
            self._tensorboard.cut_back()

    def flush(self) -> None:
        """Write what waits and make it durable, so that no checkpoint is ahead of its history if there is room."""
        self._metrics.flush()
        self._events.flush()
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        self.flush()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(path: Path, last: int | None = None) -> Records:
    """One dictionary a step, as `StepRecord` has them; only the `last` ones if that is given.

    Lines that are torn or damaged are passed over, and a file that is not there holds none. `loss` and
    `gradient_norm` are None where they were not finite; runs of older versions have fewer figures.
    """
    records = _read(path, _metrics_record, None if last is None else last * LONGEST_LINE)
    return records if last is None else records[-last:]


def read_events(path: Path) -> Records:
    """What happened to a run, oldest first: time, kind, step, text, and more by kind."""
    return _read(path, _event_record, None)


def _open_tensorboard(run: Path, say: Callable[[str], None]) -> "TensorBoard":
    from parakeet.training.tensorboard import TensorBoard

    return TensorBoard(run, say)


class _LineFile:
    """Appends whole lines to a file that is opened for each (30 µs): were it held open and deleted meanwhile, the
    rest of a long run would go where nobody sees it."""

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

    def cut_back(self, step: int) -> None:
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
            self._say(f"{self.path} is written again, and nothing is missing in it.")

    def _write(self, data: bytes) -> None:
        with self.path.open("a+b", buffering=0) as file:
            end = file.seek(0, SEEK_END)
            if end:
                file.seek(end - 1)
                # A process that was killed while it wrote left half a line.
                data = data if file.read(1) == b"\n" else b"\n" + data
            try:
                _write_whole(file, data)
            except OSError:
                file.truncate(end)
                raise

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._say(
                f"{error.strerror or error} while writing {self.path}. Training goes on, and what could not be written "
                "is tried again with every step: put it right (free space, permissions)."
            )
        self._failing = True


def _write_whole(file: IO[bytes], data: bytes) -> None:
    """A nearly full disk takes a part first, and refuses only the next write."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _take_over(metrics: Path, step: int, mine: str, source: str | None) -> None:
    """Put the history of another schedule aside, and the steps up to `step` of that of `source` in its place.

    A process may be killed between any two lines: while a schedule has a file aside, that file is its history,
    and `metrics.jsonl` is not yet, or no longer.
    """
    run = metrics.parent
    # Folders of older versions do not say whose it is: most likely that of the run that wrote the checkpoint.
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
    """For the names of files: the steps, and a digest, since two that decay differently may have as many."""
    digest = hashlib.sha256(json.dumps(asdict(schedule), sort_keys=True).encode()).hexdigest()
    return f"{schedule.total_steps:08d}-{digest[:8]}"


def _end_of_step(path: Path, step: int) -> int:
    """Bytes up to the end of the last whole line of a step that is not after `step`."""
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
    """Whether a value of a JSON file is a finite number: people can edit those files."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
