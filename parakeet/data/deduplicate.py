"""The deduplicated_documents stage: one document of each cluster of copies, split into training and held-out ones.

Copies are found exactly, by `doc_id`, and nearly, by datatrove's MinHash; the choice of whom to keep is made here.
The text is streamed; what stays in memory is about 100 bytes a document.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parakeet.data.documents import ROWS_PER_GROUP, Document, DocumentWriter, parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Deduplication, Recipe

EXAMPLE_CLUSTERS = 50
EXCERPT_CHARACTERS = 300


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


def deduplicate_documents(
    recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Write one document of each cluster, in order, with `metadata["held_out"]`, and `clusters.jsonl` with examples.

    Returns the counts of documents kept, held out and dropped, over all and by source. Raises ParakeetError where
    there is no document, or where a cluster holds both a training and a held-out document by their metadata.
    """
    paths = parts(inputs["clean_documents"])
    columns = read_columns(paths)
    if not len(columns.ids):
        raise ParakeetError("There is no document to deduplicate: 0 came out of cleaning. Add text to a source.")
    settings = {source.name: source for source in recipe.sources}
    unknown = [name for name in columns.names if name not in settings]
    if unknown:
        raise ParakeetError(
            f"{inputs['clean_documents']} holds documents of {unknown[0]!r}, which is no source of recipe "
            f"{recipe.name}: build from the documents on again."
        )
    work = output / "work"
    work.mkdir()
    priorities = np.array([settings[name].priority for name in columns.names])[columns.sources]
    representative = exact_representatives(columns.ids, priorities)
    searchable = np.array([settings[name].near_duplicates for name in columns.names])[columns.sources]
    searched = searchable & (representative == np.arange(len(representative)))
    pairs: Iterable[tuple[int, int]] = ()
    if searched.any():
        pairs = near_duplicate_pairs(paths, columns.part_sizes, searched, recipe.deduplication, work, progress)
    choice = choose(columns, representative, near_keepers(pairs, priorities, columns.characters), recipe.deduplication)
    _write(paths, columns, choice, output, progress)
    shutil.rmtree(work)
    counts = _summary(columns, choice)
    # A source that cleaning emptied is still accounted for.
    emptied = {source.name: {"kept": 0, "held_out": 0, "dropped": {}} for source in recipe.sources}
    return {**counts, "sources": emptied | counts["sources"]}


def read_columns(paths: Sequence[Path]) -> Columns:
    """The small columns of all documents, without making a Python object of any text."""
    batches: list[tuple[np.ndarray, ...]] = []
    numbers: dict[str, int] = {}
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["doc_id", "source", "turns", "metadata"]):
                batches.append(_batch_columns(batch, numbers))
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


def near_duplicate_pairs(
    paths: Sequence[Path],
    part_sizes: Sequence[int],
    searched: np.ndarray,
    settings: Deduplication,
    work: Path,
    progress: Progress,
) -> Iterator[tuple[int, int]]:
    """Pairs of the numbers of documents that share a MinHash bucket, among those that `searched` (bool, n) marks."""
    from parakeet.data.steps import BlankUnsearched, Buckets, ReadPart, Signatures, run_tasks, watch

    workers = min(os.cpu_count() or 1, len(paths))
    starts = np.concatenate([[0], np.cumsum(part_sizes)]).astype(np.int64)
    (work / "searched").mkdir()
    for rank in range(len(paths)):
        np.save(work / "searched" / f"{rank:05d}.npy", searched[starts[rank] : starts[rank + 1]])
    steps = [
        ReadPart(paths, work / "read"),
        BlankUnsearched(work / "searched"),
        Signatures(work / "signatures", settings),
    ]
    with progress.task("Sign", sum(part_sizes), "documents") as task, watch(task, work / "read"):
        run_tasks(steps, len(paths), workers, work / "logs" / "signatures")
    search = Buckets(work / "signatures", work / "pairs", settings, work / "compared")
    with progress.task("Compare", settings.buckets, "buckets") as task, watch(task, work / "compared"):
        run_tasks([search], settings.buckets, workers, work / "logs" / "pairs")
    for path in sorted((work / "pairs").glob("*.dups")):
        rows = np.fromfile(path, "<u4").reshape(-1, 4).astype(np.int64)
        yield from zip(
            (starts[rows[:, 0]] + rows[:, 1]).tolist(), (starts[rows[:, 2]] + rows[:, 3]).tolist(), strict=True
        )


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


def _write(paths: Sequence[Path], columns: Columns, choice: Choice, output: Path, progress: Progress) -> None:
    kept = choice.kept
    examples = list(islice(_examples(choice), EXAMPLE_CLUSTERS))
    wanted = {number for pair in examples for number in pair}
    excerpts = {}
    with progress.task("Write", len(kept), "documents") as task, DocumentWriter(output) as writer:
        for number, document in enumerate(read_documents(paths)):
            if number in wanted:
                excerpts[number] = document.content[:EXCERPT_CHARACTERS]
            if kept[number]:
                writer.write(_marked(document, bool(choice.held_out[number])))
            task.advance()
    with (output / "clusters.jsonl").open("w", encoding="utf-8") as file:
        for keeper, dropped in examples:
            members = choice.kept_by == keeper
            cluster = {
                "kind": "exact" if choice.exact[dropped] else "near",
                "sources": sorted({columns.names[source] for source in columns.sources[members]}),
                "size": int(members.sum()),
                "kept": excerpts[keeper],
                "dropped": excerpts[dropped],
            }
            file.write(json.dumps(cluster, ensure_ascii=False) + "\n")


def _examples(choice: Choice) -> Iterator[tuple[int, int]]:
    """A kept and a dropped document of each cluster, near duplicates first: they are what a person will doubt."""
    seen = set()
    for number in np.concatenate([np.flatnonzero(choice.near), np.flatnonzero(choice.exact)]).tolist():
        keeper = int(choice.kept_by[number])
        if keeper not in seen:
            seen.add(keeper)
            yield keeper, number


def _marked(document: Document, held_out: bool) -> Document:
    return replace(document, metadata={**document.metadata, "held_out": held_out})


def _summary(columns: Columns, choice: Choice) -> dict[str, Any]:
    def by_source(marked: np.ndarray) -> list[int]:
        return np.bincount(columns.sources[marked], minlength=len(columns.names)).tolist()

    kept, held_out = by_source(choice.kept), by_source(choice.kept & choice.held_out)
    exact, near = by_source(choice.exact), by_source(choice.near)
    sources = {}
    for number in sorted(range(len(columns.names)), key=columns.names.__getitem__):
        dropped = {"exact duplicate": exact[number], "near duplicate": near[number]}
        sources[columns.names[number]] = {"kept": kept[number], "held_out": held_out[number], "dropped": dropped}
    return {
        "documents": sum(kept),
        "held_out": sum(held_out),
        "exact_duplicates": sum(exact),
        "near_duplicates": sum(near),
        "sources": sources,
    }
