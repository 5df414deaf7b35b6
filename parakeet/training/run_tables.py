"""`parakeet runs` and `parakeet compare`: a table of the runs, one run in full, two side by side. Imports no torch."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.progress import brief, clock
from parakeet.training.curve import draw_comparison, running_mean
from parakeet.training.job import BEST_FILE, METRICS_FILE
from parakeet.training.metrics import EVENTS_FILE, Records, read_metrics
from parakeet.training.runs import Run, find_run, list_runs, mean_speed, number, one_line, recent_loss, short_keys

UNKNOWN = "–"
LAST_EVENTS = 10
EVENT_WIDTH = 100
"""Most characters of an event's text: an event written by an older version may name thousands of documents."""
LEAST_NEEDED = ("rolled back", "skipped", "saved", "tokens", "model", "tokens/s")
"""Columns dropped on a narrow terminal, in this order; `parakeet runs RUN` shows them all."""
COMPARED_POINTS = 10
ABSENT = "(none)"


def render_runs(folder: Path, width: int | None) -> str:
    """A line for each run in `folder`, newest first, at most `width` columns wide if that is given."""
    runs, faults = list_runs(folder)
    lines = []
    if runs:
        rows = [_row(run, key) for run, key in zip(runs, short_keys(runs), strict=True)]
        columns = list(rows[0])
        for unneeded in LEAST_NEEDED:
            if width is not None and _width(rows, columns) > width:
                columns.remove(unneeded)
        lines += table([[column.upper() for column in columns], *([row[c] for c in columns] for row in rows)])
    elif not faults:
        lines.append(f"No training run yet in {folder}. Start one with: parakeet build")
    return "\n".join([*lines, *faults])


def render_run(folder: Path, prefix: str) -> str:
    """Everything about the run whose key begins with `prefix`. ParakeetError if there is none, or several."""
    run = find_run(folder, prefix)
    sections = [
        [f"{run.key}: {run.state}", *_indented(_facts(run))],
        ["Settings", *_indented([[one_line(key), shown(value)] for key, value in run.settings.items()])],
        ["Checkpoints", *_indented(_checkpoints(run))],
        [f"Last {LAST_EVENTS} events, in full in {EVENTS_FILE}", *_indented(_events(run))],
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned columns two spaces apart; `right` lists those aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def shown(value: Any) -> str:
    """A setting as a person would write it; a digest is cut to its first digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool | None) else f"{value}"
    return one_line(f"{value:_}".replace("_", ",") if type(value) is int else text)


def age(then: float, now: float) -> str:
    """`just now`, `4 min ago`, `3 h ago`, `12 days ago`. A future time (the clock was set back) is just now."""
    seconds = now - then
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _share(run: Run) -> str:
    return f"{100 * run.step // run.total_steps} %"


def _row(run: Run, key: str) -> dict[str, str]:
    return {
        "run": key,
        "state": run.state,
        "model": run.model,
        "step": f"{run.step:,} of {run.total_steps:,}",
        "done": _share(run),
        "tokens": f"{brief(run.tokens)} of {brief(run.total_tokens)}",
        "loss": UNKNOWN if run.loss is None else f"{run.loss:.3f}",
        "tokens/s": UNKNOWN if run.tokens_per_second is None else brief(run.tokens_per_second),
        "saved": UNKNOWN if run.last_saved is None else f"{run.last_saved:,}",
        "seen": age(run.seen, time.time()),
        "skipped": f"{run.count('skipped'):,}",
        "rolled back": f"{run.count('rolled_back'):,}",
    }


def _width(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> int:
    return sum(2 + max(len(column), *(len(row[column]) for row in rows)) for column in columns) - 2


def _facts(run: Run) -> list[list[str]]:
    last = (read_metrics(run.path / METRICS_FILE, 1) or [{}])[-1]
    memory = number(last, "memory_bytes")
    facts = {
        "folder": str(run.path),
        "reason": run.note,
        "seen": age(run.seen, time.time()),
        "model": f"{run.parameters:,} parameters" if run.parameters is not None else "",
        "step": f"{run.step:,} of {run.total_steps:,} ({_share(run)})",
        "tokens": f"{run.tokens:,} of {run.total_tokens:,}",
        "targets": f"{run.targets:,}: tokens learned to predict, without padding and skipped steps",
        "loss": "" if run.loss is None else f"{run.loss:.4f} nats a token, mean of the last 20 steps",
        "held-out loss": _held_out(run),
        "speed": "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f} tokens/s, MFU {_mfu(run)}",
        "peak memory": "" if memory is None else f"{memory / 2**30:.2f} GiB",
        "skipped": f"{run.count('skipped'):,}",
        "rolled back": f"{run.count('rolled_back'):,}",
    }
    return [[name, one_line(fact)] for name, fact in facts.items() if fact]


def _mfu(run: Run) -> str:
    return "unknown" if run.mfu is None else f"{100 * run.mfu:.1f} %"


def _held_out(run: Run) -> str:
    measured = [saved for saved in run.saved if saved.validation_loss is not None and not saved.abandoned]
    return f"{measured[-1].validation_loss:.4f} nats a token at step {measured[-1].step:,}" if measured else ""


def _checkpoints(run: Run) -> list[list[str]]:
    if not run.saved:
        return [["none yet"]]
    best = _best(run)
    rows = [["step", "held out", "", "folder"]]
    for saved in run.saved:
        words = ["stable"] * saved.stable + ["abandoned"] * saved.abandoned + ["best"] * (saved.step == best)
        loss = UNKNOWN if saved.validation_loss is None else f"{saved.validation_loss:.4f}"
        rows.append([f"{saved.step:,}", loss, ", ".join(words), one_line(saved.path.name)])
    lines = table(rows, right=(0, 1))
    if any(saved.stable for saved in run.saved):
        lines.append("Stable: a longer run or a decay branch can continue from it.")
    if any(saved.abandoned for saved in run.saved):
        lines.append("Abandoned: made with other training.tokens, decay or sequence lengths; this run ignores it.")
    return [[line] for line in lines]


def _best(run: Run) -> int | None:
    try:
        step = json.loads((run.path / BEST_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def _events(run: Run) -> list[list[str]]:
    last = run.events[-LAST_EVENTS:]
    rows = [[_when(e["time"]), one_line(e["kind"]), f"step {e['step']:,}", _cut(one_line(e["text"]))] for e in last]
    return rows or [["none"]]


def _cut(text: str) -> str:
    return text if len(text) <= EVENT_WIDTH else f"{text[: EVENT_WIDTH - 1].rstrip()}…"


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def _indented(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    return [f"  {line}" for line in table(rows, right)]


@dataclass(frozen=True)
class ComparedRun:
    """One of two compared runs, with the short key that the tables show."""

    name: str
    run: Run
    metrics: Records


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
    names = short_keys(runs)
    a, b = (ComparedRun(n, run, read_metrics(run.path / METRICS_FILE)) for n, run in zip(names, runs, strict=True))
    sections = [_settings(a, b), _losses(a, b), _figures(a, b)]
    if picture is not None:
        _draw(a, b, picture)
        sections.append([f"{picture}: both curves."])
    return "\n\n".join("\n".join(section) for section in sections)


def _settings(a: ComparedRun, b: ComparedRun) -> list[str]:
    keys = [*a.run.settings, *(key for key in b.run.settings if key not in a.run.settings)]
    rows = []
    for key in keys:
        values = [shown(side.run.settings[key]) if key in side.run.settings else ABSENT for side in (a, b)]
        if values[0] != values[1]:
            rows.append([one_line(key), *values])
    if not rows:
        return ["The settings are the same."]
    return ["Settings that differ", *_side_by_side(a, b, rows)]


def _losses(a: ComparedRun, b: ComparedRun) -> list[str]:
    title = "Loss at equal tokens (targets), nats a token: running means over a fortieth of the common range"
    end = min(max((record["tokens"] for record in side.metrics), default=0) for side in (a, b))
    # Both are cut to the same range first: the longer run's running mean would use a wider window.
    (tokens_a, loss_a), (tokens_b, loss_b) = (
        running_mean([record for record in side.metrics if record["tokens"] <= end]) for side in (a, b)
    )
    if not len(tokens_a) or not len(tokens_b):
        return [f"{title}: the runs have none in common."]
    rows = [["targets", a.name, b.name, "difference"]]
    grid = np.linspace(max(tokens_a[0], tokens_b[0]), min(tokens_a[-1], tokens_b[-1]), COMPARED_POINTS)
    for tokens in np.unique(grid.round()):
        losses = [np.interp(tokens, tokens_a, loss_a), np.interp(tokens, tokens_b, loss_b)]
        rows.append([brief(tokens), f"{losses[0]:.4f}", f"{losses[1]:.4f}", f"{losses[1] - losses[0]:+.4f}"])
    return [title, *_indented(rows, right=(0, 1, 2, 3))]


def _figures(a: ComparedRun, b: ComparedRun) -> list[str]:
    figures: dict[str, Callable[[ComparedRun], str]] = {
        "state": lambda side: side.run.state,
        "model": lambda side: side.run.model,
        "steps": lambda side: f"{side.run.step:,} of {side.run.total_steps:,}",
        "tokens": lambda side: brief(side.run.tokens),
        "targets": lambda side: brief(side.run.targets),
        "tokens/s": _speed,
        "time in steps": lambda side: clock(sum(record["seconds"] for record in side.metrics)),
        "loss, last 20 steps": lambda side: _loss(recent_loss(side.metrics)),
        "held-out loss, last": lambda side: _loss(next(reversed(_held_out_losses(side)), None)),
        "held-out loss, best": lambda side: _loss(min(_held_out_losses(side), default=None)),
    }
    return ["Results", *_side_by_side(a, b, [[name, of(a), of(b)] for name, of in figures.items()])]


def _speed(side: ComparedRun) -> str:
    speed = mean_speed(side.metrics, side.run.settings["training.batch_tokens"])
    return UNKNOWN if speed is None else f"{speed:,.0f}"


def _held_out_losses(side: ComparedRun) -> list[float]:
    return [loss for record in side.metrics if (loss := number(record, "validation_loss")) is not None]


def _loss(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _side_by_side(a: ComparedRun, b: ComparedRun, rows: Sequence[Sequence[str]]) -> list[str]:
    return _indented([["", a.name, b.name], *rows], right=(1, 2))


def _draw(a: ComparedRun, b: ComparedRun, picture: Path) -> None:
    """Drawn to a temporary file first, so that an existing picture is replaced whole or kept."""
    partial = picture.with_name(f".{picture.name}.partial")
    try:
        draw_comparison({side.name: side.metrics for side in (a, b)}, partial)
        partial.replace(picture)
    finally:
        partial.unlink(missing_ok=True)
