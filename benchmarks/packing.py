"""The slots that packing leaves empty, the speed of the loader, and what opening a shard copies."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.tokens.loader import Loader, LoaderState
from parakeet.data.tokens.packing import PackingPlan, fill_up, pack, plan_file, write_plan
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.tokenizer import Tokenizer, train_tokenizer

LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_ROW_TOKENS = 300_000, 100, 1024
"""120 MB of ids: more than caches hold."""
BATCH_TOKENS = 65_536
"""A call costs about 0.15 ms whatever it returns: with batches of 512 tokens a twelfth of this speed is reached."""
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Fill:
    """Documents packed into sequences of one length: the share of slots filled, and targets that are in no sequence."""

    documents: str
    sequence_length: int
    rows: int
    share: float
    lost: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Loading:
    """The loader's tokens a second, and the bytes that Arrow allocates to open shards of `shard_bytes`."""

    tokens_per_second: float
    shard_bytes: int
    allocated: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_fill(name: str, lengths: np.ndarray, row_lengths: Sequence[int]) -> Iterator[Fill]:
    """For documents of `lengths` tokens."""
    targets = int(np.maximum(lengths - 1, 0).sum())
    for sequence_length in row_lengths:
        rows = fill_up(pack(lengths, sequence_length), sequence_length)
        placed = int((rows.length - 1).sum())
        yield Fill(name, sequence_length, len(rows), placed / max(1, len(rows) * sequence_length), targets - placed)


def lengths_of(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of each text as a document, which starts with one of its own."""
    return np.array([len(tokenizer.encode_array(text)) + 1 for text in texts], np.int64)


def measure_loading(shards: Path, seconds: float) -> Loading:
    before = pa.total_allocated_bytes()
    opened = TokenShards(shards, "train")
    allocated = pa.total_allocated_bytes() - before
    n_bytes = sum(path.stat().st_size for path in shards.glob("train-*.arrow"))
    del opened
    rate = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_ROW_TOKENS, seconds)
    return Loading(rate, n_bytes, allocated)


def measure_loader(documents: int, mean_tokens: int, sequence_length: int, seconds: float) -> float:
    """Tokens a second that the loader lays out in random order on one core, from shards made for this.

    Documents have `mean_tokens` tokens on average (lengths are geometric). Together they should be more than the
    processor's caches hold, or reading them in random order costs nothing.
    """
    tokenizer = train_tokenizer([], 256)
    with TemporaryDirectory(prefix="parakeet-loader-") as folder:
        directory = Path(folder)
        _write_documents(directory, tokenizer, documents, mean_tokens)
        shards = TokenShards(directory, "train", tokenizer)
        write_plan(directory / plan_file(sequence_length), pack(shards.lengths(), sequence_length))
        loader = Loader(
            shards,
            PackingPlan(directory, sequence_length),
            sequence_length,
            tokenizer.padding,
            LoaderState("shards", "plan", seed=1),
        )
        return _tokens_per_second(loader, max(1, BATCH_TOKENS // sequence_length), seconds)


def _write_documents(directory: Path, tokenizer: Tokenizer, documents: int, mean_tokens: int) -> None:
    draw = np.random.default_rng(1)
    lengths = draw.geometric(1 / mean_tokens, documents)
    ids = draw.integers(0, len(tokenizer.defined_ids()), int(lengths.sum()), dtype=np.uint32)
    writer = ShardWriter(directory, "train", tokenizer, ["random"], SHARD_BYTES)
    for number, content in enumerate(np.split(ids, np.cumsum(lengths)[:-1])):
        spans = [0, len(content)]
        writer.write(TokenDocument(number.to_bytes(16, "big"), "random", content, spans, len(content)))
    writer.close()


def _tokens_per_second(loader: Loader, rows: int, seconds: float) -> float:
    loader.next_batch(rows)
    tokens = 0
    began = time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        tokens += int((loader.next_batch(rows).documents >= 0).sum())
    return tokens / taken
