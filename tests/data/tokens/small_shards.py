"""Shards written by the real writer from ids that a test chooses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.tokenizer import Tokenizer

Document = tuple[Sequence[int], Sequence[int]]
"""Ids, and the flat loss spans."""


def write_shards(
    directory: Path, tokenizer: Tokenizer, documents: Sequence[Document], shard_bytes: int = 1 << 30
) -> None:
    """Training shards; a file is closed at `shard_bytes`, a record batch at a quarter as many tokens."""
    writer = ShardWriter(directory, "train", tokenizer, ["text"], shard_bytes)
    for number, (ids, spans) in enumerate(documents):
        content = np.array(ids, np.uint32)
        writer.write(TokenDocument(number.to_bytes(16, "big"), "text", content, list(spans), len(content)))
    writer.close()
