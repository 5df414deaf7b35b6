"""The data loader alone: tokens a second that it lays out in random order, on one core."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from parakeet.data.tokens.loader import Loader, LoaderState
from parakeet.data.tokens.packing import Plan, pack, plan_file, write_plan
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.tokenizer import Tokenizer, train_tokenizer

BATCH_TOKENS = 65_536
"""Tokens in a batch: a call costs about 0.15 ms whatever it returns, so steps of 512 tokens reach a twelfth of this."""
SHARD_BYTES = 256 << 20


def measure_loader(documents: int, mean_tokens: int, row_tokens: int, seconds: float) -> float:
    """Tokens a second, over `seconds`, of shards that are made for this and gone after it.

    Documents have `mean_tokens` tokens on average (lengths are geometric). They should be more than the processor's
    caches hold, or reading them in random order costs nothing.
    """
    tokenizer = train_tokenizer([], 256)
    with TemporaryDirectory(prefix="parakeet-loader-") as folder:
        directory = Path(folder)
        _write_documents(directory, tokenizer, documents, mean_tokens)
        shards = TokenShards(directory, "train", tokenizer)
        write_plan(directory / plan_file(row_tokens), pack(shards.lengths(), row_tokens))
        loader = Loader(
            shards, Plan(directory, row_tokens), row_tokens, tokenizer.padding, LoaderState("shards", "plan", seed=1)
        )
        return _tokens_per_second(loader, max(1, BATCH_TOKENS // row_tokens), seconds)


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
