"""Building a trace index from token shards, one index shard at a time."""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from parakeet.data.tokens.shards import ranges
from parakeet.errors import ParakeetError
from parakeet.trace.index import KEY_STEP, MANIFEST_FILE, NOWHERE, PADDING, SCHEMA, first_bytes
from parakeet.trace.suffix_array import MOST_TOKENS, TOKEN_BYTES, packed, suffix_array

if TYPE_CHECKING:
    from parakeet.progress import Progress, Task

SHARD_TOKENS = 1 << 26
"""Most tokens of an index shard, unless one document is longer: building needs 16 bytes each, about 1 GiB."""
_PIECE = 1 << 18
"""Tokens that are copied at a time."""


class Documents(Protocol):
    """The documents to index, as `TokenShards` has them. Those of a benchmark are in memory."""

    @property
    def directory(self) -> Path | str: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def vocabulary_rows(self) -> int: ...
    def __len__(self) -> int: ...
    def lengths(self) -> np.ndarray: ...
    def sources(self) -> np.ndarray: ...
    def doc_ids(self) -> np.ndarray: ...
    def doc_id(self, number: int) -> bytes: ...
    def read(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray: ...


def build_index(
    shards: Documents,
    tokenizer: str,
    token_shards: str,
    folder: Path,
    progress: "Progress",
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Write an index of these documents into the empty `folder`. Returns its counts.

    `tokenizer` and `token_shards` are the hashes of what it is made from. Raises ParakeetError before anything is
    written if a document is too long.
    """
    lengths = shards.lengths()
    parts = list(_parts(shards, lengths, shard_tokens))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + 1)])
    ids = shards.doc_ids().astype(">u8").view(np.uint8).reshape(-1, 16)
    id_counts = np.zeros(shards.vocabulary_rows, np.int64)
    for name, array in {
        "document_starts": starts,
        "document_sources": shards.sources().astype(np.uint16),
        "document_ids": ids,
    }.items():
        np.save(folder / f"{name}.npy", array)
    with progress.task("indexing", float(lengths.sum()), "tokens") as task:
        for number, (first, last) in enumerate(parts):
            _write_shard(shards, lengths, first, last, folder, number, id_counts, task)
    np.save(folder / "id_counts.npy", id_counts)
    manifest = {
        "schema": SCHEMA,
        "tokenizer": tokenizer,
        "token_shards": token_shards,
        "rows": shards.vocabulary_rows,
        "tokens": int(lengths.sum()),
        "documents": len(shards),
        "sources": list(shards.names),
        "shards": [{"tokens": int(lengths[a:b].sum()), "documents": b - a} for a, b in parts],
        "builder": f"pydivsufsort {version('pydivsufsort')}",
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return {"tokens": manifest["tokens"], "documents": len(shards), "shards": len(parts)}


def _parts(shards: Documents, lengths: np.ndarray, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """The first document of each index shard, and the one after its last."""
    if len(lengths) and lengths.max() + 1 > MOST_TOKENS:
        number = int(lengths.argmax())
        raise ParakeetError(
            f"{shards.directory}: document {shards.doc_id(number).hex()} has {lengths[number]:,} tokens. The trace "
            f"index takes at most {MOST_TOKENS - 1:,} in one document. Split the document, or set "
            "evaluation.trace_index to false."
        )
    ends = np.cumsum(lengths + 1)
    separators = NOWHERE - shards.vocabulary_rows
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + shard_tokens, side="right"))
        last = min(max(last, first + 1), first + separators)
        yield first, last
        first = last


def _write_shard(
    shards: Documents,
    lengths: np.ndarray,
    first: int,
    last: int,
    folder: Path,
    number: int,
    id_counts: np.ndarray,
    task: "Task",
) -> None:
    """Index the documents from `first` to before `last`, and add their ids to `id_counts`."""
    lengths = lengths[first:last]
    n_tokens = int(lengths.sum())
    entries = n_tokens + len(lengths)
    text = np.zeros(TOKEN_BYTES * entries + PADDING, np.uint8)
    rows = text[: TOKEN_BYTES * entries].reshape(-1, TOKEN_BYTES)
    ends = np.cumsum(lengths + 1)  # entries up to and with the separator of each document
    rows[ends - 1] = packed(shards.vocabulary_rows + np.arange(len(lengths)))
    for documents, starts, taken in _pieces(lengths):
        ids = shards.read(first + documents, starts, taken)
        id_counts += np.bincount(ids, minlength=len(id_counts))
        rows[ranges(ends[documents] - 1 - lengths[documents] + starts, taken)] = packed(ids)
    np.save(folder / f"tokens-{number:05}.npy", text)
    # The separators are greater than all tokens: the suffixes that begin with one stand last.
    positions = suffix_array(text[: TOKEN_BYTES * entries])[:n_tokens]
    np.save(folder / f"positions-{number:05}.npy", positions)
    np.save(folder / f"keys-{number:05}.npy", first_bytes(text, positions[::KEY_STEP].astype(np.int64)))
    task.advance(n_tokens)


def _pieces(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pieces of the documents, at most `_PIECE` tokens together: documents, starts and lengths, (n,) each."""
    ends = np.cumsum(lengths)
    document = 0
    while document < len(lengths):
        before = int(ends[document - 1]) if document else 0
        until = int(np.searchsorted(ends, before + _PIECE, side="right"))
        if until > document:
            documents = np.arange(document, until)
            yield documents, np.zeros_like(documents), lengths[documents]
        else:
            until = document + 1
            for start in range(0, int(lengths[document]), _PIECE):
                taken = min(_PIECE, int(lengths[document]) - start)
                yield np.array([document]), np.array([start]), np.array([taken])
        document = until
