"""Which documents are copies of which, and which of them is kept: arithmetic on small columns.

What is held in memory is about 140 bytes a document, most of it while the ids are sorted, and 160 bytes more for each
document that has a near duplicate.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parakeet.data.deduplication.exchanges import exchanges_of
from parakeet.data.documents import megabytes, normalised, read_part
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Deduplication


@dataclass(frozen=True)
class Columns:
    """What the search needs of every document, in the order of the parts; n documents in all."""

    part_sizes: list[int]
    """Documents in each part."""
    ids: np.ndarray
    """uint64 (n, 2): the doc_id as two big-endian integers."""
    names: list[str]
    """Names of the sources."""
    sources: np.ndarray
    """int64 (n): index into `names`."""
    characters: np.ndarray
    """int64 (n): length of the content."""
    held_out: np.ndarray
    """int8 (n): 1 or 0 where the metadata says whether a document is held out, -1 where it does not."""


@dataclass(frozen=True)
class Choice:
    """What becomes of every document."""

    representative: np.ndarray
    """int64 (n): the document that stands for its exact duplicates; itself where it is that one."""
    kept_by: np.ndarray
    """int64 (n): the document that is kept of the cluster; itself where it is that one."""
    held_out: np.ndarray
    """bool (n): whether the cluster is held out."""

    @property
    def kept(self) -> np.ndarray:
        return self.kept_by == np.arange(len(self.kept_by))

    @property
    def exact(self) -> np.ndarray:
        return self.representative != np.arange(len(self.representative))

    @property
    def near(self) -> np.ndarray:
        return ~self.kept & ~self.exact


def read_columns(paths: Sequence[Path]) -> Columns:
    """The small columns of all documents, without making a Python object of any text."""
    batches: list[tuple[np.ndarray, ...]] = []
    numbers: dict[str, int] = {}
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["doc_id", "source", "turns", "metadata"], use_threads=False)
                batches += [_batch_columns(batch, numbers) for batch in table.to_batches()]
    empty = (np.empty((0, 2), np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int8))
    ids, sources, characters, held_out = (np.concatenate(columns) for columns in zip(empty, *batches, strict=True))
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    return Columns(sizes, ids, list(numbers), sources, characters, held_out)


def _batch_columns(batch: pa.RecordBatch, numbers: dict[str, int]) -> tuple[np.ndarray, ...]:
    """ids, sources, characters and held_out of one batch; new sources are added to `numbers`."""
    ids = np.frombuffer(b"".join(batch["doc_id"].to_pylist()), ">u8").astype(np.uint64).reshape(-1, 2)
    sources = np.array([numbers.setdefault(name, len(numbers)) for name in batch["source"].to_pylist()])
    turns = batch["turns"]
    lengths = pc.utf8_length(turns.flatten().field("content")).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    held_out = np.full(len(batch), -1, np.int8)
    for row in np.flatnonzero(pc.match_substring(batch["metadata"], '"held_out"').to_numpy(zero_copy_only=False)):
        value = json.loads(batch["metadata"][int(row)].as_py()).get("held_out")
        held_out[row] = -1 if value is None else bool(value)
    return ids, sources, ends[offsets[1:]] - ends[offsets[:-1]], held_out


def exact_representatives(ids: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """For each of n documents the one of equal id with the highest priority, of those the first: int64 (n)."""
    order = np.lexsort((np.arange(len(ids)), -priorities, ids[:, 1], ids[:, 0]))
    begins = np.concatenate([[True], (ids[order[1:]] != ids[order[:-1]]).any(axis=1)])
    representative = np.empty(len(ids), np.int64)
    representative[order] = order[begins][np.cumsum(begins) - 1]
    return representative


def searched_for(representative: np.ndarray, searchable: np.ndarray) -> np.ndarray:
    """bool (n): one of each cluster of equals of which any is `searchable` (bool, n), whichever stands for it."""
    any_searchable = np.zeros(len(representative), bool)
    any_searchable[representative[searchable]] = True
    return any_searchable


def near_keepers(pairs: Iterable[tuple[int, int]], priorities: np.ndarray, characters: np.ndarray) -> dict[int, int]:
    """For every document in a pair the one that is kept of all that pairs connect.

    That is the one with the highest priority, of those the longest, of those the first.
    """
    parents: dict[int, int] = {}

    def root(node: int) -> int:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents[parent]
        return node

    def worth(node: int) -> tuple[int, int, int]:
        return priorities[node], characters[node], -node

    # The better root becomes the parent, so that a tree's root is always the one to keep.
    for pair in pairs:
        better, worse = sorted((root(pair[0]), root(pair[1])), key=worth, reverse=True)
        parents[worse] = better
    return {node: root(node) for node in list(parents)}


def choose(columns: Columns, representative: np.ndarray, keepers: Mapping[int, int], settings: Deduplication) -> Choice:
    """Join exact and near clusters, and hold out whole every cluster that has a held-out member.

    A document without a word on it in its metadata is held out where the first 8 bytes of its id, as a fraction of
    2^64, lie below `held_out_fraction`: it stays held out when other text is added.
    """
    number = len(representative)
    keeper = np.arange(number)
    keeper[list(keepers)] = list(keepers.values())
    kept_by = keeper[representative]
    by_hash = columns.ids[:, 0] / 2.0**64 < settings.held_out_fraction
    member = np.where(columns.held_out < 0, by_hash, columns.held_out == 1)
    held_out = np.zeros(number, bool)
    held_out[kept_by[member]] = True
    said_so, said_not = np.zeros(number, bool), np.zeros(number, bool)
    said_so[kept_by[columns.held_out == 1]] = True
    said_not[kept_by[columns.held_out == 0]] = True
    for cluster in np.flatnonzero(said_so & said_not)[:1]:
        sources = sorted({columns.names[source] for source in columns.sources[kept_by == cluster]})
        raise ParakeetError(
            f"Document {int(np.flatnonzero(kept_by == cluster)[0]):,} of the cleaned text (source "
            f"{', '.join(sources)}) is for training, but a copy of it is held out to measure with. Change the source "
            "so that its training and held-out documents differ, or set near_duplicates: false for it if they do."
        )
    return Choice(representative, kept_by, held_out[kept_by])


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of the conversations that are kept, in the order of the parts; m of them."""

    part_sizes: list[int]
    """Exchanges in each part."""
    ids: np.ndarray
    """uint64 (m, 2): hash of the normalised question and reply."""
    documents: np.ndarray
    """int64 (m): number of the document that each stands in."""
    characters: np.ndarray
    """int64 (m): length of question and reply."""


def read_exchanges(paths: Sequence[Path], kept: np.ndarray, progress: Progress) -> Exchanges:
    """Exchanges of the documents that `kept` (bool, n) marks; about 80 bytes of memory each."""
    sizes, ids, documents, characters = [], bytearray(), array("q"), array("q")
    number = 0
    with progress.task("exchanges", megabytes(paths), "MB") as task:
        for path in paths:
            before = len(documents)
            for document in read_part(path):
                for text in exchanges_of(document) if kept[number] else ():
                    ids += hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()
                    documents.append(number)
                    characters.append(len(text))
                number += 1
            sizes.append(len(documents) - before)
            task.advance(megabytes([path]))
    return Exchanges(
        sizes,
        np.frombuffer(bytes(ids), ">u8").astype(np.uint64).reshape(-1, 2),
        np.array(documents, np.int64),
        np.array(characters, np.int64),
    )


def choose_exchanges(representative: np.ndarray, keepers: Mapping[int, int]) -> np.ndarray:
    """bool (m): the exchanges that another one stands for, exactly (`representative`) or nearly (`keepers`)."""
    keeper = np.arange(len(representative))
    keeper[list(keepers)] = list(keepers.values())
    repeated: np.ndarray = keeper[representative] != np.arange(len(representative))
    return repeated
