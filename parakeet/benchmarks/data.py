"""`parakeet bench data`: speed, memory and disk space of the data stages on this machine, and a forecast for 50 GB."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from parakeet.benchmarks.corpus import (
    LICENCE,
    SOURCE,
    invented_blocks,
    read_blocks,
    save_tokenizer,
    varied,
    write_files,
)
from parakeet.benchmarks.process import Answer, MeasuringProcess, MemorySampler, print_result
from parakeet.data.tokens.shards import SPLITS
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.recipe import (
    Clean,
    Executor,
    LaterSequences,
    ModelSettings,
    Packing,
    Quality,
    Recipe,
    Repetition,
    Shards,
    Training,
)
from parakeet.recipe_sources import FileSource

MB, MIB = 1_000_000, 1 << 20
STAGES = {
    "documents": ("parakeet.data.reading.collect:collect_documents", ()),
    "clean_documents": ("parakeet.data.cleaning.clean:clean_documents", ("documents",)),
    "deduplicated_documents": (
        "parakeet.data.deduplication.deduplicate:deduplicate_documents",
        ("clean_documents",),
    ),
    "token_shards": ("parakeet.data.tokens.tokenise:make_token_shards", ("deduplicated_documents", "tokenizer")),
    "packing_plan": ("parakeet.data.tokens.packing:make_packing_plan", ("token_shards",)),
}
"""The function that does each stage's work, and what it reads."""
ROW_TOKENS = (1024, 2048, 8192)
CORPUS_BYTES = 50_000_000_000
DISK_SHARE = 4
"""The stages need at most this many times the text on the disk."""


@dataclass(frozen=True)
class Ran:
    """A stage's work in a process of its own."""

    seconds: float
    """From the start of the process to its end."""
    counts: dict[str, Any]
    tasks: dict[str, float] = field(default_factory=dict)
    """Seconds of each task that the work reported progress of."""
    peak: int = 0
    """Most bytes of memory that the process and its workers held together."""
    main: int = 0
    """Of the process itself, which holds what the stage knows of every document."""
    workers: int = 0


@dataclass(frozen=True)
class StageRun:
    """One stage over a corpus. `artefact` and `scratch`: bytes on disk that it leaves, and that it worked with."""

    stage: str
    ran: Ran
    documents: int
    artefact: int
    scratch: int

    def as_json(self) -> dict[str, Any]:
        ran = self.ran
        memory = {"memory": ran.peak, "memory_main": ran.main, "memory_workers": ran.workers}
        sizes = {"documents": self.documents, "artefact": self.artefact, "scratch": self.scratch}
        return {"stage": self.stage, "seconds": ran.seconds, "steps": ran.tasks, **sizes, **memory}


@dataclass(frozen=True)
class Chain:
    """All stages over `n_bytes` of text."""

    n_bytes: int
    runs: Sequence[StageRun]

    def of(self, stage: str) -> StageRun:
        return next(run for run in self.runs if run.stage == stage)

    def rate(self, run: StageRun) -> float:
        """Bytes a second of the corpus, which is more than reaches the later stages."""
        return self.n_bytes / run.ran.seconds

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.n_bytes, "stages": [run.as_json() for run in self.runs]}


def run(text: Sequence[str], megabytes: int, workers: int) -> None:
    """A table of the stages, the forecast, then one JSON line. `workers` 0 is one per core."""
    workers = workers or os.cpu_count() or 1
    require_room(megabytes * MB)
    with tempfile.TemporaryDirectory(prefix="parakeet-data-") as name:
        folder = Path(name)
        blocks = read_blocks(text) if text else invented_blocks()
        tokenizer = save_tokenizer(folder / "tokenizer", blocks)
        chain = run_chain(blocks, megabytes * MB, folder / "tokenizer", workers, folder / "chain", set(), Progress())
    print_chain(chain)
    values = {"benchmark": "data", "text": [Path(path).name for path in text], "workers": workers}
    values |= {"tokenizer": tokenizer.name, "chain": chain.as_json(), "forecast": print_forecast(chain, workers)}
    print_result(values)


def require_room(text_bytes: int) -> None:
    folder, needed = tempfile.gettempdir(), DISK_SHARE * text_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ParakeetError(
            f"{folder} has {free / 1e9:,.1f} GB free, and the stages need up to {needed / 1e9:,.1f} GB. "
            "Make room, set TMPDIR to a folder with more, or lower --megabytes."
        )


def bench_recipe(workers: int, path: str = "") -> Recipe:
    """Default settings with all filters on. `path`: the folder that the documents are read from."""
    return Recipe(
        name="bench",
        sources=[FileSource(name=SOURCE, path=path, licence=LICENCE)],
        clean=Clean(repetition=Repetition(), quality=Quality()),
        shards=Shards(min_held_out_bytes=0),
        packing=Packing(
            sequence_length=ROW_TOKENS[0], then=[LaterSequences(sequence_length=n, share=0.1) for n in ROW_TOKENS[1:]]
        ),
        model=ModelSettings(layers=1, heads=1, width=8, context=max(ROW_TOKENS)),
        training=Training(tokens=max(ROW_TOKENS), batch_tokens=max(ROW_TOKENS), learning_rate=1e-3),
        executor=Executor(workers=workers),
    )


def run_chain(
    blocks: Sequence[str], n_bytes: int, tokenizer: Path, workers: int, folder: Path, keep: set[str], progress: Progress
) -> Chain:
    """Write `n_bytes` of varied text and run every stage over it. Only the artefacts of the stages in `keep` remain."""
    corpus = folder / "corpus"
    progress.say(f"writing {n_bytes / MB:,.0f} MB of text")
    written = write_files(corpus, varied(blocks, n_bytes, seed=1))
    recipe = bench_recipe(workers, str(corpus))
    made = {"tokenizer": tokenizer}
    runs = []
    for name, (make, inputs) in STAGES.items():
        progress.say(f"{name} of {n_bytes / MB:,.0f} MB")
        output = made[name] = folder / name
        ran = run_work(make, recipe, {one: made[one] for one in inputs}, output)
        scratch = _size(output / "work")
        runs.append(StageRun(name, ran, _documents(ran.counts), _size(output) - scratch, scratch))
        shutil.rmtree(output / "work", ignore_errors=True)
        for stage in made.keys() - keep - _needed_after(name) - {"tokenizer"}:
            shutil.rmtree(made.pop(stage))
        if name == "documents":
            shutil.rmtree(corpus)
    return Chain(written, runs)


def run_work(make: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path) -> Ran:
    """Call `make` ("module:function", with a stage's arguments) in a process of its own; `output` must not exist."""
    output.mkdir(parents=True)
    paths = {name: str(path) for name, path in inputs.items()}
    request = {"make": make, "recipe": recipe.model_dump(mode="json"), "inputs": paths, "output": str(output)}
    began = time.perf_counter()
    with (
        MeasuringProcess(f"{__name__}:work", request) as process,
        MemorySampler(process.pid) as memory,
    ):
        answer = process.ask()
        process.finish()
    seconds = time.perf_counter() - began
    if "refused" in answer:
        raise ParakeetError(f"{make}: {answer['refused']}")
    return Ran(seconds, answer["counts"], answer["tasks"], memory.peak, memory.main, memory.workers)


class _Stopwatch(Progress):
    """Keeps the seconds of every task."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        began = time.perf_counter()
        with super().task(name, total, unit) as task:
            yield task
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def work(request: dict[str, Any]) -> Answer:
    """In the process: do it."""
    module, _, function = request["make"].partition(":")
    recipe = Recipe.model_validate(request["recipe"])
    inputs = {name: Path(path) for name, path in request["inputs"].items()}
    progress = _Stopwatch()
    counts = getattr(import_module(module), function)(recipe, inputs, Path(request["output"]), progress)
    return {"counts": counts, "tasks": progress.seconds}


def print_chain(chain: Chain) -> None:
    click.echo(
        f"{f'Stages over {chain.n_bytes / MB:,.0f} MB':<26}{'seconds':>9}{'MB/s':>8}{'peak MiB':>10}{'itself':>8}"
        f"{'workers':>9}{'documents':>11}{'disk MB':>9}{'scratch':>9}"
    )
    for run in chain.runs:
        ran = run.ran
        click.echo(
            f"  {run.stage:<24}{ran.seconds:>9.1f}{chain.rate(run) / MB:>8.2f}{ran.peak / MIB:>10,.0f}"
            f"{ran.main / MIB:>8,.0f}{ran.workers / MIB:>9,.0f}{run.documents:>11,}{run.artefact / MB:>9,.1f}"
            f"{run.scratch / MB:>9,.1f}"
        )
    click.echo()


def print_forecast(chain: Chain, workers: int) -> list[dict[str, Any]]:
    """What 50 GB would take at these rates: hours and disk space in proportion, start-up time included."""
    times = CORPUS_BYTES / chain.n_bytes
    rows: list[dict[str, Any]] = [
        {
            "stage": run.stage,
            "megabytes_per_second": chain.rate(run) / MB,
            "hours": times * run.ran.seconds / 3600,
            "artefact": round(times * run.artefact),
            "scratch": round(times * run.scratch),
        }
        for run in chain.runs
    ]
    title = f"50 GB with {workers} worker{'' if workers == 1 else 's'}"
    click.echo(f"{title:<26}{'MB/s':>8}{'hours':>8}{'disk GB':>10}{'scratch GB':>12}")
    for row in rows:
        click.echo(
            f"  {row['stage']:<24}{row['megabytes_per_second']:>8.2f}{row['hours']:>8.2f}{row['artefact'] / 1e9:>10.1f}"
            f"{row['scratch'] / 1e9:>12.1f}"
        )
    hours, disk = sum(row["hours"] for row in rows), sum(row["artefact"] for row in rows)
    click.echo(f"  {'all':<24}{'':>8}{hours:>8.2f}{disk / 1e9:>10.1f}\n")
    return rows


def _needed_after(name: str) -> set[str]:
    names = list(STAGES)
    return {needed for stage in names[names.index(name) + 1 :] for needed in STAGES[stage][1]}


def _documents(counts: Mapping[str, Any]) -> int:
    """Documents in a stage's counts, which may be by split (shards) or by source (the plan)."""
    if "documents" in counts:
        return int(counts["documents"])
    parts = counts["mix"].values() if "mix" in counts else [counts[split] for split in SPLITS]
    return sum(int(part["documents"]) for part in parts)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
