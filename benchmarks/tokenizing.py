"""The stage `token_shards` beside bare tiktoken: the same texts in as many processes, without reading and writing."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from parakeet.benchmarks.corpus import write_documents
from parakeet.benchmarks.data import STAGES, Ran, run_work
from parakeet.data.documents import parts, read_documents
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.tokenizer import Tokenizer

WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Tokenising:
    """Seconds of every round over `n_bytes` of text: the whole stage, bare tiktoken's process, and its encoding alone.

    `starting` is the stage over next to no text: processes, imports, a tokenizer in each.
    """

    n_bytes: int
    documents: int
    stage: tuple[float, ...]
    starting: tuple[float, ...]
    bare: tuple[float, ...]
    bare_with_start: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        """The stage's speed beside bare encoding's, both without their start; None when the stage is only its start."""
        working = median(self.stage) - median(self.starting)
        return median(self.bare) / working if working > 0 else None

    @property
    def whole_ratio(self) -> float:
        """The speed of the whole stage, with its start, beside bare encoding without one."""
        return median(self.bare) / median(self.stage)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "whole_ratio": self.whole_ratio}


def measure_tokenising(
    recipe: Recipe, inputs: Mapping[str, Path], rounds: int, scratch: Path, progress: Progress
) -> Tokenising:
    """The stage and bare tiktoken in turn, on the same documents."""
    make = STAGES["token_shards"][0]
    short = {**inputs, "deduplicated_documents": scratch / "short"}
    workers = recipe.executor.workers
    write_documents(scratch / "short", ["Hello there."] * 2 * workers, workers)
    works = {
        "stage": (make, inputs),
        "starting": (make, short),
        "bare": (f"{__name__}:encode_bare", inputs),
    }
    samples: dict[str, list[Ran]] = {name: [] for name in works}
    for number in range(rounds):
        for name, (work, read) in works.items():
            progress.say(f"tokenise, {name}, round {number + 1} of {rounds}")
            samples[name].append(run_work(work, recipe, read, scratch / name))
            shutil.rmtree(scratch / name)
    counts = samples["stage"][0].counts
    seconds = {name: tuple(ran.seconds for ran in rans) for name, rans in samples.items()}
    return Tokenising(
        n_bytes=counts["train"]["bytes"] + counts["held_out"]["bytes"],
        documents=counts["train"]["documents"] + counts["held_out"]["documents"],
        stage=seconds["stage"],
        starting=seconds["starting"],
        bare=tuple(ran.counts["seconds"] for ran in samples["bare"]),
        bare_with_start=seconds["bare"],
    )


def encode_bare(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Work for `run_work`: tiktoken's own call on texts in memory, in as many processes as there are workers.

    Returns {"seconds", "tokens"}. The time runs from when all have their texts until the last has its ids.
    """
    workers = recipe.executor.workers
    # Like the workers of a stage, these inherit nothing.
    context = get_context("spawn")
    ready, answers = context.Barrier(workers + 1, timeout=WAIT_SECONDS), context.Queue()
    paths = parts(inputs["deduplicated_documents"])
    processes = [
        context.Process(target=_encode, args=(inputs["tokenizer"], paths, number, workers, ready, answers), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    tokens = sum(answers.get(timeout=WAIT_SECONDS) for _ in processes)
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return {"seconds": seconds, "tokens": tokens}


def _encode(folder: Path, paths: Sequence[Path], number: int, workers: int, ready: Any, answers: Any) -> None:
    encoding = Tokenizer.load(folder).encoding
    documents = enumerate(read_documents(paths))
    texts = [document.content for at, document in documents if at % workers == number]
    ready.wait()
    answers.put(sum(len(encoding.encode_to_numpy(text, disallowed_special=())) for text in texts))
