"""What packing leaves empty, what the loader lays out, and what opening a shard copies."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.benchmarks.loader import measure_loader
from parakeet.data.tokens.packing import fill_up, pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.tokenizer import Tokenizer

LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_ROW_TOKENS = 300_000, 100, 1024
"""120 MB of ids: more than caches hold."""


@dataclass(frozen=True)
class Fill:
    """Rows of one length over some documents: the share of their slots that is filled, and targets that are in none."""

    documents: str
    row_tokens: int
    rows: int
    share: float
    lost: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Loading:
    """The loader's tokens a second, and bytes that Arrow allocates to open shards of so many."""

    tokens_per_second: float
    shard_bytes: int
    allocated: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_fill(name: str, lengths: np.ndarray, row_lengths: Sequence[int]) -> Iterator[Fill]:
    """Of documents of so many tokens."""
    targets = int(np.maximum(lengths - 1, 0).sum())
    for row_tokens in row_lengths:
        rows = fill_up(pack(lengths, row_tokens), row_tokens)
        placed = int((rows.length - 1).sum())
        yield Fill(name, row_tokens, len(rows), placed / max(1, len(rows) * row_tokens), targets - placed)


def lengths_of(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of each text as a document, with the one it begins with."""
    return np.array([len(tokenizer.encode_array(text)) + 1 for text in texts], np.int64)


def measure_loading(shards: Path, seconds: float) -> Loading:
    before = pa.total_allocated_bytes()
    opened = TokenShards(shards, "train")
    allocated = pa.total_allocated_bytes() - before
    n_bytes = sum(path.stat().st_size for path in shards.glob("train-*.arrow"))
    del opened
    rate = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_ROW_TOKENS, seconds)
    return Loading(rate, n_bytes, allocated)
