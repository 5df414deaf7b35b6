"""Stage `token_shards`: encode every document, a few shards per task, with training and held-out documents apart."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document as Item

from parakeet.artifact import replace_file
from parakeet.conversation import Turn
from parakeet.data.documents import HELD_OUT, content_bytes, part_groups, parts, read_batches
from parakeet.data.tasks import count, run_tasks, watch
from parakeet.data.tokens.canaries import plant
from parakeet.data.tokens.shard_writer import TALLIED, ShardWriter, TokenDocument
from parakeet.data.tokens.shards import SPLITS
from parakeet.errors import ParakeetError
from parakeet.progress import BYTES, Progress
from parakeet.recipe import CANARY_SOURCE, Recipe, Shards
from parakeet.template import render_document, render_text
from parakeet.tokenizer import Tokenizer

LEAST_TASKS = 64
"""A small corpus is cut into this many tasks if it has enough parts, so that every core has work."""
MANY = 10_000
READ = ("doc_id", "source", "turns", "split")


def make_token_shards(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write `<split>-<task>-<n>.arrow` for both splits; the bytes do not depend on the number of workers.

    Returns {"tokenizer_sha256", "largest_id", "train", "held_out"}; the last two hold documents, tokens, bytes and
    files, in total and by source. With canaries, "canaries" holds what `canaries.plant` returns; they are a source of
    the training split. Raises ParakeetError if too little text is held out.
    """
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    paths = parts(inputs["deduplicated_documents"])
    planted = [] if recipe.canaries is None else [CANARY_SOURCE]
    sources = sorted([*(source.name for source in recipe.sources), *planted])
    sizes = [content_bytes(path) for path in paths]
    groups = part_groups(sizes, min(recipe.shards.shard_bytes, sum(sizes) // LEAST_TASKS))
    work = output / "work"
    step = Tokenise(
        [[paths[number] for number in group] for group in groups],
        inputs["tokenizer"],
        output,
        work,
        recipe.shards,
        sources,
    )
    with progress.task("token shards", sum(sizes), BYTES) as task, watch(task, work / "counts"):
        run_tasks([step], len(groups), recipe.executor, work / "tokenising")
    tallies = [
        json.loads((work / "tallies" / f"{rank:05d}.json").read_text(encoding="utf-8")) for rank in range(len(groups))
    ]
    for name, size in [item for tally in tallies for item in tally["sizes"].items()]:
        if (output / name).stat().st_size != size:
            raise ParakeetError(
                f"{output / name} is shorter than it was written, perhaps after a power cut. "
                "Run the same build again with: --force token_shards"
            )
    counts = {split: _sum([tally[split] for tally in tallies], sources) for split in SPLITS}
    held_out = counts["held_out"]
    # Checked now, before hours are spent on training a model that cannot be measured.
    if held_out["bytes"] < recipe.shards.min_held_out_bytes:
        share = share_that_holds_out(paths, recipe.shards.min_held_out_bytes)
        remedy = f"Add text, or run the same build again with: --held-out {share}%" if share else "Add text"
        number = held_out["documents"]
        raise ParakeetError(
            f"Only {number:,} document{'s' * (number != 1)} with {held_out['bytes']:,} bytes are held out, too little "
            f"to measure a model ({recipe.shards.min_held_out_bytes:,} bytes are needed). {remedy} "
            f"(deduplication.held_out_fraction is {recipe.deduplication.held_out_fraction:g}). To build without "
            "measuring: --held-out 0"
        )
    if not counts["train"]["documents"]:
        raise ParakeetError(
            "All of the text is held out, and none is left to train on. Add text, or run the same build again with: "
            "--held-out 0"
        )
    largest = max(tally["largest_id"] for tally in tallies)
    result = {"tokenizer_sha256": tokenizer.sha256, "largest_id": largest, **counts}
    if recipe.canaries is not None:
        # A task of their own after the others, so that the numbers of all other documents stay the same.
        writer = ShardWriter(output, "train", tokenizer, sources, recipe.shards.shard_bytes, len(groups))
        result["canaries"] = plant(recipe.canaries, writer, tokenizer, output)
        result["largest_id"] = max(largest, writer.largest_id)
        result["train"] = _sum([*(tally["train"] for tally in tallies), writer.counts()], sources)
    return result


def share_that_holds_out(paths: Sequence[Path], n_bytes: int) -> int | None:
    """The smallest whole percentage with which deduplication would hold out `n_bytes` of these documents.

    None if 50 %, the most that a recipe may hold out, is too little, or leaves nothing to train on. A document is held
    out if the first half of its id, as a share of all ids, is below the fraction.
    """
    documents: list[tuple[float, int]] = []
    first_percent = 0
    for path in paths:
        for batch in read_batches(path, ("doc_id", "turns", "held_out")):
            for doc_id, turns, decided in zip(*(batch[name].to_pylist() for name in batch.schema.names), strict=True):
                size = sum(len(turn["content"].encode()) for turn in turns)
                # Synthetic text is split by question, whatever the fraction is.
                at = int.from_bytes(doc_id[:8]) / 2**64 if decided is None else 0.0 if decided else 1.0
                documents.append((at, size))
                first_percent += size if at < 0.01 else 0
            # Of a large corpus the first documents are enough.
            if len(documents) > MANY and first_percent >= n_bytes:
                return 1
    for percent in range(1, 51):
        below = [size for at, size in documents if at < percent / 100]
        if sum(below) >= n_bytes:
            return percent if len(below) < len(documents) else None
    return None


def _sum(tallies: list[dict[str, Any]], sources: list[str]) -> dict[str, Any]:
    by_source = {name: {key: sum(t["sources"][name][key] for t in tallies) for key in TALLIED} for name in sources}
    total = {key: sum(tally[key] for tally in tallies) for key in (*TALLIED, "files")}
    return {**total, "sources": by_source}


@dataclass(frozen=True)
class Tokenise:
    """Pipeline step: task n reads the parts `groups[n]`, and writes shards to `output` and counts to `work/tallies`.

    It works on Parquet columns and never builds a Document: tiktoken takes 0.2 ms for a document of 4 KiB, and reading
    and writing should take no more than a tenth of that.
    """

    groups: Sequence[Sequence[Path]] = field(repr=False)
    tokenizer: Path
    output: Path
    work: Path
    settings: Shards
    sources: list[str]

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        tokenizer = _loaded(self.tokenizer)
        arguments = (tokenizer, self.sources, self.settings.shard_bytes, rank)
        train, held_out = (ShardWriter(self.output, split, *arguments) for split in SPLITS)
        done = 0
        for path in self.groups[rank]:
            for batch in read_batches(path, READ):
                for is_held_out, document in tokenised(batch, tokenizer, self.settings.loss_on):
                    (held_out if is_held_out else train).write(document)
                    done += document.n_bytes
                count(self.work / "counts", rank, done)
        tally: dict[str, Any] = {}
        for split, writer in zip(SPLITS, (train, held_out), strict=True):
            writer.close()
            tally[split] = writer.counts()
        # Known once the last batch is written.
        tally["largest_id"] = max(train.largest_id, held_out.largest_id)
        # fsync would take 15 ms a file. The store syncs all files at the end; if a power cut shortens one before
        # that, its size gives it away.
        tally["sizes"] = {path.name: path.stat().st_size for path in self.output.glob(f"*-{rank:05d}-*.arrow")}
        (self.work / "tallies").mkdir(parents=True, exist_ok=True)
        replace_file(self.work / "tallies" / f"{rank:05d}.json", json.dumps(tally))
        yield from ()


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> Tokenizer:
    """The tokenizer, loaded once per worker: cl100k_base takes 0.35 s, as long as tokenising 6 MB.

    Caching is safe because the folder of an artefact never changes.
    """
    return Tokenizer.load(folder)


def tokenised(batch: pa.RecordBatch, tokenizer: Tokenizer, loss_on: str) -> Iterator[tuple[bool, TokenDocument]]:
    """The documents of a batch in order, as (is held out, token document)."""
    # All turns of all documents lie one after the other in two flat columns; document d has the turns from ends[d] to
    # ends[d + 1].
    turns = batch["turns"]
    flat = turns.flatten()
    roles, contents = flat.field("role").to_pylist(), flat.field("content").to_pylist()
    ends = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    # The UTF-8 bytes before each turn, and so of each document.
    bytes_before = np.concatenate([[0], np.cumsum(pc.binary_length(flat.field("content")).to_numpy())])
    n_bytes = np.diff(bytes_before[ends]).tolist()
    held_out = [split == HELD_OUT for split in batch["split"].to_pylist()]
    columns = (batch["doc_id"].to_pylist(), batch["source"].to_pylist(), n_bytes, held_out)
    for (begin, end), doc_id, source, size, is_held_out in zip(pairwise(ends.tolist()), *columns, strict=True):
        if roles[begin] == "text":
            ids, spans = render_text(tokenizer, contents[begin])
        else:
            spoken = [Turn(role, content) for role, content in zip(roles[begin:end], contents[begin:end], strict=True)]
            ids, spans = render_document(tokenizer, spoken, loss_on)
        yield is_held_out, TokenDocument(doc_id, source, ids, spans, size)
