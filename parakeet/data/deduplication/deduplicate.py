"""The deduplicated_documents stage: one document of each cluster of copies, split into training and held-out ones.

Copies are found exactly, by `doc_id`, and nearly, by datatrove's MinHash; the choice of whom to keep is made in
`parakeet.data.deduplication.duplicates`. The text is streamed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.data.deduplication.duplicates import (
    Choice,
    Columns,
    choose,
    choose_exchanges,
    exact_representatives,
    near_keepers,
    read_columns,
    read_exchanges,
    searched_for,
)
from parakeet.data.documents import BYTES_PER_PART, collect_parts, megabytes, part_groups, parts, refuse_emptied
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

EXAMPLE_CLUSTERS = 50
MOST_SIGNATURE_TASKS = 96
"""About, and never twice as many. Each leaves a file for every bucket, and the search holds a bucket's files open, each
twice: a process may open 1,024."""


@dataclass(frozen=True)
class Search:
    """Near-duplicate search over the parts of one artefact, in the folder `work` of a stage."""

    recipe: Recipe
    paths: Sequence[Path]
    part_sizes: Sequence[int]
    """Documents in each part."""
    work: Path
    progress: Progress

    @property
    def groups(self) -> list[range]:
        """Parts that are signed by one task."""
        bytes_of = [path.stat().st_size for path in self.paths]
        return part_groups(bytes_of, BYTES_PER_PART // 4, MOST_SIGNATURE_TASKS)

    def pairs(self, searched: np.ndarray) -> Iterator[tuple[int, int]]:
        """Pairs of the numbers of documents that share a bucket, among those that `searched` (bool, n) marks."""
        return self._pairs("documents", searched, [self._documents_in(group) for group in self.groups], [])

    def pairs_of_exchanges(
        self, kept: np.ndarray, searched: np.ndarray, exchanges: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """The same for exchanges, numbered through over the documents that `kept` (bool, n) marks.

        `searched` (bool, exchanges); `exchanges` is the number of them in each part.
        """
        from parakeet.data.deduplication.minhash import SelectExchanges

        folder = self.work / "exchanges" / "kept"
        self._save(folder, kept, [self._documents_in(group) for group in self.groups])
        sizes = [sum(exchanges[group.start : group.stop]) for group in self.groups]
        return self._pairs("exchanges", searched, sizes, [SelectExchanges(folder)])

    def _documents_in(self, group: range) -> int:
        return sum(self.part_sizes[group.start : group.stop])

    def _pairs(
        self, what: str, searched: np.ndarray, sizes: Sequence[int], selection: Sequence[Any]
    ) -> Iterator[tuple[int, int]]:
        from parakeet.data.deduplication.minhash import BlankUnsearched, Buckets, Signatures
        from parakeet.data.part_steps import ReadPart
        from parakeet.data.tasks import run_tasks, watch

        settings, work = self.recipe.deduplication, self.work / what
        self._save(work / "searched", searched, sizes)
        groups = [[self.paths[number] for number in group] for group in self.groups]
        steps = [
            ReadPart(groups, work / "read"),
            *selection,
            BlankUnsearched(work / "searched"),
            Signatures(work / "signatures", settings),
        ]
        name = f"signatures of {what}"
        with self.progress.task(name, megabytes(self.paths), "MB") as task, watch(task, work / "read"):
            run_tasks(steps, len(groups), self.recipe.executor, work / "signing")
        search = Buckets(work / "signatures", work / "pairs", settings, work / "compared")
        name = f"comparison of {what}"
        with self.progress.task(name, settings.buckets, "buckets") as task, watch(task, work / "compared"):
            run_tasks([search], settings.buckets, self.recipe.executor, work / "comparing")
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        for path in sorted((work / "pairs").glob("*.dups")):
            rows = np.fromfile(path, "<u4").reshape(-1, 4).astype(np.int64)
            yield from zip(
                (starts[rows[:, 0]] + rows[:, 1]).tolist(), (starts[rows[:, 2]] + rows[:, 3]).tolist(), strict=True
            )

    def _save(self, folder: Path, marks: np.ndarray, sizes: Sequence[int]) -> None:
        """`folder/<task>.npy`: each task's share of `marks`."""
        folder.mkdir(parents=True, exist_ok=True)
        ends = np.cumsum(sizes)
        for rank, size in enumerate(sizes):
            np.save(folder / f"{rank:05d}.npy", marks[ends[rank] - size : ends[rank]])


def deduplicate_documents(
    recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Write one document of each cluster, in order, with `metadata["held_out"]`, and `clusters.jsonl` with examples.

    Returns the counts of documents kept, held out and dropped, over all and by source, and of clusters. Raises
    ParakeetError where there is no document, or where a cluster holds both a training and a held-out document by their
    metadata.
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
    search = Search(recipe, paths, columns.part_sizes, output / "work", progress)
    priorities = np.array([settings[name].priority for name in columns.names])[columns.sources]
    searchable = np.array([settings[name].near_duplicates for name in columns.names])[columns.sources]
    representative = exact_representatives(columns.ids, priorities)
    searched = searched_for(representative, searchable)
    pairs: Iterable[tuple[int, int]] = search.pairs(searched) if searched.any() else ()
    keepers = near_keepers(pairs, priorities, columns.characters)
    choice = choose(columns, representative, keepers, recipe.deduplication)
    numbers = np.bincount(columns.sources[choice.kept & ~choice.held_out], minlength=len(columns.names))
    refuse_emptied(recipe, dict(zip(columns.names, numbers.tolist(), strict=True)), "deduplication")
    removed = _repeated_exchanges(search, choice, priorities, searchable) if recipe.deduplication.turns else None
    examples = list(islice(_examples(choice), EXAMPLE_CLUSTERS))
    written = _write(search, choice, removed, examples)
    collect_parts(search.work / "kept", output)
    with (output / "clusters.jsonl").open("w", encoding="utf-8") as file:
        for keeper, dropped in examples:
            cluster = _cluster(columns, choice, keeper, dropped) | written.excerpts(keeper, dropped)
            file.write(json.dumps(cluster, ensure_ascii=False) + "\n")
    counts = _summary(columns, choice, written)
    # A source that cleaning emptied is still accounted for.
    emptied = {source.name: {"kept": 0, "held_out": 0, "clusters": 0, "dropped": {}} for source in recipe.sources}
    return {**counts, "sources": emptied | counts["sources"]}


def _repeated_exchanges(
    search: Search, choice: Choice, priorities: np.ndarray, searchable: np.ndarray
) -> list[np.ndarray]:
    """For each part, bool marks of the exchanges of its kept conversations that stand in another one."""
    exchanges = read_exchanges(search.paths, choice.kept, search.progress)
    if not len(exchanges.ids):
        return [np.zeros(0, bool) for _ in search.paths]
    held_out = choice.held_out[exchanges.documents]
    # What is held out stays as it is: of a copy there and one in training, the latter goes.
    worth = priorities[exchanges.documents] + held_out * (int(np.ptp(priorities)) + 1)
    representative = exact_representatives(exchanges.ids, worth)
    searched = searched_for(representative, searchable[exchanges.documents])
    pairs: Iterable[tuple[int, int]] = ()
    if searched.any():
        pairs = search.pairs_of_exchanges(choice.kept, searched, exchanges.part_sizes)
    repeated = choose_exchanges(representative, near_keepers(pairs, worth, exchanges.characters)) & ~held_out
    return np.split(repeated, np.cumsum(exchanges.part_sizes)[:-1])


@dataclass(frozen=True)
class Written:
    """What the writing tasks say: beginnings of the example documents by number, and what the cut exchanges left."""

    beginnings: dict[str, dict[str, Any]]
    exchanges_cut: int
    emptied: dict[str, int]
    """By source: conversations of which nothing was left."""

    def excerpts(self, keeper: int, dropped: int) -> dict[str, Any]:
        kept, gone = self.beginnings[str(keeper)], self.beginnings[str(dropped)]
        where: dict[str, Any] = {key: gone[key] for key in ("file", "row") if key in gone}
        return {"kept": kept["text"], "dropped": gone["text"], **where}


def _write(
    search: Search, choice: Choice, removed: Sequence[np.ndarray] | None, examples: Sequence[tuple[int, int]]
) -> Written:
    from parakeet.data.deduplication.deduplicating_steps import MarkKept
    from parakeet.data.part_steps import ReadPart, WriteDocuments
    from parakeet.data.tasks import run_tasks, watch

    work, ends = search.work, np.cumsum(search.part_sizes)
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
        ReadPart([[path] for path in search.paths], work / "written"),
        MarkKept(work / "marks", work / "told", cuts=removed is not None),
        WriteDocuments(work / "kept"),
    ]
    total = megabytes(search.paths)
    with search.progress.task("writing what is kept", total, "MB") as task, watch(task, work / "written"):
        run_tasks(steps, len(search.paths), search.recipe.executor, work / "writing")
    beginnings: dict[str, dict[str, Any]] = {}
    cut, emptied = 0, dict[str, int]()
    for rank, size in enumerate(search.part_sizes):
        told = json.loads((work / "told" / f"{rank:05d}.json").read_text(encoding="utf-8"))
        beginnings |= {str(int(ends[rank]) - size + int(row)): text for row, text in told["beginnings"].items()}
        cut += told["exchanges_cut"]
        for source, number in told["emptied"].items():
            emptied[source] = emptied.get(source, 0) + number
    return Written(beginnings, cut, emptied)


def _cluster(columns: Columns, choice: Choice, keeper: int, dropped: int) -> dict[str, Any]:
    members = choice.kept_by == keeper
    return {
        "kind": "exact" if choice.exact[dropped] else "near",
        "sources": sorted({columns.names[source] for source in columns.sources[members]}),
        "size": int(members.sum()),
    }


def _examples(choice: Choice) -> Iterator[tuple[int, int]]:
    """A kept and a dropped document of each cluster, near duplicates first: they are what a person will doubt."""
    seen = set()
    for number in np.concatenate([np.flatnonzero(choice.near), np.flatnonzero(choice.exact)]).tolist():
        keeper = int(choice.kept_by[number])
        if keeper not in seen:
            seen.add(keeper)
            yield keeper, number


def _summary(columns: Columns, choice: Choice, written: Written) -> dict[str, Any]:
    def by_source(marked: np.ndarray) -> list[int]:
        return np.bincount(columns.sources[marked], minlength=len(columns.names)).tolist()

    kept, held_out = by_source(choice.kept), by_source(choice.kept & choice.held_out)
    exact, near = by_source(choice.exact), by_source(choice.near)
    clusters = by_source(np.isin(np.arange(len(choice.kept_by)), choice.kept_by[~choice.kept]))
    sources = {}
    for number in sorted(range(len(columns.names)), key=columns.names.__getitem__):
        name = columns.names[number]
        dropped = {"exact duplicate": exact[number], "near duplicate": near[number]}
        if emptied := written.emptied.get(name, 0):
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
