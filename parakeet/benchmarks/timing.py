"""Seconds of pieces of work, taken in rounds, and the memory that they hold."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from parakeet.benchmarks.process import MemorySampler
from parakeet.machine import give_back_freed_memory


@dataclass(frozen=True)
class Sample:
    """Median, least and most, of seconds or of a rate."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> list[float]:
        return [float(f"{value:.6g}") for value in (self.median, self.low, self.high)]


def seconds_of(device: str, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_rounds(works: Mapping[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each work, one sample per round: other load on the machine slows all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            samples[name].append(seconds_of(device, work))
    return samples


def rounds_within(rounds: int, seconds: float, began: float) -> Iterator[int]:
    """Numbers of rounds, from 0, up to `rounds`. After the second none begins `seconds` after `began`, a time of
    `time.perf_counter`, and after the first none half as many seconds later."""
    for number in range(rounds):
        passed = time.perf_counter() - began
        if (number >= 2 and passed > seconds) or (number == 1 and passed > 1.5 * seconds):
            return
        yield number


class PeakMemory:
    """The most memory that this process holds during a `with` block: anonymous on a CPU, allocated on a GPU; in bytes.

    On a CPU the C library keeps some freed memory, and new work would go there unnoticed. What can be given back is
    given back first. So a process should measure its first piece of work only.
    """

    def __init__(self, device: str) -> None:
        self._sampler = MemorySampler() if device == "cpu" else None
        self._before = 0

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self._sampler is None:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        give_back_freed_memory()
        self._before = self._sampler.sample()
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is not None:
            self._sampler.__exit__()

    @property
    def peak(self) -> int:
        if self._sampler is None:
            return int(torch.cuda.max_memory_allocated())
        self._sampler.sample()
        return self._sampler.peak

    @property
    def above(self) -> int:
        """The peak without what was held before."""
        return self.peak - self._before
