"""Reads training runs from their folders: settings, progress, state. Imports no torch."""

import difflib
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from parakeet.earlier import with_new_keys
from parakeet.errors import ParakeetError
from parakeet.locking import is_held
from parakeet.model.config import WEIGHTS_FILE
from parakeet.progress import brief
from parakeet.recipe import Packing, Training
from parakeet.sanitise import sanitise
from parakeet.training.job import (
    CHECKPOINT_PATTERN,
    FAILURE_FILE,
    JOB_FILE,
    LAUNCH_LOCK_FILE,
    LOCK_FILE,
    METRICS_FILE,
    STATE_FILE,
)
from parakeet.training.logging import last_heartbeat
from parakeet.training.metrics import EVENTS_FILE, Records, is_count, is_number, read_events, read_metrics
from parakeet.training.schedule import Schedule

State = Literal["training", "finished", "stopped", "failed", "refused", "not begun"]
NOT_BEGUN: tuple[State, ...] = ("refused", "not begun")

NO_SETTINGS = ("run", "output", "tokenizer", "shards", "plan", "try_anyway")
"""Keys of a job that are no settings: where its files are and how it was started."""

SCHEDULED = ("tokens", "batch_tokens", "learning_rate", "warmup_steps", "decay_fraction", "decay")
"""Settings of training that the schedule needs. The others may differ in jobs of older versions."""

LAST = 20
"""Steps over which the latest loss and speed are averaged."""

ALIVE_SECONDS = 60
KEY_DIGITS = 8
LARGEST_HEADER = 100 << 20
"""Most bytes of a safetensors header, by the format's own limit."""


@dataclass(frozen=True)
class SavedStep:
    """One checkpoint, as its `state.json` describes it.

    A longer run or a decay branch can continue from a `stable` one. An `abandoned` one belongs to another schedule
    that was trained in the same folder, and is not an ancestor of the present run.
    """

    path: Path
    step: int
    validation_loss: float | None
    stable: bool
    abandoned: bool


@dataclass(frozen=True)
class Run:
    """One run's folder as it is now.

    settings    of its job, by dotted key
    note        why it is not training, if the state does not say
    targets     tokens it has learned to predict: those of its steps, without padding and skipped steps
    loss, tokens_per_second, mfu    means over the last 20 steps, None if unknown
    seen        Unix time of its last sign of life
    saved       its checkpoints, the abandoned ones last
    """

    path: Path
    settings: Mapping[str, Any]
    state: State
    note: str
    total_steps: int
    step: int
    targets: int
    loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    seen: float
    saved: Sequence[SavedStep]
    parameters: int | None
    events: Records

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def tokens(self) -> int:
        """Tokens of the steps so far, as in the progress bar."""
        return self.step * int(self.settings["training.batch_tokens"])

    @property
    def total_tokens(self) -> int:
        return self.total_steps * int(self.settings["training.batch_tokens"])

    @property
    def model(self) -> str:
        """`3.02M`, or `6 × 192` (layers and width) while there is no checkpoint to count parameters in."""
        if self.parameters is not None:
            return brief(self.parameters)
        return f"{self.settings['model.layers']} × {self.settings['model.width']}"

    @property
    def last_saved(self) -> int | None:
        """The newest checkpoint's step, leaving out abandoned ones and those ahead of the present step."""
        own = [saved.step for saved in self.saved if not saved.abandoned]
        return max((step for step in own if step <= self.step), default=None)

    def count(self, kind: Literal["skipped", "rolled_back"]) -> int:
        """How often that happened on the course to the present step, as the trainer counts it.

        A resume takes back what came after its checkpoint: it is repeated, or belonged to another schedule.
        """
        standing: list[tuple[int, str]] = []
        for event in self.events:
            step, what = event["step"], event["kind"]
            if what == "started":
                standing = []
            elif what == "resumed":
                standing = [(at, each) for at, each in standing if at <= step]
            elif what in ("skipped", "rolled_back"):
                standing.append((step, what))
            if what == "rolled_back" and is_count(event.get("to")):
                # A rollback takes nothing back: the counts in later checkpoints include all of it.
                standing = [(min(at, event["to"] + 1), each) for at, each in standing]
        return sum(each == kind for _, each in standing)


def list_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs in `folder`, and a message for each that cannot be read.

    The one with the latest sign of life comes first; runs that have not begun come last.
    """
    runs, faults = [], []
    for path in _run_folders(folder):
        try:
            runs.append(load_run(path))
        except ParakeetError as error:
            faults.append(str(error))
    return sorted(runs, key=lambda run: (run.state in NOT_BEGUN, -run.seen)), faults


def find_run(folder: Path, prefix: str) -> Run:
    """The run whose key begins with `prefix`. ParakeetError with the candidates if there is none, or several."""
    keys = [path.name for path in _run_folders(folder)]
    found = [key for key in keys if key.startswith(prefix)]
    if len(found) == 1:
        return load_run(folder / found[0])
    if not keys:
        raise ParakeetError(f"There is no training run in {folder} yet. Start one with: parakeet build")
    if found:
        raise ParakeetError(f"Several runs begin with {prefix!r}: {', '.join(found)}. Give more digits of the key.")
    close = difflib.get_close_matches(prefix, keys, n=5, cutoff=0.3) or keys[:10]
    raise ParakeetError(f"No run begins with {prefix!r}. There are: {', '.join(close)}. All: parakeet runs")


def load_run(path: Path) -> Run:
    """Read one run's folder; ParakeetError if its job or one of its files cannot be read."""
    try:
        settings, schedule = _read_job(path / JOB_FILE)
        metrics = read_metrics(path / METRICS_FILE, LAST)
        events = read_events(path / EVENTS_FILE)
        saved = _saved_steps(path, schedule)
        step = metrics[-1]["step"] if metrics else max((one.step for one in saved if not one.abandoned), default=0)
        state, note = _state(path, step >= schedule.total_steps, bool(metrics or saved), events)
        return Run(
            path=path,
            settings=settings,
            state=state,
            note=note,
            total_steps=schedule.total_steps,
            step=step,
            targets=metrics[-1]["tokens"] if metrics else 0,
            loss=recent_loss(metrics),
            tokens_per_second=mean_speed(metrics, settings["training.batch_tokens"]),
            mfu=mean([number(record, "mfu") for record in metrics]),
            seen=_seen(path, metrics, events),
            saved=saved,
            parameters=_parameters(saved),
            events=events,
        )
    except OSError as error:
        raise ParakeetError(f"The run in {path} cannot be read: {error.strerror or error}.") from None


def short_keys(runs: Sequence[Run]) -> list[str]:
    """The first digits of each key: eight, or as many as needed to tell them apart."""
    longest = max((len(run.key) for run in runs), default=KEY_DIGITS)
    for digits in range(KEY_DIGITS, longest):
        short = [run.key[:digits] for run in runs]
        if len(set(short)) == len(short):
            return short
    return [run.key for run in runs]


def recent_loss(metrics: Records) -> float | None:
    """The mean loss of the last 20 steps, without skipped ones."""
    return mean([number(record, "loss") for record in metrics[-LAST:] if not record.get("skipped")])


def mean_speed(metrics: Records, batch_tokens: int) -> float | None:
    """Tokens a second over the steps of these lines. Lost lines do not change it."""
    seconds = sum(record["seconds"] for record in metrics)
    return len(metrics) * batch_tokens / seconds if seconds > 0 else None


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number from a file that people can edit, or None."""
    value = values.get(name)
    return float(value) if value is not None and is_number(value) else None


def one_line(text: object) -> str:
    """Text from a file, made safe to print as part of one line."""
    return " ".join(sanitise(str(text)).split())


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_job(path: Path) -> tuple[dict[str, Any], Schedule]:
    """Settings by dotted key, and the schedule. A job of an older version may have other keys."""
    try:
        values = with_new_keys(json.loads(path.read_text(encoding="utf-8")))
        settings = dict(_flat({key: value for key, value in values.items() if key not in NO_SETTINGS}))
        for key in ("training.tokens", "training.batch_tokens", "model.layers", "model.width"):
            if not is_count(settings[key]) or not settings[key]:
                raise ValueError(f"{key} is {settings[key]!r}")
        return settings, Schedule.from_recipe(
            Training(**_only(values["training"], SCHEDULED)), Packing(**_only(values["packing"], Packing.model_fields))
        )
    except FileNotFoundError:
        raise ParakeetError(f"{path.parent} is no training run: it has no {path.name}.") from None
    except KeyError as error:
        raise ParakeetError(f"{path} cannot be read as a job: {error} is missing.") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise ParakeetError(f"{path} cannot be read as a job: {reason}.") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ParakeetError(f"{path} cannot be read as a job: {error}.") from None


def _only(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _state(run: Path, complete: bool, has_work: bool, events: Records) -> tuple[State, str]:
    if _is_trained_now(run):
        return "training", ""
    kinds = [event["kind"] for event in events if event["kind"] in ("started", "resumed", "stopped", "finished")]
    last = kinds[-1] if kinds else None
    if complete and last in ("finished", None):
        return "finished", ""
    failure = run / FAILURE_FILE
    note = one_line(failure.read_text(encoding="utf-8", errors="replace")) if failure.is_file() else ""
    if last is None and not has_work:
        return "refused" if note else "not begun", note
    if last == "stopped" or (last in ("finished", None) and not note):
        return "stopped", note
    silent = "Its process left no message: it was killed, or the power failed. The same build continues from here."
    return "failed", note or silent


def _is_trained_now(run: Path) -> bool:
    try:
        return any(is_held(run / name) for name in (LOCK_FILE, LAUNCH_LOCK_FILE))
    except OSError:
        # Another user's run, or a read-only disk: the lock cannot be tried, but the heartbeat can be read.
        return time.time() - (last_heartbeat(run) or 0.0) < ALIVE_SECONDS


def _seen(run: Path, metrics: Records, events: Records) -> float:
    """The latest time that a file in the folder reports."""
    times = [last_heartbeat(run), *(event["time"] for event in events[-1:])]
    times += [number(record, "time") for record in metrics[-1:]]
    return max((seen for seen in times if seen is not None), default=(run / JOB_FILE).stat().st_mtime)


def _saved_steps(run: Path, present: Schedule) -> list[SavedStep]:
    """The checkpoints, oldest first, then those abandoned by the `present` schedule.

    Unreadable ones are left out: the trainer ignores them too.
    """
    found = []
    for path in run.glob(CHECKPOINT_PATTERN):
        try:
            values = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            step, loss = int(values["step"]), number(values, "validation_loss")
            schedule = Schedule.from_values(values["schedule"])
            shared = present.shares_past(step, schedule)
            found.append(SavedStep(path, step, loss, shared and step <= schedule.stable_until, not shared))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            continue
    return sorted(found, key=lambda saved: (saved.abandoned, saved.step))


def _parameters(saved: Sequence[SavedStep]) -> int | None:
    """Number of parameters, from the shapes in the header of a checkpoint's weights; all checkpoints have the same."""
    if not saved:
        return None
    try:
        with (saved[-1].path / WEIGHTS_FILE).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
