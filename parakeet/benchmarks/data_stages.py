"""The data stages one after the other, each in a process of its own: seconds, memory, bytes on disk."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parakeet.benchmarks.data_corpus import LICENCE, SOURCE, varied, write_files
from parakeet.benchmarks.data_process import Ran, run_apart
from parakeet.data.tokens.shards import SPLITS
from parakeet.progress import Progress
from parakeet.recipe import (
    Clean,
    Executor,
    LaterRows,
    ModelSettings,
    Packing,
    Quality,
    Recipe,
    Repetition,
    Shards,
    Training,
)
from parakeet.recipe_sources import FileSource
from parakeet.stages import stage_named

STAGES = ("documents", "clean_documents", "deduplicated_documents", "token_shards", "packing_plan")
ROW_TOKENS = (1024, 2048, 8192)
HELD_FOR_ALL = ("deduplicated_documents", "packing_plan")
"""Stages that hold something of every document: ids and clusters, lengths and rows."""


@dataclass(frozen=True)
class StageRun:
    """One stage over a corpus. `artefact` and `scratch` are bytes on disk: what it leaves, and what it worked with."""

    stage: str
    ran: Ran
    documents: int
    artefact: int
    scratch: int

    def as_json(self) -> dict[str, Any]:
        values = {key: value for key, value in asdict(self).items() if key != "ran"}
        memory = {"memory": self.ran.memory.peak, "memory_main": self.ran.memory.main}
        memory["memory_workers"] = self.ran.memory.workers
        return {**values, "seconds": self.ran.seconds, "steps": self.ran.steps, **memory}


@dataclass(frozen=True)
class Chain:
    """All stages over `n_bytes` of text."""

    n_bytes: int
    runs: Sequence[StageRun]

    def of(self, stage: str) -> StageRun:
        return next(run for run in self.runs if run.stage == stage)

    def rate(self, stage: str) -> float:
        """Bytes of the corpus a second: of what the first stage reads, not of what is left for this one."""
        return self.n_bytes / self.of(stage).ran.seconds

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.n_bytes, "stages": [run.as_json() for run in self.runs]}


def bench_recipe(workers: int, path: str = "") -> Recipe:
    """All filters on, everything else as it is by default; `path` is the folder that the documents are read from."""
    return Recipe(
        name="bench",
        sources=[FileSource(name=SOURCE, path=path, licence=LICENCE)],
        clean=Clean(repetition=Repetition(), quality=Quality()),
        shards=Shards(min_held_out_bytes=0),
        packing=Packing(row_tokens=ROW_TOKENS[0], then=[LaterRows(row_tokens=n, share=0.1) for n in ROW_TOKENS[1:]]),
        model=ModelSettings(layers=1, heads=1, width=8, context=max(ROW_TOKENS)),
        training=Training(tokens=max(ROW_TOKENS), batch_tokens=max(ROW_TOKENS), learning_rate=1e-3),
        executor=Executor(workers=workers),
    )


def run_stage(name: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path) -> Ran:
    return run_apart(stage_named(name).make, recipe, inputs, output)


def run_chain(
    blocks: Sequence[str], n_bytes: int, tokenizer: Path, workers: int, folder: Path, keep: set[str], progress: Progress
) -> Chain:
    """Write `n_bytes` of varied text, and make every stage of it. Of the artefacts those in `keep` stay."""
    corpus = folder / "corpus"
    progress.say(f"writing {n_bytes / 1e6:,.0f} MB of text")
    written = write_files(corpus, varied(blocks, n_bytes, seed=1))
    recipe = bench_recipe(workers, str(corpus))
    made = {"tokenizer": tokenizer}
    runs = []
    for name in STAGES:
        progress.say(f"{name} of {n_bytes / 1e6:,.0f} MB")
        needed = stage_named(name).inputs
        made[name] = folder / name
        ran = run_stage(name, recipe, {stage: made[stage] for stage in needed}, made[name])
        scratch = _size(made[name] / "work")
        artefact = _size(made[name]) - scratch
        runs.append(StageRun(name, ran, _documents(ran.counts), artefact, scratch))
        shutil.rmtree(made[name] / "work", ignore_errors=True)
        for stage in made.keys() - keep - _needed_after(name) - {"tokenizer"}:
            shutil.rmtree(made.pop(stage))
        if name == "documents":
            shutil.rmtree(corpus)
    return Chain(written, runs)


def _needed_after(name: str) -> set[str]:
    return {needed for stage in STAGES[STAGES.index(name) + 1 :] for needed in stage_named(stage).inputs}


def _documents(counts: Mapping[str, Any]) -> int:
    """What a stage's counts say of documents: over all, by split (shards) or by source (the plan)."""
    if "documents" in counts:
        return int(counts["documents"])
    parts = counts["mix"].values() if "mix" in counts else [counts[split] for split in SPLITS]
    return sum(int(part["documents"]) for part in parts)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
