"""The training runs of a home: what each of them is, how far it came, and how it is. Imports no torch."""

import difflib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parakeet.errors import ParakeetError
from parakeet.locking import is_held
from parakeet.model.config import WEIGHTS_FILE
from parakeet.progress import brief
from parakeet.recipe import Training
from parakeet.sanitise import sanitise
from parakeet.training.heartbeat import read_heartbeats
from parakeet.training.job import CHECKPOINT_PATTERN, FAILURE_FILE, JOB_FILE, LOCK_FILE, METRICS_FILE, STATE_FILE
from parakeet.training.launcher import LAUNCH_LOCK_FILE
from parakeet.training.metrics import EVENTS_FILE, Records, is_count, is_number, read_events, read_metrics
from parakeet.training.schedule import Schedule, total_steps

State = Literal["training", "finished", "stopped", "failed"]

NO_SETTINGS = ("run", "output", "tokenizer", "shards", "plan", "try_anyway")
"""Keys of a job that say where its files lie and how it was started."""

LAST = 20
"""Steps over which the latest loss and speed are averaged."""

LIVELY_SECONDS = 60
KEY_DIGITS = 8
LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the format's own limit."""


@dataclass(frozen=True)
class SavedStep:
    """One checkpoint: its folder, and what its `state.json` says. A decay branch can be cut from a stable one."""

    path: Path
    step: int
    validation_loss: float | None
    stable: bool


@dataclass(frozen=True)
class Run:
    """One run's folder as it is now.

    `settings` are its job's by dotted key. `loss`, `tokens_per_second` and `mfu` are means over the last 20
    steps, None where nothing is known. `seen` is the Unix time of its last sign of life. `note` says why it is
    not training, where that is not plain.
    """

    path: Path
    settings: Mapping[str, Any]
    state: State
    note: str
    total_steps: int
    step: int
    tokens: int
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
    def model(self) -> str:
        """`3.02M`, or `6 × 192` (layers and width) where no checkpoint tells the parameters yet."""
        if self.parameters is not None:
            return brief(self.parameters)
        return f"{self.settings['model.layers']} × {self.settings['model.width']}"

    @property
    def last_saved(self) -> int | None:
        """The newest checkpoint's step; those of a longer run in the same folder, which lie ahead, do not count."""
        return max((saved.step for saved in self.saved if saved.step <= self.step), default=None)

    def count(self, kind: str) -> int:
        """How often something happened. What a resumed run did a second time, word for word, counts once."""
        return len({(event["step"], event["text"]) for event in self.events if event["kind"] == kind})


def list_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs in `folder`, the one with the latest sign of life first, and a line for each that cannot be read."""
    runs, faults = [], []
    for path in _run_folders(folder):
        try:
            runs.append(load_run(path))
        except ParakeetError as error:
            faults.append(str(error))
    return sorted(runs, key=lambda run: run.seen, reverse=True), faults


def find_run(folder: Path, prefix: str) -> Run:
    """The run whose key begins with `prefix`; ParakeetError with the candidates if that is none, or several."""
    keys = [path.name for path in _run_folders(folder)]
    found = [key for key in keys if key.startswith(prefix)]
    if len(found) == 1:
        return load_run(folder / found[0])
    if not keys:
        raise ParakeetError(f"There is no training run in {folder} yet. Begin one with: parakeet build")
    if found:
        raise ParakeetError(f"Several runs begin with {prefix!r}: {', '.join(found)}. Give more of the key.")
    close = difflib.get_close_matches(prefix, keys, n=5, cutoff=0.3) or keys[:10]
    raise ParakeetError(f"No run begins with {prefix!r}. There are: {', '.join(close)}. All: parakeet runs")


def load_run(path: Path) -> Run:
    """Read one run's folder; ParakeetError if its job or one of its files cannot be read."""
    try:
        settings, total = _read_job(path / JOB_FILE)
        metrics = read_metrics(path / METRICS_FILE, LAST)
        events = read_events(path / EVENTS_FILE)
        saved = _saved_steps(path)
        step = metrics[-1]["step"] if metrics else max((one.step for one in saved), default=0)
        state, note = _state(path, step >= total, events)
        return Run(
            path=path,
            settings=settings,
            state=state,
            note=note,
            total_steps=total,
            step=step,
            tokens=metrics[-1]["tokens"] if metrics else 0,
            loss=recent_loss(metrics),
            tokens_per_second=_speed(metrics),
            mfu=mean([number(record, "mfu") for record in metrics]),
            seen=_seen(path, metrics, events),
            saved=saved,
            parameters=_parameters(saved),
            events=events,
        )
    except OSError as error:
        raise ParakeetError(f"The run in {path} cannot be read: {error.strerror or error}.") from None


def short_keys(runs: Sequence[Run]) -> list[str]:
    """The first digits of each key: eight, or as many as tell them apart."""
    longest = max((len(run.key) for run in runs), default=KEY_DIGITS)
    for digits in range(KEY_DIGITS, longest):
        short = [run.key[:digits] for run in runs]
        if len(set(short)) == len(short):
            return short
    return [run.key for run in runs]


def recent_loss(metrics: Records) -> float | None:
    """The mean loss of the last 20 steps, those that were skipped left out."""
    return mean([number(record, "loss") for record in metrics[-LAST:] if not record.get("skipped")])


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None: files are read that people can edit."""
    value = values.get(name)
    return float(value) if value is not None and is_number(value) else None


def one_line(text: object) -> str:
    """Text of a file as part of a line of ours."""
    return " ".join(sanitise(str(text)).split())


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_job(path: Path) -> tuple[dict[str, Any], int]:
    """Settings by dotted key, and the steps of the whole run. A job of an older version may have other keys."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(_flat({key: value for key, value in values.items() if key not in NO_SETTINGS}))
        for key in ("training.tokens", "training.batch_tokens", "model.layers", "model.width"):
            if not is_count(settings[key]) or not settings[key]:
                raise ValueError(f"{key} is {settings[key]!r}")
        sizes = {name: settings[f"training.{name}"] for name in ("tokens", "batch_tokens")}
        return settings, total_steps(Training.model_construct(**sizes))
    except FileNotFoundError:
        raise ParakeetError(f"{path.parent} is no training run: it has no {path.name}.") from None
    except KeyError as error:
        raise ParakeetError(f"{path} cannot be read as a job: it does not say {error}.") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ParakeetError(f"{path} cannot be read as a job: {error}.") from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _state(run: Path, complete: bool, events: Records) -> tuple[State, str]:
    if _is_trained_now(run):
        return "training", ""
    kinds = [event["kind"] for event in events if event["kind"] in ("started", "resumed", "stopped", "finished")]
    last = kinds[-1] if kinds else None
    if complete and last in ("finished", None):
        return "finished", ""
    failure = run / FAILURE_FILE
    note = one_line(failure.read_text(encoding="utf-8", errors="replace")) if failure.is_file() else ""
    if last == "stopped" or (last in ("finished", None) and not note):
        return "stopped", note
    silent = "Its process ended without a word: it was killed, or the power went. The same build goes on from here."
    return "failed", note or silent


def _is_trained_now(run: Path) -> bool:
    try:
        return any(is_held(run / name) for name in (LOCK_FILE, LAUNCH_LOCK_FILE))
    except OSError:
        # Another user's run, or a read-only disk: the lock cannot be tried, but the heart can be heard.
        return any(time.time() - beat.time < LIVELY_SECONDS for beat in read_heartbeats(run))


def _seen(run: Path, metrics: Records, events: Records) -> float:
    """The latest time that anything in the folder was said to have happened."""
    times = [beat.time for beat in read_heartbeats(run)]
    times += [event["time"] for event in events[-1:]]
    times += [when for record in metrics[-1:] if (when := number(record, "time")) is not None]
    return max(times, default=(run / JOB_FILE).stat().st_mtime)


def _speed(metrics: Records) -> float | None:
    """Tokens trained on by the time that the steps took, from the first of these to the last."""
    if len(metrics) < 2:
        return mean([number(record, "tokens_per_second") for record in metrics])
    seconds = sum(record["seconds"] for record in metrics[1:])
    return (metrics[-1]["tokens"] - metrics[0]["tokens"]) / seconds if seconds > 0 else None


def _saved_steps(run: Path) -> list[SavedStep]:
    """The checkpoints, oldest first. One that cannot be read is left out: the trainer passes over it too."""
    found = []
    for path in run.glob(CHECKPOINT_PATTERN):
        try:
            values = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            step, loss = int(values["step"]), number(values, "validation_loss")
            found.append(SavedStep(path, step, loss, step <= Schedule.from_values(values["schedule"]).stable_until))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            continue
    return sorted(found, key=lambda saved: saved.step)


def _parameters(saved: Sequence[SavedStep]) -> int | None:
    """Parameters by the shapes in the header of the newest checkpoint's weights; nothing else of it is read."""
    if not saved:
        return None
    try:
        with (saved[-1].path / WEIGHTS_FILE).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
