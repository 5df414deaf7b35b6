"""Cleaning and deduplication with datatrove's defaults: spaCy's words in its filters and in its MinHash.

Reading, parts, tasks, the number of workers, the normalisation of text and the search for exact duplicates are
Parakeet's. What differs is how words are found and what is done with them. Only processes that `benchmarks.data`
starts import this module, since it imports datatrove.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

from parakeet.data.cleaning.clean import CleanDocuments
from parakeet.data.deduplication.duplicates import exact_representatives, read_columns
from parakeet.data.deduplication.minhash import NearDuplicateSearch
from parakeet.data.documents import (
    Document,
    ReadParts,
    WriteDocuments,
    collect_parts,
    content_bytes,
    count_documents,
    parts,
)
from parakeet.data.tasks import run_tasks, watch
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Recipe


def as_items(data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
    """Pipeline step: Parakeet's documents as datatrove's."""
    for number, document in enumerate(data):
        yield Item(document.content, str(number), metadata={"document": document})


def as_documents(data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
    """Pipeline step: and back."""
    for item in data:
        yield item.metadata["document"]


class OnlyMarked(PipelineStep):
    """Passes on the documents that `marks/<task>.npy` marks."""

    name = "Only marked"
    type = "Filter"

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self.marks = marks

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        for item, marked in zip(data, np.load(self.marks / f"{rank:05d}.npy"), strict=True):
            if marked:
                yield item


def clean_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    paths = parts(inputs["documents"])
    work = output / "work"
    # datatrove's own filters replace the rules. The share of duplicate lines is off, as it is in ours.
    plain = recipe.clean.model_copy(update={"repetition": None, "quality": None})
    steps = [
        ReadParts([[path] for path in paths], work / "read"),
        CleanDocuments(plain, work / "tallies", None),
        as_items,
        GopherRepetitionFilter(dup_line_frac=None),
        GopherQualityFilter(),
        as_documents,
        WriteDocuments(work / "kept"),
    ]
    with progress.task("cleaning", sum(map(content_bytes, paths)), BYTES) as task, watch(task, work / "read"):
        run_tasks(steps, len(paths), recipe.executor, work / "cleaning")
    collect_parts(work / "kept", output)
    return {"documents": count_documents(output)}


def deduplicate_documents(
    recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Exact duplicates as the stage finds them, then datatrove's four MinHash steps with its MinhashConfig()."""
    paths = parts(inputs["clean_documents"])
    columns = read_columns(paths)
    numbers = np.arange(len(columns.ids))
    first = exact_representatives(columns.ids, np.zeros_like(numbers), columns.ranks) == numbers
    work = output / "work"
    groups = NearDuplicateSearch(recipe, paths, columns.part_sizes, work, progress).groups
    (work / "marks").mkdir(parents=True)
    ends = np.cumsum([sum(columns.part_sizes[group.start : group.stop]) for group in groups])
    for rank, marks in enumerate(np.split(first, ends[:-1])):
        np.save(work / "marks" / f"{rank:05d}.npy", marks)
    files = [[paths[number] for number in group] for group in groups]

    def read(counts: str) -> list[Any]:
        return [ReadParts(files, work / counts), as_items, OnlyMarked(work / "marks")]

    def run(name: str, steps: list[Any], tasks: int) -> None:
        with progress.task(name, None, "tasks"):
            run_tasks(steps, tasks, recipe.executor, work / f"running {name}")

    signatures, pairs, removed = (str(work / name) for name in ("signatures", "pairs", "removed"))
    signing = MinhashDedupSignature(signatures)
    run("signatures of documents", [*read("signed"), signing], len(groups))
    run("comparison of documents", [MinhashDedupBuckets(signatures, pairs)], signing.config.num_buckets)
    run("Cluster", [MinhashDedupCluster(pairs, removed)], 1)
    writing = [*read("written"), MinhashDedupFilter(removed), as_documents, WriteDocuments(work / "kept")]
    run("Write", writing, len(groups))
    collect_parts(work / "kept", output)
    return {"documents": count_documents(output), "exact_duplicates": int((~first).sum())}
