"""`parakeet runs`: the runs as a table, and one of them in full. Imports no torch."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet.progress import brief
from parakeet.training.heartbeat import age
from parakeet.training.job import BEST_FILE, METRICS_FILE
from parakeet.training.metrics import EVENTS_FILE, read_metrics
from parakeet.training.runs import Run, find_run, list_runs, number, one_line, short_keys

UNKNOWN = "–"
LAST_EVENTS = 10
EVENT_WIDTH = 100
"""Characters of an event's text: that of a step left out is as long as the identifiers of its documents."""
LEAST_NEEDED = ("rolled back", "skipped", "saved", "tokens", "model", "tokens/s")
"""Columns that a narrow terminal does without, in this order; `parakeet runs RUN` has them all."""


def render_runs(folder: Path, width: int | None) -> str:
    """A line for each run in `folder`, newest first, `width` columns wide at most where there is a limit."""
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
        lines.append(f"No training run yet in {folder}. Begin one with: parakeet build")
    return "\n".join([*lines, *faults])


def render_run(folder: Path, prefix: str) -> str:
    """Everything about the run whose key begins with `prefix`; ParakeetError where that is none, or several."""
    run = find_run(folder, prefix)
    sections = [
        [f"{run.key}: {run.state}", *_indented(_facts(run))],
        ["Settings", *_indented([[one_line(key), shown(value)] for key, value in run.settings.items()])],
        ["Checkpoints", *_indented(_checkpoints(run))],
        [f"Last {LAST_EVENTS} events, in full in {EVENTS_FILE}", *_indented(_events(run))],
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns two spaces apart; those numbered in `right` end flush."""
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
    """A setting as a person would write it, a digest by its first digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool | None) else f"{value}"
    return one_line(f"{value:_}".replace("_", ",") if type(value) is int else text)


def share(run: Run) -> str:
    return f"{100 * run.step // run.total_steps} %"


def _row(run: Run, key: str) -> dict[str, str]:
    return {
        "run": key,
        "state": run.state,
        "model": run.model,
        "step": f"{run.step:,} of {run.total_steps:,}",
        "done": share(run),
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
        "why": run.note,
        "seen": age(run.seen, time.time()),
        "model": f"{run.parameters:,} parameters" if run.parameters is not None else "",
        "step": f"{run.step:,} of {run.total_steps:,} ({share(run)})",
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
    measured = [saved for saved in run.saved if saved.validation_loss is not None and not saved.other_way]
    return f"{measured[-1].validation_loss:.4f} nats a token at step {measured[-1].step:,}" if measured else ""


def _checkpoints(run: Run) -> list[list[str]]:
    if not run.saved:
        return [["none yet"]]
    best = _best(run)
    rows = [["step", "held out", "", "folder"]]
    for saved in run.saved:
        words = ["stable"] * saved.stable + ["other way"] * saved.other_way + ["best"] * (saved.step == best)
        loss = UNKNOWN if saved.validation_loss is None else f"{saved.validation_loss:.4f}"
        rows.append([f"{saved.step:,}", loss, ", ".join(words), one_line(saved.path.name)])
    lines = table(rows, right=(0, 1))
    if any(saved.stable for saved in run.saved):
        lines.append("A longer run, or a decay, can go on from a stable one.")
    if any(saved.other_way for saved in run.saved):
        lines.append("Another way: of a run of other training.tokens, decay or rows; the present one passes over it.")
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


def _indented(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in table(rows)]
