"""Times of several pieces of work, taken in rounds, and what they take of memory."""

import ctypes
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from parakeet.benchmarks.decoding import seconds_of

_PROCESS = Path("/proc/self")


def in_rounds(works: Mapping[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one sample a round: what else the machine is doing slows all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            samples[name].append(seconds_of(device, work))
    return samples


class PeakMeter:
    """The most memory that was held at once since it was made: resident on a CPU, allocated on a card; in bytes.

    On a CPU it lowers the high-water mark of the resident memory, as Linux does on request. What is free but kept by
    the C library would take in new work unseen: it is given back first. The gaps between what is in use cannot be, so
    a process tells truly of its first piece of work only.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device != "cpu"
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before: int | None = torch.cuda.memory_allocated()
        else:
            self._before = lower_mark(_PROCESS)

    @property
    def peak(self) -> int | None:
        """None where the system does not say."""
        if self._before is None:
            return None
        return torch.cuda.max_memory_allocated() if self._cuda else _resident(_PROCESS, "VmHWM")

    @property
    def above(self) -> int | None:
        """The peak without what was held when the meter was made."""
        peak = self.peak
        return None if peak is None or self._before is None else peak - self._before


def lower_mark(process: Path) -> int | None:
    """Let the high-water mark of this process's memory be what it holds now: those bytes.

    None where the system has no such mark. process: its folder under /proc.
    """
    clear = process / "clear_refs"
    if not clear.exists():
        return None  # no Linux: on Windows CDLL(None) is a TypeError
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    try:
        clear.write_text("5", encoding="ascii")
        return _resident(process, "VmRSS")
    except OSError:
        return None


def _resident(process: Path, name: str) -> int:
    status = (process / "status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(lines[name].split()[0])
