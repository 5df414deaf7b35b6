"""Which documents are copies of which, and which of them is kept: arithmetic on small columns.

It takes about 140 bytes of memory a document, most of it while the ids are sorted, and 160 bytes more for each document
that has a near duplicate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parakeet.data.documents import read_batches
from parakeet.errors import ParakeetError
from parakeet.recipe import Deduplication


@dataclass(frozen=True)
class DocumentColumns:
    """What the choice needs of every document, in the order of the parts; n documents in all."""

    part_sizes: list[int]
    """Documents in each part."""
    ids: np.ndarray
    """uint64 (n, 2): the doc_id as two big-endian integers."""
    names: list[str]
    """Names of the sources."""
    sources: np.ndarray
    """int64 (n,): index into `names`."""
    characters: np.ndarray
    """int64 (n,): length of the content."""
    held_out: np.ndarray
    """int8 (n,): 1 or 0 if the source asks for it, −1 if it does not."""


@dataclass(frozen=True)
class Choice:
    """What happens to each of n documents."""

    representative: np.ndarray
    """int64 (n,): the document that represents its exact duplicates, possibly itself."""
    kept_by: np.ndarray
    """int64 (n,): the document that is kept of its cluster, possibly itself."""
    held_out: np.ndarray
    """bool (n,): whether its cluster is held out."""

    @property
    def kept(self) -> np.ndarray:
        return self.kept_by == np.arange(len(self.kept_by))

    @property
    def exact(self) -> np.ndarray:
        return self.representative != np.arange(len(self.representative))

    @property
    def near(self) -> np.ndarray:
        return ~self.kept & ~self.exact


def read_columns(paths: Sequence[Path]) -> DocumentColumns:
    """The small columns of all documents, without making a Python object of any text."""
    batches: list[tuple[np.ndarray, ...]] = []
    numbers: dict[str, int] = {}
    sizes = []
    for path in paths:
        read = [_batch_columns(b, numbers) for b in read_batches(path, ("doc_id", "source", "turns", "held_out"))]
        sizes.append(sum(len(columns[1]) for columns in read))
        batches += read
    empty = (np.empty((0, 2), np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int8))
    ids, sources, characters, held_out = (np.concatenate(columns) for columns in zip(empty, *batches, strict=True))
    return DocumentColumns(sizes, ids, list(numbers), sources, characters, held_out)


def _batch_columns(batch: pa.RecordBatch, numbers: dict[str, int]) -> tuple[np.ndarray, ...]:
    """ids, sources, characters and held_out of one batch of b documents. New sources are added to `numbers`."""
    ids = np.frombuffer(b"".join(batch["doc_id"].to_pylist()), ">u8").astype(np.uint64).reshape(-1, 2)
    sources = np.array([numbers.setdefault(name, len(numbers)) for name in batch["source"].to_pylist()], np.int64)
    turns = batch["turns"]
    # (turns,) characters of each turn; (turns + 1,) characters before each turn.
    lengths = pc.utf8_length(turns.flatten().field("content")).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # (b + 1,) first turn of each document. The offsets of a slice do not begin at 0.
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    held_out = pc.fill_null(pc.cast(batch["held_out"], pa.int8()), -1).to_numpy(zero_copy_only=False)
    return ids, sources, before[offsets[1:]] - before[offsets[:-1]], held_out


def exact_representatives(ids: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """int64 (n,): for each document the one of equal id with the highest priority, the first of several."""
    # Equal ids side by side, the one that represents them first.
    order = np.lexsort((np.arange(len(ids)), -priorities, ids[:, 1], ids[:, 0]))
    begins = np.concatenate([[True], (ids[order[1:]] != ids[order[:-1]]).any(axis=1)])
    representative = np.empty(len(ids), np.int64)
    representative[order] = order[begins][np.cumsum(begins) - 1]
    return representative


def searched_for(representative: np.ndarray, searchable: np.ndarray) -> np.ndarray:
    """bool (n,): the representative of each cluster of equals that has a `searchable` (bool, n) member."""
    any_searchable = np.zeros(len(representative), bool)
    any_searchable[representative[searchable]] = True
    return any_searchable


def near_keepers(pairs: Iterable[tuple[int, int]], priorities: np.ndarray, characters: np.ndarray) -> dict[int, int]:
    """For every document in a pair, the one to keep of all documents that pairs connect with it.

    It is the one with the highest priority, then the longest, then the first.
    """
    parents: dict[int, int] = {}

    def root(node: int) -> int:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents[parent]
        return node

    def worth(node: int) -> tuple[int, int, int]:
        return priorities[node], characters[node], -node

    # Union-find. The better root becomes the parent, so a tree's root is always the one to keep.
    for pair in pairs:
        better, worse = sorted((root(pair[0]), root(pair[1])), key=worth, reverse=True)
        parents[worse] = better
    return {node: root(node) for node in list(parents)}


def choose(
    columns: DocumentColumns, representative: np.ndarray, keepers: Mapping[int, int], settings: Deduplication
) -> Choice:
    """Join exact and near clusters, and hold out every cluster that has a held-out member, as a whole.

    If its source does not ask for it, a document is held out if the first 8 bytes of its id, as a fraction of 2^64, are
    below `held_out_fraction`. So it stays held out when other text is added.
    """
    number = len(representative)
    kept_by = kept_for(representative, keepers)
    # All arrays below are (n,). A cluster's properties are kept at the number of its kept document.
    by_hash = columns.ids[:, 0] / 2.0**64 < settings.held_out_fraction
    member = np.where(columns.held_out < 0, by_hash, columns.held_out == 1)
    held_out = np.zeros(number, bool)
    held_out[kept_by[member]] = True
    asked, refused = np.zeros(number, bool), np.zeros(number, bool)
    asked[kept_by[columns.held_out == 1]] = True
    refused[kept_by[columns.held_out == 0]] = True
    for cluster in np.flatnonzero(asked & refused)[:1]:
        sources = sorted({columns.names[source] for source in columns.sources[kept_by == cluster]})
        raise ParakeetError(
            f"Document {int(np.flatnonzero(kept_by == cluster)[0]):,} of the cleaned text (source "
            f"{', '.join(sources)}) is for training, but a copy of it is held out. Change the source so that its "
            "training and held-out documents differ; if they do differ, set near_duplicates: false for it."
        )
    return Choice(representative, kept_by, held_out[kept_by])


def kept_for(representative: np.ndarray, keepers: Mapping[int, int]) -> np.ndarray:
    """int64 (n,): the document that is kept instead of each one: the near keeper of its exact representative."""
    keeper = np.arange(len(representative))
    keeper[list(keepers)] = list(keepers.values())
    kept_by: np.ndarray = keeper[representative]
    return kept_by
