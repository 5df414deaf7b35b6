"""The stage `token_shards` beside bare tiktoken: the same texts in as many processes, without reading and writing."""

import shutil
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from parakeet.benchmarks.corpus import write_documents
from parakeet.benchmarks.data import STAGES, Ran, run_work
from parakeet.data.documents import parts, read_documents
from parakeet.data.tokens.shards import SPLITS
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.tokenizer import Tokenizer

WAIT_SECONDS = 600.0


def measure_tokenizing(
    recipe: Recipe, inputs: Mapping[str, Path], rounds: int, scratch: Path, progress: Progress
) -> dict[str, Any]:
    """The stage and bare tiktoken in turn, on the same documents: seconds of every round.

    `stage` is the whole stage; `starting` the stage over next to no text, which starts processes and loads a tokenizer
    in each; `bare_with_start` the whole process of bare tiktoken, and `bare` its encoding alone. `ratio` is the speed
    of the stage beside bare encoding, both without their start; None if the stage took no longer than its start.
    """
    make = STAGES["token_shards"][0]
    workers = recipe.executor.workers
    write_documents(scratch / "short", ["Hello there."] * 2 * workers, workers)
    works = {
        "stage": (make, inputs),
        "starting": (make, {**inputs, "deduplicated_documents": scratch / "short"}),
        "bare_with_start": (f"{__name__}:encode_bare", inputs),
    }
    samples: dict[str, list[Ran]] = {name: [] for name in works}
    for number in range(rounds):
        for name, (work, read) in works.items():
            progress.say(f"tokenize, {name}, round {number + 1} of {rounds}")
            samples[name].append(run_work(work, recipe, read, scratch / name))
            shutil.rmtree(scratch / name)
    splits = [samples["stage"][0].counts[split] for split in SPLITS]
    seconds = {name: [ran.seconds for ran in rans] for name, rans in samples.items()}
    seconds["bare"] = [ran.counts["seconds"] for ran in samples["bare_with_start"]]
    working = median(seconds["stage"]) - median(seconds["starting"])
    ratio = median(seconds["bare"]) / working if working > 0 else None
    totals = {"bytes": sum(split["bytes"] for split in splits), "documents": sum(s["documents"] for s in splits)}
    return {**totals, **seconds, "ratio": ratio}


def encode_bare(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Work for `run_work`: tiktoken's own call on texts in memory, in as many processes as there are workers.

    The time runs from when all processes have their texts until the last has its ids.
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
