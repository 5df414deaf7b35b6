"""The datatrove steps of cleaning and deduplication, and the one way in which they are run.

Only the stage functions import this module: it brings datatrove with it.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from datatrove.data import Document as Item
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text
from loguru import logger

from parakeet.data.words import RegexWordTokenizer
from parakeet.progress import Task
from parakeet.recipe import Deduplication

# datatrove re-adds its handler on standard error for every task, so only its name can be silenced. At import,
# because a worker process reaches this module by unpickling the steps, and no earlier.
logger.disable("datatrove")

SHINGLES_AT_ONCE = 256
SIGNATURES_AT_ONCE = 512
POLL_SECONDS = 0.5


class BlankUnsearched(PipelineStep):
    """Empties the text of rows that `searched/<task>.npy` does not mark.

    They stay in the stream, so that a document's number in datatrove's files is its row in the part.
    """

    name = "Blank rows that are not searched"
    type = "Filter"

    def __init__(self, searched: Path) -> None:
        super().__init__()
        self.searched = searched

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        marks = np.load(self.searched / f"{rank:05d}.npy")
        for item, marked in zip(data, marks, strict=True):
            yield item if marked else replace(item, text="")


def minhash_config(settings: Deduplication) -> MinhashConfig:
    """Numbers are not normalised: two sums that differ only in their numbers would collide in every bucket."""
    return MinhashConfig(
        n_grams=settings.shingle_words,
        num_buckets=settings.buckets,
        hashes_per_bucket=settings.hashes_per_bucket,
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
        norm_config=TextNormConfig(norm_numbers=False),
    )


class Signatures(MinhashDedupSignature):
    """datatrove's MinHash signatures, for documents of `min_words` words and more."""

    def __init__(self, folder: Path, settings: Deduplication) -> None:
        super().__init__(str(folder), minhash_config(settings), language=RegexWordTokenizer())
        self.min_words = settings.min_words
        # ASCII has no diacritics; not looking for them character by character doubles the speed of this step.
        self.ascii_norm = replace(self.config.norm_config, norm_unicode_diacritics=False)

    def get_shingles(self, text: str) -> np.ndarray:
        """Hashes of the word n-grams: uint64 of shape (shingles, 1), empty for a document that is too short.

        Hashes bytes, since xxhash 4 refuses the strings that datatrove hands it.
        """
        words = self.word_tokenizer.word_tokenize(
            simplify_text(text, self.ascii_norm if text.isascii() else self.config.norm_config)
        )
        if len(words) < self.min_words:
            return np.empty((0, 1), np.uint64)
        hashes = [self._hash_func(" ".join(gram).encode()) for gram in ngrams(words, self.config.n_grams)]
        return np.array(hashes, np.uint64).reshape(-1, 1)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """As datatrove's, a few shingles at a time: all at once takes 0.6 GB for a book of 2 MB."""
        chunks = range(0, len(shingles), SHINGLES_AT_ONCE)
        smallest = [super(Signatures, self).get_signature(shingles[at : at + SHINGLES_AT_ONCE]) for at in chunks]
        return np.min(np.array(smallest, np.uint64), axis=0).tolist()


class Buckets(MinhashDedupBuckets):
    """datatrove's search for equal signatures. `counts/<task>` says that a bucket is done, for `watch`."""

    def __init__(self, signatures: Path, folder: Path, settings: Deduplication, counts: Path) -> None:
        config = minhash_config(settings)
        super().__init__(str(signatures), str(folder), config=config, lines_to_buffer=SIGNATURES_AT_ONCE)
        self.counts = counts

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        super().run(data, rank, world_size)
        _count(self.counts, rank, 1)


def run_tasks(steps: Sequence[PipelineStep], tasks: int, workers: int, logs: Path) -> None:
    """Run every task of a pipeline, and write nothing that depends on `workers`.

    One worker works in this process: datatrove's executor takes 2 to 5 s to start even for one. Never by fork:
    datatrove's pool then hangs inside Dagster, whose signal handlers the workers would inherit.
    """
    if workers == 1:
        for rank in range(tasks):
            data = None
            for step in steps:
                data = step(data, rank, tasks)
            deque(data or (), maxlen=0)
        return
    method = "spawn" if os.name == "nt" else "forkserver"
    LocalPipelineExecutor(list(steps), tasks, workers, logging_dir=str(logs), start_method=method).run()


def _count(folder: Path, rank: int, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rank:05d}").write_text(str(number))


@contextmanager
def watch(task: Task, counts: Path) -> Iterator[None]:
    """Advance `task` to the sum of the numbers in the files of `counts` while the block runs, and at its end."""
    over = Event()

    def poll() -> None:
        while True:
            last = over.wait(POLL_SECONDS)
            # A file that is being written anew reads as empty for an instant.
            done = sum(int(path.read_text() or 0) for path in counts.glob("*"))
            if done > task.done:
                task.advance(done - task.done)
            if last:
                return

    thread = Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
