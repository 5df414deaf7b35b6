"""Prefill and decode of one model in several precisions, beside the limits of the machine.

Samples are taken in rounds, one of each, so that other load on the machine slows all of them alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.benchmarks.timing import Sample, seconds_of
from parakeet.generation.cache import Cache
from parakeet.generation.decoder import Decoder
from parakeet.generation.matrices import Arena, DenseMatrix
from parakeet.model.config import ModelConfig

STOCK = "stock bf16"
"""bf16 with torch's own linear for every product, like a model of plain modules: the baseline."""
CONTEXTS = (16, 512, 2048)
"""Tokens in the cache when a step is timed, up to the model's context."""
PREFILL = 512
"""Tokens of a prefill, up to the model's context."""
STEPS = 3
BUFFER_BYTES = 1 << 30
"""Summed to measure the read bandwidth."""
MATRIX = 4096
"""Rows and columns of the large matrix product."""


class StockMatrix(DenseMatrix):
    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def part(self, begin: int, end: int) -> "StockMatrix":
        return StockMatrix(self.weight[begin:end])


def stock(weight: Tensor, arena: Arena) -> StockMatrix:
    return StockMatrix(arena.place(weight, torch.bfloat16))


def contexts_of(config: ModelConfig) -> tuple[int, ...]:
    """Those of CONTEXTS that leave room for STEPS steps, or else the longest context that does."""
    most = config.context - STEPS
    return tuple(context for context in CONTEXTS if context <= most) or (most,)


def prefill_of(config: ModelConfig) -> int:
    """Tokens of a prefill that fits the model's context."""
    return min(PREFILL, config.context)


def fill(cache: Cache) -> None:
    """Write every slot. Memory that was never written is one page of zeros to the system: reading it costs nothing, and
    a step at 2,048 tokens would look as cheap as one at 512."""
    for part in vars(cache).values():
        if isinstance(part, Tensor):
            part.fill_(1)


@dataclass(frozen=True)
class Speeds:
    """One variant: seconds per decoded token by context, seconds of a prefill, and bytes read for a token."""

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
    buffer = torch.ones(BUFFER_BYTES // 4, device=device)
    numbers = torch.randn(MATRIX, MATRIX, device=device)
    matrices = {"fp32": numbers, "bf16": numbers.bfloat16()}
    samples: dict[tuple[str, Any], list[float]] = {}
    config = next(iter(decoders.values())).config
    contexts, prefill = contexts_of(config), prefill_of(config)
    caches = {name: decoder.new_cache(max(prefill, max(contexts) + STEPS)) for name, decoder in decoders.items()}
    ids = torch.randint(0, config.vocabulary_rows, (prefill,)).tolist()
    for number in range(rounds + 1):
        taken: dict[tuple[str, Any], float] = {("read", ""): seconds_of(device, buffer.sum)}
        for dtype, matrix in matrices.items():
            taken["matrix", dtype] = seconds_of(device, partial(F.linear, matrix, matrix))
        for name, decoder in decoders.items():
            cache = caches[name]
            cache.lengths = [0]
            taken[name, "prefill"] = seconds_of(device, partial(decoder.prefill, ids, cache))
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
    rates = {dtype: Sample.of([flops / s for s in samples["matrix", dtype]]) for dtype in matrices}
    return speeds, bandwidth, rates


def forward_flops(decoder: Decoder, tokens: int) -> float:
    """2 · weights · tokens of a prefill with one row of logits, plus the products of causal attention."""
    c = decoder.config
    body = 2 * 12 * c.layers * c.width**2 * tokens
    attention = 2 * c.layers * c.width * tokens**2
    return float(body + attention + 2 * c.vocabulary_rows * c.width)
