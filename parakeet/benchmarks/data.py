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
from parakeet.formatting import format_bytes, format_count, format_duration, render_table
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

MB = 1_000_000
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
SEQUENCE_LENGTHS = (1024, 2048, 8192)
CORPUS_BYTES = 50_000_000_000
DISK_SHARE = 4
"""The stages need at most this many times the size of the text on disk."""


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


Chain = dict[str, Any]
"""All stages over a corpus: its `bytes`, and a row for each of its `stages`, as in the JSON line."""


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
    print_result(values | {"tokenizer": tokenizer.name, "chain": chain, "forecast": print_forecast(chain, workers)})


def require_room(text_bytes: int) -> None:
    folder, needed = tempfile.gettempdir(), DISK_SHARE * text_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ParakeetError(
            f"{folder} has {format_bytes(free)} free, and the stages need up to {format_bytes(needed)}. "
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
            sequence_length=SEQUENCE_LENGTHS[0],
            then=[LaterSequences(sequence_length=n, share=0.1) for n in SEQUENCE_LENGTHS[1:]],
        ),
        model=ModelSettings(layers=1, heads=1, width=8, context=max(SEQUENCE_LENGTHS)),
        training=Training(tokens=max(SEQUENCE_LENGTHS), batch_tokens=max(SEQUENCE_LENGTHS), learning_rate=1e-3),
        executor=Executor(workers=workers),
    )


def run_chain(
    blocks: Sequence[str], n_bytes: int, tokenizer: Path, workers: int, folder: Path, keep: set[str], progress: Progress
) -> Chain:
    """Write `n_bytes` of varied text and run every stage over it. Only the artefacts of the stages in `keep` remain."""
    corpus = folder / "corpus"
    progress.say(f"writing {format_bytes(n_bytes)} of text")
    written = write_files(corpus, varied(blocks, n_bytes, seed=1))
    recipe = bench_recipe(workers, str(corpus))
    made = {"tokenizer": tokenizer}
    rows = []
    for number, (name, (make, inputs)) in enumerate(STAGES.items()):
        progress.say(f"{name} of {format_bytes(n_bytes)}")
        output = made[name] = folder / name
        ran = run_work(make, recipe, {one: made[one] for one in inputs}, output)
        scratch = _size(output / "work")
        row = {"stage": name, "seconds": ran.seconds, "steps": ran.tasks, "documents": _documents(ran.counts)}
        row |= {"artefact": _size(output) - scratch, "scratch": scratch}
        rows.append(row | {"memory": ran.peak, "memory_main": ran.main, "memory_workers": ran.workers})
        shutil.rmtree(output / "work", ignore_errors=True)
        needed = {one for _, later in list(STAGES.values())[number + 1 :] for one in later}
        for stage in made.keys() - keep - needed - {"tokenizer"}:
            shutil.rmtree(made.pop(stage))
        if name == "documents":
            shutil.rmtree(corpus)
    return {"bytes": written, "stages": rows}


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
    columns = ("stage", "time", "text/s", "peak memory", "itself", "workers", "documents", "disk", "scratch")
    rows = [
        (
            row["stage"],
            format_duration(row["seconds"]),
            format_bytes(chain["bytes"] / row["seconds"]),
            *(format_bytes(row[key]) for key in ("memory", "memory_main", "memory_workers")),
            format_count(row["documents"]),
            *(format_bytes(row[key]) for key in ("artefact", "scratch")),
        )
        for row in chain["stages"]
    ]
    click.echo(f"Stages over {format_bytes(chain['bytes'])}\n{render_table(columns, rows, right=range(1, 9))}\n")


def print_forecast(chain: Chain, workers: int) -> list[dict[str, Any]]:
    """Time and disk space for 50 GB, in proportion: start-up time grows too."""
    times = CORPUS_BYTES / chain["bytes"]
    forecast = [
        {
            "stage": row["stage"],
            "hours": times * row["seconds"] / 3600,
            "artefact": round(times * row["artefact"]),
            "scratch": round(times * row["scratch"]),
        }
        for row in chain["stages"]
    ]
    total = {key: sum(row[key] for row in forecast) for key in ("hours", "artefact")}
    rows = [
        (
            row["stage"],
            format_duration(3600 * row["hours"]),
            format_bytes(row["artefact"]),
            format_bytes(row["scratch"]) if "scratch" in row else "",
        )
        for row in [*forecast, {"stage": "all", **total}]
    ]
    table = render_table(("stage", "time", "disk", "scratch"), rows, right=(1, 2, 3))
    click.echo(f"50 GB with {workers} worker{'' if workers == 1 else 's'}\n{table}\n")
    return forecast


def _documents(counts: Mapping[str, Any]) -> int:
    """Documents in a stage's counts, which may be by split (shards) or by source (the plan)."""
    if "documents" in counts:
        return int(counts["documents"])
    parts = counts["mix"].values() if "mix" in counts else [counts[split] for split in SPLITS]
    return sum(int(part["documents"]) for part in parts)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
