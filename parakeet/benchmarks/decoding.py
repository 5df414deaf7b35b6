"""`python -m parakeet.benchmarks.decoding DIRECTORY VARIANT`: what one model does in one precision, as one JSON line.

A process of its own for each, so that the memory it holds at most is its own.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.generation.decoder import Decoder, MatrixMaker
from parakeet.generation.matrices import Arena, DenseMatrix
from parakeet.model.transformer import load_model

STOCK = "stock bf16"
"""bf16 with torch's linear for every product, as a model of plain modules has it: what the others are held against."""
CONTEXTS = (16, 512, 2048)
PREFILL = 512
BUFFER_BYTES = 1 << 30
MATRIX = 4096


class StockMatrix(DenseMatrix):
    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def part(self, begin: int, end: int) -> "StockMatrix":
        return StockMatrix(self.weight[begin:end])


def stock(weight: Tensor, arena: Arena) -> StockMatrix:
    return StockMatrix(arena.place(weight, torch.bfloat16))


def measure(directory: Path, variant: str, device: str, compiled: bool) -> dict[str, Any]:
    """Seconds, bytes and rates of one variant: a dtype of the engine, or STOCK."""
    dtype = "bf16" if variant == STOCK else variant
    make: MatrixMaker | None = stock if variant == STOCK else None
    with PeakMemory() as memory:
        began = time.perf_counter()
        decoder = Decoder(load_model(directory, "cpu"), dtype, device, make)
        load_seconds = time.perf_counter() - began
    held = sum(parameter_bytes(decoder, dtype).values())
    result: dict[str, Any] = {
        "variant": variant,
        "load_seconds": load_seconds,
        "peak_bytes": memory.peak,
        "weight_bytes": held,
        "peak_limit": 1.15 * held + (1 << 29),
        "bytes_per_token": decoder.bytes_per_token,
        "read_bandwidth": read_bandwidth(device),
        "matrix_rate": matrix_rate(decoder.activation_dtype, device),
    }
    if compiled:
        decoder.compile()
        decoder.step([1], decoder.new_cache(16))
    ids = torch.randint(0, decoder.config.vocabulary_rows, (max(CONTEXTS),)).tolist()
    prefill = seconds(partial(read_whole, decoder, ids[:PREFILL]), 5, device)
    result["prefill_seconds"] = prefill
    result["prefill_rate"] = forward_flops(decoder, PREFILL) / prefill
    result["decode_seconds"] = {context: decode_seconds(decoder, context, device) for context in CONTEXTS}
    if variant == "fp32":
        result["recompute_seconds"] = {
            n: seconds(partial(read_whole, decoder, ids[:n]), 3, device) for n in CONTEXTS[1:]
        }
    return result


def read_whole(decoder: Decoder, ids: Sequence[int]) -> None:
    decoder.prefill(ids, decoder.new_cache(len(ids)))


def parameter_bytes(decoder: Decoder, dtype: str) -> dict[str, float]:
    """Bytes of the weights in their precision, each shared one once; norms stay fp32."""
    per_weight = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}[dtype]
    parts = decoder.config.parameters()
    return {name: count * (4.0 if "norm" in name else per_weight) for name, count in parts.items()}


def forward_flops(decoder: Decoder, tokens: int) -> float:
    """2 · weights · tokens of a prefill with one row of logits, and attention's products (causal count)."""
    c = decoder.config
    body = 2 * 12 * c.layers * c.width**2 * tokens
    attention = 2 * c.layers * c.width * tokens**2
    return float(body + attention + 2 * c.vocabulary_rows * c.width)


def decode_seconds(decoder: Decoder, context: int, device: str) -> float:
    """Median seconds of a step with `context` tokens in the cache (whose content does not matter)."""
    cache = decoder.new_cache(context + 32)
    decoder.prefill([1] * 16, cache)

    def step() -> None:
        cache.lengths = [context]
        decoder.step([1], cache)

    return seconds(step, 15, device)


def read_bandwidth(device: str) -> float:
    """Bytes a second of a sum over a buffer of 1 GiB."""
    buffer = torch.ones(BUFFER_BYTES // 4, device=device)
    return BUFFER_BYTES / seconds(buffer.sum, 5, device)


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """FLOPs a second of a square product of 4,096."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device).to(dtype) for _ in range(2))
    return 2 * MATRIX**3 / seconds(lambda: F.linear(a, b), 3, device)


def seconds(work: Callable[[], Any], repeats: int, device: str) -> float:
    """Median, after one run that does not count."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


class PeakMemory:
    """The most anonymous memory that this process held meanwhile, in bytes; 0 where /proc does not say."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(found[0]) if found else 0


if __name__ == "__main__":
    folder, name, where, threads, compile_it = sys.argv[1:]
    if int(threads):
        torch.set_num_threads(int(threads))
    print(json.dumps(measure(Path(folder), name, where, compile_it == "compiled")))
