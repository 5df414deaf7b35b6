"""Prefill and decode of one model in several precisions, beside the limits of the machine.

Samples are taken in rounds, one of each, so that other load on the machine slows all of them alike.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.benchmarks.timing import Sample, rounds_within, seconds_of
from parakeet.generation.cache import CACHE_DTYPES, Cache
from parakeet.generation.decoder import Decoder
from parakeet.generation.kernels import library
from parakeet.generation.matrices import Arena, DenseMatrix
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

STOCK = "stock bf16"
"""bf16 with torch's own linear for every product, like a model of plain modules: the baseline."""
CONTEXTS = (16, 512, 2048)
"""Tokens in the cache when a step is timed, up to the model's context."""
PREFILL = 512
"""Tokens of a prefill, up to the model's context."""
STEPS = 3
BUFFER_BYTES = 1 << 30
"""Summed to measure the read bandwidth."""
MATRIX, MATRIX_SECONDS = 4096, 1.0
"""Rows and columns of the large matrix product, and the most that one may take."""
PREFILL_SECONDS, SHORT_PREFILL = 5.0, 64
"""The most that a prefill may take before it gets fewer tokens, and the fewest."""
BUDGET = 240.0
"""Seconds after which no third round begins; a second one begins within 360. Ten minutes are then enough for a machine
so busy that a step of the 378M model takes two seconds: each round took three minutes there."""


class StockMatrix(DenseMatrix):
    def product(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.dense.dtype), self.dense)

    def part(self, begin: int, end: int) -> "StockMatrix":
        return StockMatrix(self.dense[begin:end])


def stock(model: Parakeet, device: str) -> Decoder:
    def place(weight: Tensor, arena: Arena) -> StockMatrix:
        return StockMatrix(arena.place(weight, torch.bfloat16))

    return Decoder(model, "bf16", device, compiled=False, make=place)


def products() -> str:
    """Where the products of a step on the CPU come from."""
    return "torch's: no C compiler was found" if library() is None else "Parakeet's, compiled for this processor"


def contexts_of(config: ModelConfig) -> tuple[int, ...]:
    """Those of CONTEXTS that leave room for STEPS steps, or else the longest context that does."""
    most = config.context - STEPS
    return tuple(context for context in CONTEXTS if context <= most) or (most,)


def capacity_of(config: ModelConfig) -> int:
    """Slots of a cache for all that is measured."""
    return max(prefill_of(config), max(contexts_of(config)) + STEPS)


def prefill_of(config: ModelConfig) -> int:
    """Tokens of a prefill that fits the model's context."""
    return min(PREFILL, config.context)


class Variant(NamedTuple):
    """What is measured. Variants may share their weights."""

    decoder: Decoder
    cache: Cache


def filled_cache(decoder: Decoder, capacity: int, dtype: str = "") -> Cache:
    """The decoder's, or one of another dtype, with every slot written.

    Memory that was never written is one page of zeros to the system. Reading it costs nothing: a step at 2,048 tokens
    would look as cheap as one at 512.
    """
    cache = decoder.new_cache(capacity)
    if dtype:
        layers, batch, heads, slots, width = cache.keys.shape
        cache = Cache((layers, batch, heads, slots, width), CACHE_DTYPES[dtype], decoder.device)
    for part in (cache.keys, cache.values, *(cache.scales or ())):
        part.fill_(1)
    return cache


@dataclass(frozen=True)
class Speeds:
    """One variant: seconds per decoded token by context, seconds of a prefill, bytes of weights that a token reads, and
    bytes that it adds to the cache.

    `prefill_tokens` is less than `prefill_of` says where that would take more than PREFILL_SECONDS.
    """

    decode: Mapping[int, Sample]
    prefill: Sample
    prefill_tokens: int
    prefill_flops: float
    bytes_per_token: int
    cache_bytes_per_token: int

    def cache_share(self, context: int) -> float:
        """The part of a token at `context` that it would not take at the shortest one: the cost of the cache."""
        return 1 - self.decode[min(self.decode)].median / self.decode[context].median


@dataclass(frozen=True)
class Measured:
    """Speeds by variant, read bandwidth (bytes/s), rate of large products (FLOP/s) by dtype, and rounds taken."""

    speeds: Mapping[str, Speeds]
    bandwidth: Sample
    matrix_rates: Mapping[str, Sample]
    rounds: int


def measure(
    variants: Mapping[str, Variant], device: str, rounds: int, advance: Callable[[], None], began: float | None = None
) -> Measured:
    """Samples in rounds, no more of which begin BUDGET seconds after `began` (by default now).

    `advance` is called after each of the `rounds` and after the one that warms up.
    """
    began = time.perf_counter() if began is None else began
    buffer = torch.ones(BUFFER_BYTES // 4, device=device)
    config = next(iter(variants.values())).decoder.config
    contexts = contexts_of(config)
    ids = torch.randint(0, config.vocabulary_rows, (prefill_of(config),)).tolist()
    prompts = {name: ids[: _tokens_in_time(variant, ids, device)] for name, variant in variants.items()}
    matrices = {dtype: _matrix(dtype, device) for dtype in ("fp32", "bf16")}

    def sample_all() -> dict[tuple[str, Any], float]:
        found: dict[tuple[str, Any], float] = {("read", ""): seconds_of(device, buffer.sum)}
        for dtype, matrix in matrices.items():
            found["matrix", dtype] = seconds_of(device, partial(F.linear, matrix, matrix))
        for name, (decoder, cache) in variants.items():
            cache.lengths = [0]
            found[name, "prefill"] = seconds_of(device, partial(decoder.prefill, prompts[name], cache))
            for context in contexts:
                cache.lengths = [context]
                steps = seconds_of(device, lambda d=decoder, c=cache: [d.step([1], c) for _ in range(STEPS)])  # type: ignore[misc]
                found[name, context] = steps / STEPS
        advance()
        return found

    sample_all()  # warms up
    taken = [sample_all() for _ in rounds_within(rounds, BUDGET, began)]
    samples = {key: [found[key] for found in taken] for key in taken[0]}
    speeds = {
        name: Speeds(
            decode={context: Sample.of(samples[name, context]) for context in contexts},
            prefill=Sample.of(samples[name, "prefill"]),
            prefill_tokens=len(prompts[name]),
            prefill_flops=forward_flops(decoder, len(prompts[name])),
            bytes_per_token=decoder.bytes_per_token,
            cache_bytes_per_token=cache.n_bytes_per_token,
        )
        for name, (decoder, cache) in variants.items()
    }
    bandwidth = Sample.of([BUFFER_BYTES / seconds for seconds in samples["read", ""]])
    rates = {
        dtype: Sample.of([2 * len(matrix) ** 3 / seconds for seconds in samples["matrix", dtype]])
        for dtype, matrix in matrices.items()
    }
    return Measured(speeds, bandwidth, rates, len(taken))


def affordable_prefill(tokens: int, seconds: float, most: int) -> int:
    """How many tokens a prefill reads in PREFILL_SECONDS, up to `most`, when `tokens` of them take `seconds`.

    Without units for bf16, 512 tokens of the 378M model took 20 s on two cores.
    """
    return min(most, max(tokens, int(tokens * PREFILL_SECONDS / seconds)))


def _tokens_in_time(variant: Variant, ids: list[int], device: str) -> int:
    decoder, cache = variant
    short = ids[:SHORT_PREFILL]
    for _ in range(2):  # the first warms up
        cache.lengths = [0]
        seconds = seconds_of(device, partial(decoder.prefill, short, cache))
    return affordable_prefill(len(short), seconds, len(ids))


def _matrix(dtype: str, device: str) -> Tensor:
    """A square matrix, MATRIX wide or as small as a product with itself needs to take no more than MATRIX_SECONDS."""
    small, size = torch.randn(MATRIX // 8, MATRIX // 8, device=device), MATRIX
    if dtype == "bf16":
        small = small.bfloat16()
    for _ in range(2):
        seconds = seconds_of(device, partial(F.linear, small, small))
    while size > len(small) and seconds * (size / len(small)) ** 3 > MATRIX_SECONDS:
        size //= 2
    return torch.randn(size, size, device=device).to(small.dtype)


def forward_flops(decoder: Decoder, tokens: int) -> float:
    """2 · weights · tokens of a prefill with one row of logits, plus the products of causal attention."""
    c = decoder.config
    body = 2 * 12 * c.layers * c.width**2 * tokens
    attention = 2 * c.layers * c.width * tokens**2
    return float(body + attention + 2 * c.vocabulary_rows * c.width)
