"""`parakeet runs` and `parakeet compare`: reads runs from their folders and shows them. Imports no torch."""

import json
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_count, format_duration, format_percent, render_table
from parakeet.locking import is_held
from parakeet.model.config import WEIGHTS_FILE
from parakeet.names import find_name
from parakeet.pages.charts import save_png
from parakeet.recipe import Packing, Training
from parakeet.sanitise import sanitise
from parakeet.training.curve import draw_comparison, running_mean
from parakeet.training.job import (
    BEST_FILE,
    CHECKPOINT_PATTERN,
    FAILURE_FILE,
    JOB_FILE,
    LAUNCH_LOCK_FILE,
    LOCK_FILE,
    METRICS_FILE,
    SECTIONS,
    STATE_FILE,
    read_job,
)
from parakeet.training.logging import (
    EVENTS_FILE,
    Records,
    is_count,
    is_number,
    last_heartbeat,
    mean,
    read_events,
    read_metrics,
)
from parakeet.training.schedule import Schedule

State = Literal["training", "finished", "stopped", "failed", "refused", "not begun"]
NOT_BEGUN: tuple[State, ...] = ("refused", "not begun")

SCHEDULED = ("tokens", "batch_tokens", "then", "learning_rate", "warmup_steps", "decay_fraction", "decay")
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
    schedule: Schedule
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
        return self.schedule.tokens_until(self.step)

    @property
    def total_tokens(self) -> int:
        return self.schedule.tokens_until(self.total_steps)

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    @property
    def model(self) -> str:
        """`3.02 M`, or `6 × 192` (layers and width) while there is no checkpoint to count parameters in."""
        if self.parameters is not None:
            return format_count(self.parameters)
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
    if not keys:
        raise ParakeetError(f"There is no training run in {folder} yet. Start one with: parakeet build")
    return load_run(folder / find_name(prefix, keys, "run", "parakeet runs"))


def load_run(path: Path) -> Run:
    """Read one run's folder; ParakeetError if its job or one of its files cannot be read."""
    try:
        settings, schedule = _read_job(path / JOB_FILE)
        metrics = read_metrics(path / METRICS_FILE, LAST)
        events = read_events(path / EVENTS_FILE)
        saved = saved_steps(path, schedule)
        step = metrics[-1]["step"] if metrics else max((one.step for one in saved if not one.abandoned), default=0)
        state, note = _state(path, step >= schedule.total_steps, bool(metrics or saved), events)
        return Run(
            path=path,
            settings=settings,
            state=state,
            note=note,
            schedule=schedule,
            step=step,
            targets=metrics[-1]["tokens"] if metrics else 0,
            loss=recent_loss(metrics),
            tokens_per_second=mean_speed(metrics, schedule),
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


def mean_speed(metrics: Records, schedule: Schedule) -> float | None:
    """Tokens a second over the steps of these lines. Lost lines do not change it."""
    seconds = sum(record["seconds"] for record in metrics)
    return sum(schedule.tokens_in(record["step"]) for record in metrics) / seconds if seconds > 0 else None


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number from a file that people can edit, or None."""
    value = values.get(name)
    return float(value) if value is not None and is_number(value) else None


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_job(path: Path) -> tuple[dict[str, Any], Schedule]:
    """Settings by dotted key, and the schedule. A job of an older version may have other keys."""
    try:
        values = read_job(path)
        recipe = values["recipe"]
        digests = {key: values[key] for key in ("shards_content", "plan_digests") if key in values}
        settings = dict(_flat({name: recipe[name] for name in SECTIONS} | digests))
        for key in ("training.tokens", "training.batch_tokens", "model.layers", "model.width"):
            if not is_count(settings[key]) or not settings[key]:
                raise ValueError(f"{key} is {settings[key]!r}")
        return settings, schedule_of(recipe)
    except FileNotFoundError:
        raise ParakeetError(f"{path.parent} is not a training run: it has no {path.name}.") from None
    except KeyError as error:
        raise ParakeetError(f"{path} cannot be read as a job: {error} is missing.") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ParakeetError(f"{path} cannot be read as a job: {reason}.") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ParakeetError(f"{path} cannot be read as a job: {error}.") from None


def schedule_of(recipe: Mapping[str, Any]) -> Schedule:
    """The schedule of a recorded recipe, of this or an older version. Raises KeyError, TypeError or ValueError."""
    return Schedule.from_recipe(
        Training(**_only(recipe["training"], SCHEDULED)), Packing(**_only(recipe["packing"], Packing.model_fields))
    )


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
    text = failure.read_text(encoding="utf-8", errors="replace") if failure.is_file() else ""
    note = " ".join(sanitise(text).split())
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


def saved_steps(run: Path, present: Schedule) -> list[SavedStep]:
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


# --- What is shown of them.

UNKNOWN = "–"
LAST_EVENTS = 10
EVENT_WIDTH = 100
"""Most characters of an event's text: an event written by an older version may name thousands of documents."""
LEAST_NEEDED = ("rolled back", "skipped", "saved", "tokens", "model", "tokens/s")
"""Columns dropped on a narrow terminal, in this order; `parakeet runs RUN` shows them all."""
COMPARED_POINTS = 10


def render_runs(folder: Path, width: int | None) -> str:
    """A line for each run in `folder`, newest first, at most `width` columns wide if that is given."""
    runs, faults = list_runs(folder)
    if not runs and not faults:
        return f"No training run yet in {folder}. Start one with: parakeet build"
    rows = [_row(run, key) for run, key in zip(runs, short_keys(runs), strict=True)]
    columns, table = list(rows[0]) if rows else [], list[str]()
    for unneeded in ("", *LEAST_NEEDED):
        columns = [column for column in columns if column != unneeded]
        head = [column.upper() for column in columns]
        table = render_table(head, [[row[column] for column in columns] for row in rows]).splitlines()
        if width is None or max(map(len, table), default=0) <= width:
            break
    return "\n".join([*table, *faults])


def _row(run: Run, key: str) -> dict[str, str]:
    return {
        "run": key,
        "state": run.state,
        "model": run.model,
        "step": f"{run.step:,} of {run.total_steps:,}",
        "done": format_percent(run.step / run.total_steps, 0),
        "tokens": f"{format_count(run.tokens)} of {format_count(run.total_tokens)}",
        "loss": _figure(run.loss, ".3f"),
        "tokens/s": UNKNOWN if run.tokens_per_second is None else format_count(run.tokens_per_second),
        "saved": _figure(run.last_saved, ","),
        "seen": age(run.seen, time.time()),
        "skipped": f"{run.count('skipped'):,}",
        "rolled back": f"{run.count('rolled_back'):,}",
    }


def render_run(folder: Path, prefix: str) -> str:
    """Everything about the run whose key begins with `prefix`. ParakeetError if there is none, or several."""
    run = find_run(folder, prefix)
    sections = [
        [f"{run.key}: {run.state}", *_indented(_facts(run))],
        ["Settings", *_indented([(key, shown(value)) for key, value in run.settings.items()])],
        ["Checkpoints", *_checkpoints(run)],
        [f"Last {LAST_EVENTS} events, in full in {EVENTS_FILE}", *_indented(_events(run))],
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def shown(value: Any) -> str:
    """A setting as a person would write it; a digest is cut to its first digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    if isinstance(value, list | bool | None):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if type(value) is int else str(value)


def age(then: float, now: float) -> str:
    """`just now`, `4 min ago`, `12 d 3 h ago`. A future time (the clock was set back) is just now."""
    return f"{format_duration(now - then)} ago" if now - then >= 60 else "just now"


def _figure(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _facts(run: Run) -> list[tuple[str, str]]:
    memory = number((read_metrics(run.path / METRICS_FILE, 1) or [{}])[-1], "memory_bytes")
    measured = [saved for saved in run.saved if saved.validation_loss is not None and not saved.abandoned]
    mfu = "unknown" if run.mfu is None else format_percent(run.mfu)
    facts = {
        "folder": str(run.path),
        "reason": run.note,
        "seen": age(run.seen, time.time()),
        "model": f"{run.parameters:,} parameters" if run.parameters is not None else "",
        "step": f"{run.step:,} of {run.total_steps:,} ({format_percent(run.step / run.total_steps, 0)})",
        "tokens": f"{run.tokens:,} of {run.total_tokens:,}",
        "targets": f"{run.targets:,}: tokens learned to predict, without padding and skipped steps",
        "loss": "" if run.loss is None else f"{run.loss:.4f} nats a token, mean of the last {LAST} steps",
        "held-out loss": (
            f"{measured[-1].validation_loss:.4f} nats a token at step {measured[-1].step:,}" if measured else ""
        ),
        "speed": "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f} tokens/s, MFU {mfu}",
        "peak memory": "" if memory is None else format_bytes(memory, 2),
        "skipped": f"{run.count('skipped'):,}",
        "rolled back": f"{run.count('rolled_back'):,}",
    }
    return [(name, fact) for name, fact in facts.items() if fact]


def _checkpoints(run: Run) -> list[str]:
    if not run.saved:
        return ["  none yet"]
    best = _best(run)
    rows = []
    for saved in run.saved:
        words = ["stable"] * saved.stable + ["abandoned"] * saved.abandoned + ["best"] * (saved.step == best)
        rows.append((saved.step, _figure(saved.validation_loss, ".4f"), ", ".join(words), saved.path.name))
    lines = _indented(rows, ("step", "held out", "", "folder"), right=(1,))
    if any(saved.stable for saved in run.saved):
        lines.append("  Stable: a longer run or a decay branch can continue from it.")
    if any(saved.abandoned for saved in run.saved):
        lines.append("  Abandoned: made with other training.tokens, decay or sequence lengths; this run ignores it.")
    return lines


def _best(run: Run) -> int | None:
    try:
        step = json.loads((run.path / BEST_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def _events(run: Run) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (_date(event["time"]), event["kind"], f"step {event['step']:,}", _cut(event["text"]))
        for event in run.events[-LAST_EVENTS:]
    ]
    return rows or [("none",)]


def _cut(text: str) -> str:
    line = " ".join(sanitise(text).split())
    return line if len(line) <= EVENT_WIDTH else f"{line[: EVENT_WIDTH - 1].rstrip()}…"


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def _indented(
    rows: Sequence[Sequence[object]], columns: Sequence[str] | None = None, right: Sequence[int] = ()
) -> list[str]:
    """An indented table, without a head if there are no `columns`."""
    table = render_table(columns or [""] * len(rows[0]), rows, right)
    return [f"  {line}" for line in table.splitlines()]


# --- The same as JSON.


def runs_document(folder: Path) -> dict[str, Any]:
    """The runs in `folder` as JSON values, newest first, and a message for each that cannot be read."""
    runs, faults = list_runs(folder)
    return {"runs": [_values(run) for run in runs], "unreadable": faults}


def run_document(folder: Path, prefix: str) -> dict[str, Any]:
    """One run as JSON values, with settings, checkpoints and every event. ParakeetError as `find_run`."""
    run = find_run(folder, prefix)
    saved = [
        {"path": str(saved.path)}
        | {key: getattr(saved, key) for key in ("step", "validation_loss", "stable", "abandoned")}
        for saved in run.saved
    ]
    return _values(run) | {"settings": dict(run.settings), "checkpoints": saved, "events": list(run.events)}


def _values(run: Run) -> dict[str, Any]:
    """Times are Unix seconds, losses nats a token. What is not known is null."""
    own = ("key", "state", "step", "total_steps", "tokens", "total_tokens", "targets", "loss", "tokens_per_second")
    return {
        **{name: getattr(run, name) for name in (*own, "mfu", "parameters", "last_saved", "seen")},
        "note": run.note or None,
        "skipped": run.count("skipped"),
        "rolled_back": run.count("rolled_back"),
        "folder": str(run.path),
    }


# --- Two of them side by side.


def render_comparison(folder: Path, first: str, second: str, picture: Path | None) -> str:
    """Settings, loss at equal tokens and figures of two runs in `folder`; with `picture`, both curves as a PNG.

    ParakeetError if a prefix names no run or several, both name the same one, or the picture cannot be written.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise ParakeetError(f"{picture}: the picture is a PNG; give a name that ends in .png.")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise ParakeetError(f"{picture}: there is no folder {picture.absolute().parent}.")
    runs = [find_run(folder, prefix) for prefix in (first, second)]
    if runs[0].path == runs[1].path:
        raise ParakeetError(f"{first!r} and {second!r} are the same run, {runs[0].key}: name two runs.")
    names, metrics = short_keys(runs), [read_metrics(run.path / METRICS_FILE) for run in runs]
    sections = [_settings(names, runs), _losses(names, metrics), _results(names, runs, metrics)]
    if picture is not None:
        _draw(dict(zip(names, metrics, strict=True)), picture)
        sections.append([f"{picture}: both curves."])
    return "\n\n".join("\n".join(section) for section in sections)


def _settings(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [shown(run.settings[key]) if key in run.settings else "(none)" for run in runs]
        if values[0] != values[1]:
            rows.append((key, *values))
    if not rows:
        return ["The settings are the same."]
    return ["Settings that differ", *_indented(rows, ("", *names), right=(1, 2))]


def _losses(names: Sequence[str], metrics: Sequence[Records]) -> list[str]:
    title = "Loss at equal tokens (targets), nats a token: running means over a fortieth of the common range"
    end = min(max((record["tokens"] for record in records), default=0) for records in metrics)
    # Both are cut to the same range first: the longer run's running mean would use a wider window.
    (tokens_a, loss_a), (tokens_b, loss_b) = (
        running_mean([record for record in records if record["tokens"] <= end]) for records in metrics
    )
    if not len(tokens_a) or not len(tokens_b):
        return [f"{title}: the runs have none in common."]
    rows = []
    grid = np.linspace(max(tokens_a[0], tokens_b[0]), min(tokens_a[-1], tokens_b[-1]), COMPARED_POINTS)
    for tokens in np.unique(grid.round()):
        a, b = np.interp(tokens, tokens_a, loss_a), np.interp(tokens, tokens_b, loss_b)
        rows.append((format_count(tokens), f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"))
    return [title, *_indented(rows, ("targets", *names, "difference"), right=(0, 1, 2, 3))]


def _results(names: Sequence[str], runs: Sequence[Run], metrics: Sequence[Records]) -> list[str]:
    speeds = [mean_speed(records, run.schedule) for run, records in zip(runs, metrics, strict=True)]
    held_out = [
        [loss for record in records if (loss := number(record, "validation_loss")) is not None] for records in metrics
    ]
    rows = [
        ("state", *(run.state for run in runs)),
        ("model", *(run.model for run in runs)),
        ("steps", *(f"{run.step:,} of {run.total_steps:,}" for run in runs)),
        ("tokens", *(format_count(run.tokens) for run in runs)),
        ("targets", *(format_count(run.targets) for run in runs)),
        ("tokens/s", *(_figure(speed, ",.0f") for speed in speeds)),
        ("time in steps", *(format_duration(sum(record["seconds"] for record in records)) for records in metrics)),
        (f"loss, last {LAST} steps", *(_figure(recent_loss(records), ".4f") for records in metrics)),
        ("held-out loss, last", *(_figure(next(reversed(losses), None), ".4f") for losses in held_out)),
        ("held-out loss, best", *(_figure(min(losses, default=None), ".4f") for losses in held_out)),
    ]
    return ["Results", *_indented(rows, ("", *names), right=(1, 2))]


def _draw(metrics: Mapping[str, Records], picture: Path) -> None:
    """Draw to a temporary file first, so that an existing picture is replaced whole or kept."""
    partial = picture.with_name(f".{picture.name}.partial")
    try:
        save_png(lambda palette: draw_comparison(metrics, palette), partial)
        partial.replace(picture)
    finally:
        partial.unlink(missing_ok=True)
