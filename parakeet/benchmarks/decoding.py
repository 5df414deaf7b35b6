"""Prefill and decode of one model in several precisions, side by side with what the machine can do.

All samples are taken in rounds, one of each: what else the machine is doing then slows all of them alike.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.generation.decoder import Decoder
from parakeet.generation.matrices import Arena, DenseMatrix
from parakeet.model.config import ModelConfig

STOCK = "stock bf16"
"""bf16 with torch's linear for every product, as a model of plain modules has it: what the others are held against."""
CONTEXTS = (16, 512, 2048)
"""Tokens in the cache when a step is timed, as far as the model's context goes."""
PREFILL = 512
"""Tokens of a prefill, likewise."""
RECOMPUTING_ROUNDS = 5
"""At most: the prefix is read anew in each, which takes seconds."""
STEPS = 3
BUFFER_BYTES = 1 << 30
MATRIX = 4096


class StockMatrix(DenseMatrix):
    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def part(self, begin: int, end: int) -> "StockMatrix":
        return StockMatrix(self.weight[begin:end])


def stock(weight: Tensor, arena: Arena) -> StockMatrix:
    return StockMatrix(arena.place(weight, torch.bfloat16))


def contexts_of(config: ModelConfig) -> tuple[int, ...]:
    """Those of CONTEXTS at which a model of this context, 16 tokens or more, can take STEPS steps; one at least."""
    most = config.context - STEPS
    return tuple(context for context in CONTEXTS if context <= most) or (most,)


def prefill_of(config: ModelConfig) -> int:
    """Tokens of a prefill that a model of this context can hold."""
    return min(PREFILL, config.context)


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


@dataclass(frozen=True)
class Speeds:
    """Of one variant: seconds by context of a decoded token, seconds of a prefill, and bytes read for a token."""

    decode: Mapping[int, Sample]
    prefill: Sample
    prefill_tokens: int
    prefill_flops: float
    bytes_per_token: int


def measure(
    decoders: Mapping[str, Decoder], device: str, rounds: int, advance: Callable[[], None]
) -> tuple[dict[str, Speeds], Sample, dict[str, Sample]]:
    """Speeds by variant, read bandwidth (bytes/s), and the rate of large products (FLOP/s) by dtype of activations.

    `advance` is called after each of the `rounds` and after the one that warms up.
    """
    machine = Machine(device)
    samples: dict[tuple[str, Any], list[float]] = {}
    config = next(iter(decoders.values())).config
    contexts, prefill = contexts_of(config), prefill_of(config)
    caches = {name: decoder.new_cache(max(prefill, max(contexts) + STEPS)) for name, decoder in decoders.items()}
    ids = torch.randint(0, config.vocabulary_rows, (prefill,)).tolist()
    for number in range(rounds + 1):
        taken: dict[tuple[str, Any], float] = {("read", ""): machine.read_seconds()}
        taken |= {("matrix", dtype): machine.matrix_seconds(dtype) for dtype in ("fp32", "bf16")}
        for name, decoder in decoders.items():
            cache = caches[name]
            cache.lengths = [0]
            taken[name, "prefill"] = seconds_of(device, lambda d=decoder, c=cache: d.prefill(ids, c))  # type: ignore[misc]
            for context in contexts:
                cache.lengths = [context]
                steps = seconds_of(device, lambda d=decoder, c=cache: [d.step([1], c) for _ in range(STEPS)])  # type: ignore[misc]
                taken[name, context] = steps / STEPS
        if number:  # the first warms up
            for key, seconds in taken.items():
                samples.setdefault(key, []).append(seconds)
        advance()
    speeds = {
        name: Speeds(
            decode={context: Sample.of(samples[name, context]) for context in contexts},
            prefill=Sample.of(samples[name, "prefill"]),
            prefill_tokens=prefill,
            prefill_flops=forward_flops(decoder, prefill),
            bytes_per_token=decoder.bytes_per_token,
        )
        for name, decoder in decoders.items()
    }
    bandwidth = Sample.of([BUFFER_BYTES / seconds for seconds in samples["read", ""]])
    flops = 2 * MATRIX**3
    rates = {dtype: Sample.of([flops / s for s in samples["matrix", dtype]]) for dtype in ("fp32", "bf16")}
    return speeds, bandwidth, rates


def recomputing_seconds(
    decoder: Decoder, device: str, rounds: int, advance: Callable[[], None]
) -> dict[int, tuple[Sample, Sample]]:
    """By context but the first: a token by reading the whole prefix anew, as the original did, and with the cache."""
    result = {}
    for context in contexts_of(decoder.config)[1:]:
        ids = [1] * context
        cache = decoder.new_cache(context + STEPS)
        whole, cached = [], []
        for _ in range(rounds):
            cache.lengths = [0]
            whole.append(seconds_of(device, lambda c=cache, i=ids: decoder.prefill(i, c)))  # type: ignore[misc]
            steps = seconds_of(device, lambda c=cache: [decoder.step([1], c) for _ in range(STEPS)])  # type: ignore[misc]
            cached.append(steps / STEPS)
            advance()
        result[context] = Sample.of(whole), Sample.of(cached)
    return result


def forward_flops(decoder: Decoder, tokens: int) -> float:
    """2 · weights · tokens of a prefill with one row of logits, and attention's products (causal count)."""
    c = decoder.config
    body = 2 * 12 * c.layers * c.width**2 * tokens
    attention = 2 * c.layers * c.width * tokens**2
    return float(body + attention + 2 * c.vocabulary_rows * c.width)


class Machine:
    """What everything is held against."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._buffer = torch.ones(BUFFER_BYTES // 4, device=device)
        numbers = torch.randn(MATRIX, MATRIX, device=device)
        self._matrices = {"fp32": numbers, "bf16": numbers.bfloat16()}

    def read_seconds(self) -> float:
        """To sum a buffer of 1 GiB."""
        return seconds_of(self._device, self._buffer.sum)

    def matrix_seconds(self, dtype: str) -> float:
        """Of a square product of 4,096."""
        matrix = self._matrices[dtype]
        return seconds_of(self._device, lambda: F.linear(matrix, matrix))


def seconds_of(device: str, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began
