"""Which documents are copies of which, and which of them is kept: arithmetic on small columns.

It takes about 140 bytes of memory a document, most of it while the ids are sorted, and 180 bytes more for each document
that has a near duplicate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

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
    ranks: np.ndarray
    """int64 (n,): place among all documents by id and text, so that a choice does not depend on the order of files."""
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
    types = ((0, 2), np.uint64), (0, np.uint64), (0, np.int64), (0, np.int64), (0, np.int8)
    empty = tuple(np.empty(shape, kind) for shape, kind in types)
    joined = (np.concatenate(columns) for columns in zip(empty, *batches, strict=True))
    ids, texts, sources, characters, held_out = joined
    return DocumentColumns(sizes, ids, ranked(ids, texts), list(numbers), sources, characters, held_out)


def _batch_columns(batch: pa.RecordBatch, numbers: dict[str, int]) -> tuple[np.ndarray, ...]:
    """ids, hashes of the text, sources, characters and held_out of b documents. New sources are added to `numbers`."""
    ids = np.frombuffer(b"".join(batch["doc_id"].to_pylist()), ">u8").astype(np.uint64).reshape(-1, 2)
    sources = np.array([numbers.setdefault(name, len(numbers)) for name in batch["source"].to_pylist()], np.int64)
    turns = batch["turns"]
    # (turns,) characters of each turn; (turns + 1,) characters before each turn.
    lengths = pc.utf8_length(turns.flatten().field("content")).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # (b + 1,) first turn of each document. The offsets of a slice do not begin at 0.
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    held_out = pc.fill_null(pc.cast(batch["held_out"], pa.int8()), -1).to_numpy(zero_copy_only=False)
    texts = _text_hashes(turns.flatten().field("content"), offsets)
    return ids, texts, sources, before[offsets[1:]] - before[offsets[:-1]], held_out


def _text_hashes(contents: pa.StringArray, offsets: np.ndarray) -> np.ndarray:
    """uint64 (b,): a hash of the content of the turns from offsets[d] to offsets[d + 1], for each document d of b."""
    _, ends, data = contents.buffers()
    # (turns + 1,) where each content begins in the bytes of all.
    places = np.frombuffer(ends, np.int32)[contents.offset : contents.offset + len(contents) + 1][offsets].tolist()
    view = memoryview(data) if data is not None else memoryview(b"")
    return np.array([xxhash.xxh3_64_intdigest(view[a:b]) for a, b in pairwise(places)], np.uint64)


def ranked(ids: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """int64 (n,): the place of each document among all by `ids` (n, 2), then `texts` (n,), then the order given."""
    return places_of(np.lexsort((texts, ids[:, 1], ids[:, 0])))


def places_of(order: np.ndarray) -> np.ndarray:
    """int64 (n,): the place of each number in a permutation (n,) of them."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def exact_representatives(ids: np.ndarray, priorities: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """int64 (n,): for each document the one of equal id with the highest priority, of several the lowest rank."""
    # Equal ids side by side, the one that represents them first.
    order = np.lexsort((ranks, -priorities, ids[:, 1], ids[:, 0]))
    begins = np.concatenate([[True], (ids[order[1:]] != ids[order[:-1]]).any(axis=1)])
    representative = np.empty(len(ids), np.int64)
    representative[order] = order[begins][np.cumsum(begins) - 1]
    return representative


def searched_for(representative: np.ndarray, searchable: np.ndarray) -> np.ndarray:
    """bool (n,): the representative of each cluster of equals that has a `searchable` (bool, n) member."""
    any_searchable = np.zeros(len(representative), bool)
    any_searchable[representative[searchable]] = True
    return any_searchable


def near_keepers(
    buckets: Iterable[np.ndarray], priorities: np.ndarray, characters: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The documents with a near duplicate, and for each the one to keep, possibly itself; int64 (m,) both.

    `buckets` are the arrays of `NearDuplicateSearch.pairs`: documents share a signature in a bucket if pairs connect
    them there. From the best document to the worst, a document is dropped if it shares a signature with a kept one, and
    else kept. So every dropped document is a near duplicate of the one that is kept for it, which a chain of pairs does
    not make it. The best has the highest priority, then is the longest, then has the lowest rank.
    """
    # Half the memory of int64, and documents are far fewer than 2^31.
    documents, signatures = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    n_signatures = 0
    for pairs in buckets:
        if not len(pairs):
            continue
        # (pairs,) where another signature begins: the pairs of one are a chain.
        begins = np.concatenate([[True], pairs[1:, 0] != pairs[:-1, 1]])
        numbers = n_signatures + np.cumsum(begins) - 1
        documents += [pairs[begins, 0].astype(np.int32), pairs[:, 1].astype(np.int32)]
        signatures += [numbers[begins].astype(np.int32), numbers.astype(np.int32)]
        n_signatures = int(numbers[-1]) + 1
    # (m,) each document once, the best first; (e,) the documents as places in it, and the signatures that they have.
    is_near = np.zeros(len(ranks), bool)
    for some in documents:
        is_near[some] = True
    nodes = np.flatnonzero(is_near)
    nodes = nodes[np.lexsort((ranks[nodes], -characters[nodes], -priorities[nodes]))]
    place_of = np.zeros(len(ranks), np.int32)
    place_of[nodes] = np.arange(len(nodes), dtype=np.int32)
    places, held = place_of[np.concatenate(documents)], np.concatenate(signatures)
    del documents, signatures
    held = held[np.argsort(places)]
    ends = np.cumsum(np.bincount(places, minlength=len(nodes)))
    del places
    # By place: the document that is kept for it. By signature: the best document kept that has it.
    keepers, owners = np.arange(len(nodes)), np.full(n_signatures, len(nodes))
    begin = 0
    for place, end in enumerate(map(int, ends)):
        mine = held[begin:end]
        keeper = min(place, int(owners[mine].min()))
        keepers[place] = keeper
        if keeper == place:
            owners[mine] = place
        begin = end
    return nodes, nodes[keepers]


def choose(
    columns: DocumentColumns,
    representative: np.ndarray,
    keepers: tuple[np.ndarray, np.ndarray],
    settings: Deduplication,
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


def kept_for(representative: np.ndarray, keepers: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """int64 (n,): the document that is kept instead of each one: the near keeper of its exact representative."""
    keeper = np.arange(len(representative))
    documents, kept = keepers
    keeper[documents] = kept
    kept_by: np.ndarray = keeper[representative]
    return kept_by
