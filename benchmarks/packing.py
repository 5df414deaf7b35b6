"""The slots that packing leaves empty, the speed of the loader, and what opening a shard copies."""

import time
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

BATCH_TOKENS = 65_536
"""A call costs about 0.15 ms whatever it returns: with batches of 512 tokens a twelfth of this speed is reached."""
SHARD_BYTES = 256 << 20


def measure_fill(name: str, lengths: np.ndarray, sequence_length: int) -> dict[str, Any]:
    """Documents of `lengths` tokens in sequences: the share of slots filled, and `lost` targets in no sequence."""
    packed = fill_up(pack(lengths, sequence_length), sequence_length)
    placed = int((packed.length - 1).sum())
    filled = placed / max(1, len(packed) * sequence_length)
    lost = int(np.maximum(lengths - 1, 0).sum()) - placed
    row = {"documents": name, "sequence_length": sequence_length, "sequences": len(packed)}
    return row | {"share": filled, "lost": lost}


def measure_opening(shards: Path) -> dict[str, int]:
    """The size of shards, and the bytes that Arrow allocates to open them."""
    before = pa.total_allocated_bytes()
    opened = TokenShards(shards, "train")
    allocated = pa.total_allocated_bytes() - before
    del opened
    return {"shard_bytes": sum(path.stat().st_size for path in shards.glob("train-*.arrow")), "allocated": allocated}


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
        size = max(1, BATCH_TOKENS // sequence_length)
        loader.next_batch(size)
        tokens = 0
        began = time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            tokens += int((loader.next_batch(size).documents >= 0).sum())
        return tokens / taken


def _write_documents(directory: Path, tokenizer: Tokenizer, documents: int, mean_tokens: int) -> None:
    draw = np.random.default_rng(1)
    lengths = draw.geometric(1 / mean_tokens, documents)
    ids = draw.integers(0, len(tokenizer.defined_ids()), int(lengths.sum()), dtype=np.uint32)
    writer = ShardWriter(directory, "train", tokenizer, ["random"], SHARD_BYTES)
    for number, content in enumerate(np.split(ids, np.cumsum(lengths)[:-1])):
        spans = [0, len(content)]
        writer.write(TokenDocument(number.to_bytes(16, "big"), "random", content, spans, len(content)))
    writer.close()
