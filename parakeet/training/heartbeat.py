"""A run's sign of life: a small file that says where it stands, replaced every ten seconds. Imports no torch."""

import contextlib
import json
import math
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_BEATS = 10.0
PREFIX, SUFFIX = "heartbeat-", ".json"


@dataclass(frozen=True)
class Beat:
    """Where run `id` (Dagster's, or the process's own) stood at Unix time `time`."""

    id: str
    process: int
    time: float
    step: int
    total: int
    tokens_per_second: float
    loss: float | None


class Heartbeat:
    """The heartbeat of one process on the run in folder `run`; it holds the run's lock, so no other can be alive.

    A file for each id: with a shared one, the last beat of a process that died is taken for the next one's.
    """

    def __init__(self, run: Path, id: str) -> None:
        self.id = re.sub(r"[^A-Za-z0-9-]+", "-", id)[:64] or "run"
        self._path = run / f"{PREFIX}{self.id}{SUFFIX}"
        self._beaten: float | None = None
        for path in _files(run):
            with contextlib.suppress(OSError):
                path.unlink()

    def beat(self, step: int, total: int, tokens_per_second: float, loss: float | None) -> None:
        """Replace the file, unless that was done less than ten seconds ago by the monotonic clock."""
        now = time.monotonic()
        if self._beaten is not None and now - self._beaten < SECONDS_BETWEEN_BEATS:
            return
        self._beaten = now
        shown = loss if loss is not None and math.isfinite(loss) else None
        beat = Beat(self.id, os.getpid(), time.time(), step, total, round(tokens_per_second, 1), shown)
        temporary = self._path.with_name(f".{self._path.name}")
        # Not synced: it tells nothing after a power cut. Nor said where it fails: the metrics say so.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(asdict(beat)) + "\n", encoding="utf-8")
            temporary.replace(self._path)

    def remove(self) -> None:
        """The process ends in good order."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def read_heartbeats(run: Path) -> list[Beat]:
    """The beats left in a run's folder, newest first; a file that cannot be read is none."""
    beats = [beat for path in _files(run) if (beat := _read(path)) is not None]
    return sorted(beats, key=lambda beat: beat.time, reverse=True)


def age(then: float, now: float) -> str:
    """`just now`, `4 min ago`, `3 h ago`, `12 days ago`. A time ahead of the clock, which was set back, is now."""
    seconds = now - then
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _files(run: Path) -> list[Path]:
    return sorted(run.glob(f"{PREFIX}*{SUFFIX}"))


def _read(path: Path) -> Beat | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        loss = values["loss"]
        return Beat(
            str(values["id"]),
            int(values["process"]),
            float(values["time"]),
            int(values["step"]),
            int(values["total"]),
            float(values["tokens_per_second"]),
            None if loss is None else float(loss),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
