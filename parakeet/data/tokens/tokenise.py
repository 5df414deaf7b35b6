"""The stage `token_shards`: every document as ids, a few shards a task, training and held-out documents apart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.data.documents import content_bytes, part_groups, parts
from parakeet.data.tokens.shards import SPLITS
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.tokenizer import Tokenizer

LEAST_TASKS = 64
"""A small corpus is cut into as many shards, smaller than the recipe's, if it has so many parts: work for all cores."""


def make_token_shards(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write `<split>-<task>-<n>.arrow` of both splits: the same bytes for any number of workers.

    Returns {"tokenizer_sha256", "largest_id", "train", "held_out"}, the last two with documents, tokens, bytes and
    files, in all and by source. Raises ParakeetError where too little text is held out.
    """
    from parakeet.data.tasks import run_tasks, watch
    from parakeet.data.tokens.tokenising_steps import Tokenise

    tokenizer = Tokenizer.load(inputs["tokenizer"])
    paths = parts(inputs["deduplicated_documents"])
    sources = sorted(source.name for source in recipe.sources)
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
    with progress.task("token shards", sum(sizes) / 1e6, "MB") as task, watch(task, step.counts):
        run_tasks([step], len(groups), recipe.executor, work / "tokenising")
    tallies = [
        json.loads((step.tallies / f"{rank:05d}.json").read_text(encoding="utf-8")) for rank in range(len(groups))
    ]
    for name, size in [item for tally in tallies for item in tally["sizes"].items()]:
        if (output / name).stat().st_size != size:
            raise ParakeetError(
                f"{output / name} was cut short, as by a power cut. Run the same build again with: --force token_shards"
            )
    counts = {split: _sum([tally[split] for tally in tallies], sources) for split in SPLITS}
    _require_held_out(recipe, counts["held_out"])
    largest = max(tally["largest_id"] for tally in tallies)
    return {"tokenizer_sha256": tokenizer.sha256, "largest_id": largest, **counts}


def _sum(tallies: list[dict[str, Any]], sources: list[str]) -> dict[str, Any]:
    keys = ("documents", "tokens", "bytes")
    by_source = {name: {key: sum(t["sources"][name][key] for t in tallies) for key in keys} for name in sources}
    total = {key: sum(tally[key] for tally in tallies) for key in (*keys, "files")}
    return {**total, "sources": by_source}


def _require_held_out(recipe: Recipe, held_out: dict[str, Any]) -> None:
    """Said here, before hours of training whose result nobody could measure."""
    if held_out["bytes"] < recipe.shards.min_held_out_bytes:
        raise ParakeetError(
            f"Only {held_out['documents']:,} documents with {held_out['bytes']:,} bytes are held out, too little to "
            f"measure a model with ({recipe.shards.min_held_out_bytes:,} bytes are needed). Add text, or raise "
            f"deduplication.held_out_fraction (now {recipe.deduplication.held_out_fraction})."
        )
