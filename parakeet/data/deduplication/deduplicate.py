"""The stage `deduplicated_documents`: one document of each cluster of copies, and its split: training or held out.

Copies are found exactly by `doc_id` and nearly by MinHash (minhash.py); duplicates.py chooses which one to keep. Only
small columns are held in memory, and the text is streamed.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.artifact import replace_file
from parakeet.data.deduplication.duplicates import (
    Choice,
    DocumentColumns,
    choose,
    exact_representatives,
    kept_for,
    near_keepers,
    places_of,
    read_columns,
    searched_for,
)
from parakeet.data.deduplication.exchanges import exchanges_of, read_exchanges, without_exchanges
from parakeet.data.deduplication.minhash import NearDuplicateSearch
from parakeet.data.documents import (
    HELD_OUT,
    TRAIN,
    Document,
    ReadParts,
    WriteDocuments,
    collect_parts,
    content_bytes,
    parts,
    refuse_emptied,
)
from parakeet.data.tasks import run_tasks, watch
from parakeet.errors import ParakeetError
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Recipe

EXAMPLE_CLUSTERS = 50
EXCERPT_CHARACTERS = 300


def deduplicate_documents(
    recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Write one document of each cluster, in order, with its split, and `clusters.jsonl` with examples.

    Returns the counts of documents kept, held out and dropped, in all and by source, and of clusters. Raises
    ParakeetError if there is no document, or if a source asks to train on one member of a cluster and to hold out
    another.
    """
    paths = parts(inputs["clean_documents"])
    columns = read_columns(paths)
    if not len(columns.ids):
        raise ParakeetError("There is no document to deduplicate: 0 came out of cleaning. Add text to a source.")
    settings = {source.name: source for source in recipe.sources}
    unknown = [name for name in columns.names if name not in settings]
    if unknown:
        raise ParakeetError(
            f"{inputs['clean_documents']} holds documents of {unknown[0]!r}, which is not a source of recipe "
            f"{recipe.name}. Run the same build again with: --force documents"
        )
    search = NearDuplicateSearch(recipe, paths, columns.part_sizes, output / "work", progress)
    priorities = np.array([settings[name].priority for name in columns.names])[columns.sources]
    searchable = np.array([settings[name].near_duplicates for name in columns.names])[columns.sources]
    representative = exact_representatives(columns.ids, priorities, columns.ranks)
    searched = searched_for(representative, searchable)
    pairs: Iterable[np.ndarray] = search.pairs(searched) if searched.any() else ()
    keepers = near_keepers(pairs, priorities, columns.characters, columns.ranks)
    choice = choose(columns, representative, keepers, recipe.deduplication)
    numbers = np.bincount(columns.sources[choice.kept & ~choice.held_out], minlength=len(columns.names))
    refuse_emptied(recipe, dict(zip(columns.names, numbers.tolist(), strict=True)), "deduplication")
    cuts = recipe.deduplication.turns
    removed = _repeated_exchanges(search, choice, columns, priorities, searchable) if cuts else None
    examples = list(islice(_examples(choice), EXAMPLE_CLUSTERS))
    written = _write(search, choice, removed, examples)
    collect_parts(search.work / "kept", output)
    with (output / "clusters.jsonl").open("w", encoding="utf-8") as file:
        for keeper, dropped in examples:
            members = choice.kept_by == keeper
            gone = written.beginnings[dropped]
            cluster = {
                "kind": "exact" if choice.exact[dropped] else "near",
                "sources": sorted({columns.names[source] for source in columns.sources[members]}),
                "size": int(members.sum()),
                "kept": written.beginnings[keeper]["text"],
                "dropped": gone.pop("text"),
                **gone,
            }
            file.write(json.dumps(cluster, ensure_ascii=False) + "\n")
    counts = _summary(columns, choice, written)
    # A source that cleaning emptied is listed too.
    emptied = {source.name: {"kept": 0, "held_out": 0, "clusters": 0, "dropped": {}} for source in recipe.sources}
    return {**counts, "sources": emptied | counts["sources"]}


def _repeated_exchanges(
    search: NearDuplicateSearch,
    choice: Choice,
    columns: DocumentColumns,
    priorities: np.ndarray,
    searchable: np.ndarray,
) -> list[np.ndarray]:
    """For each part, bool marks of the exchanges of its kept conversations that another conversation keeps."""
    exchanges = read_exchanges(search.paths, choice.kept, search.progress)
    if not len(exchanges.ids):
        return [np.zeros(0, bool) for _ in search.paths]
    held_out = choice.held_out[exchanges.documents]
    # Held-out conversations stay whole: of a copy in one and a copy in a training conversation, the latter is cut.
    worth = priorities[exchanges.documents] + held_out * (int(np.ptp(priorities)) + 1)
    # Each exchange has a rank of its own: by conversation, then by its place in it.
    ranks = places_of(np.argsort(columns.ranks[exchanges.documents], kind="stable"))
    representative = exact_representatives(exchanges.ids, worth, ranks)
    searched = searched_for(representative, searchable[exchanges.documents])
    pairs: Iterable[np.ndarray] = ()
    if searched.any():
        pairs = search.pairs_of_exchanges(choice.kept, searched, exchanges.part_sizes)
    keepers = near_keepers(pairs, worth, exchanges.characters, ranks)
    repeated = (kept_for(representative, keepers) != np.arange(len(representative))) & ~held_out
    return np.split(repeated, np.cumsum(exchanges.part_sizes)[:-1])


@dataclass(frozen=True)
class Written:
    """What the writing tasks report."""

    beginnings: dict[int, dict[str, Any]]
    """Text and place (file and row) of the example documents, by their number."""
    exchanges_cut: int
    emptied: Counter[str]
    """By source: conversations that lost all their exchanges."""


def _write(
    search: NearDuplicateSearch,
    choice: Choice,
    removed: Sequence[np.ndarray] | None,
    examples: Sequence[tuple[int, int]],
) -> Written:
    work, ends = search.work, np.cumsum(search.part_sizes)
    reports = work / "told"
    wanted = np.unique(np.array([number for pair in examples for number in pair], np.int64))
    (work / "marks").mkdir(parents=True, exist_ok=True)
    for rank, size in enumerate(search.part_sizes):
        begin, end = int(ends[rank]) - size, int(ends[rank])
        np.savez(
            work / "marks" / f"{rank:05d}.npz",
            kept=choice.kept[begin:end],
            held_out=choice.held_out[begin:end],
            shown=wanted[(wanted >= begin) & (wanted < end)] - begin,
            removed=removed[rank] if removed is not None else np.zeros(0, bool),
        )
    steps = [
        ReadParts([[path] for path in search.paths], work / "written"),
        KeepMarked(work / "marks", reports, cuts=removed is not None),
        WriteDocuments(work / "kept"),
    ]
    total = sum(map(content_bytes, search.paths))
    with search.progress.task("writing what is kept", total, BYTES) as task, watch(task, work / "written"):
        run_tasks(steps, len(search.paths), search.recipe.executor, work / "writing")
    beginnings: dict[int, dict[str, Any]] = {}
    cut, emptied = 0, Counter[str]()
    for rank, size in enumerate(search.part_sizes):
        report = json.loads((reports / f"{rank:05d}.json").read_text(encoding="utf-8"))
        beginnings |= {int(ends[rank]) - size + int(row): text for row, text in report["beginnings"].items()}
        cut += report["exchanges_cut"]
        emptied.update(report["emptied"])
    return Written(beginnings, cut, emptied)


@dataclass(frozen=True)
class KeepMarked:
    """Pipeline step: the documents that `marks/<rank>.npz` keeps, with their split.

    If it `cuts`, they lose the exchanges that the marks remove. `reports/<rank>.json` has the beginnings of documents
    that are examples, and what was cut.
    """

    marks: Path
    reports: Path
    cuts: bool

    def __call__(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        marks = np.load(self.marks / f"{rank:05d}.npz")
        kept, held_out, removed = marks["kept"], marks["held_out"], marks["removed"].tolist()
        shown = set(marks["shown"].tolist())
        beginnings: dict[str, dict[str, Any]] = {}
        cut, emptied, at = 0, Counter[str](), 0
        for row, document in enumerate(data):
            if row in shown:
                beginnings[str(row)] = {"text": document.content[:EXCERPT_CHARACTERS]} | document.place
            if not kept[row]:
                continue
            left: Document | None = document
            if self.cuts:
                mine = removed[at : at + len(exchanges_of(document))]
                at += len(mine)
                if any(mine):
                    cut += sum(mine)
                    left = without_exchanges(document, mine)
            if left is None:
                emptied[document.source] += 1
                continue
            yield left.with_split(HELD_OUT if held_out[row] else TRAIN)
        self.reports.mkdir(parents=True, exist_ok=True)
        report = {"beginnings": beginnings, "exchanges_cut": cut, "emptied": emptied}
        replace_file(self.reports / f"{rank:05d}.json", json.dumps(report))


def _examples(choice: Choice) -> Iterator[tuple[int, int]]:
    """A kept and a dropped document of each cluster, near duplicates first: those are the ones a person doubts."""
    seen = set()
    for number in np.concatenate([np.flatnonzero(choice.near), np.flatnonzero(choice.exact)]).tolist():
        keeper = int(choice.kept_by[number])
        if keeper not in seen:
            seen.add(keeper)
            yield keeper, number


def _summary(columns: DocumentColumns, choice: Choice, written: Written) -> dict[str, Any]:
    def by_source(marked: np.ndarray) -> list[int]:
        return np.bincount(columns.sources[marked], minlength=len(columns.names)).tolist()

    kept, held_out = by_source(choice.kept), by_source(choice.kept & choice.held_out)
    exact, near = by_source(choice.exact), by_source(choice.near)
    clusters = by_source(np.isin(np.arange(len(choice.kept_by)), choice.kept_by[~choice.kept]))
    sources = {}
    for number in sorted(range(len(columns.names)), key=columns.names.__getitem__):
        name = columns.names[number]
        dropped = {"exact duplicate": exact[number], "near duplicate": near[number]}
        if emptied := written.emptied[name]:
            dropped["nothing but repeated turns"] = emptied
        left = {"kept": kept[number] - emptied, "held_out": held_out[number]}
        sources[name] = {**left, "clusters": clusters[number], "dropped": dropped}
    sizes = np.bincount(choice.kept_by, minlength=len(choice.kept_by))
    near_clusters = len(np.unique(choice.kept_by[choice.near]))
    return {
        "documents": sum(source["kept"] for source in sources.values()),
        "held_out": sum(held_out),
        "exact_duplicates": sum(exact),
        "near_duplicates": sum(near),
        "exchanges_cut": written.exchanges_cut,
        "clusters": {
            "exact": int((sizes > 1).sum()) - near_clusters,
            "near": near_clusters,
            "largest": int(sizes.max()),
        },
        "sources": sources,
    }
