"""Near-duplicate search: which texts are compared, their MinHash signatures, and the pairs that share a bucket.

The layout (signatures by bucket, a merge of sorted files, pairs) is datatrove's. How a text becomes shingles and
shingles become minima is here, in numpy over all words of a text at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document as Item
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, simplify_text

from parakeet.artifact import sync_file
from parakeet.data.deduplication.exchanges import exchanges_of
from parakeet.data.documents import BYTES_PER_PART, Document, ReadParts, content_bytes, part_groups
from parakeet.data.marks import stream_safe
from parakeet.data.tasks import count, run_tasks, watch
from parakeet.data.words import RegexWordTokenizer
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Deduplication, Recipe

MOST_SIGNATURE_TASKS = 96
"""About, and never twice as many. Each task leaves a file for every bucket, and the search opens all files of a bucket,
each twice: a process may open 1,024."""
SHINGLES_AT_ONCE = 256
"""Minima are taken in pieces that stay in cache. All shingles of a 2 MB book at once take 0.3 GB and are slower."""
SIGNATURES_AT_ONCE = 512
SIGNATURE_BITS = 61
"""datatrove's merge stops at 2^61 − 1, the Mersenne prime that its own hashes are taken modulo."""


@dataclass(frozen=True)
class NearDuplicateSearch:
    """Searches the parts of one artefact, in the folder `work` of a stage."""

    recipe: Recipe
    paths: Sequence[Path]
    part_sizes: Sequence[int]
    """Documents in each part."""
    work: Path
    progress: Progress

    @property
    def groups(self) -> list[range]:
        """The parts that each signing task reads."""
        bytes_of = [path.stat().st_size for path in self.paths]
        return part_groups(bytes_of, BYTES_PER_PART // 4, MOST_SIGNATURE_TASKS)

    def pairs(self, searched: np.ndarray) -> Iterator[np.ndarray]:
        """For each bucket, int64 (pairs, 2): document numbers with equal signatures, of those that `searched` marks.

        Documents of one signature are a chain: the second of a pair is the first of the next. `searched` is (bool, n).
        """
        return self._pairs("documents", searched, [self._documents_in(group) for group in self.groups], None)

    def pairs_of_exchanges(
        self, kept: np.ndarray, searched: np.ndarray, exchanges: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """The same for exchanges, numbered over all documents that `kept` (bool, n) marks.

        `searched` is (bool, exchanges); `exchanges` is their number in each part.
        """
        folder = self.work / "exchanges" / "kept"
        self._save(folder, kept, [self._documents_in(group) for group in self.groups])
        sizes = [sum(exchanges[group.start : group.stop]) for group in self.groups]
        return self._pairs("exchanges", searched, sizes, folder)

    def _documents_in(self, group: range) -> int:
        return sum(self.part_sizes[group.start : group.stop])

    def _pairs(
        self, what: str, searched: np.ndarray, sizes: Sequence[int], exchanges_of_kept: Path | None
    ) -> Iterator[np.ndarray]:
        """`sizes`: how many texts each task signs."""
        settings, work = self.recipe.deduplication, self.work / what
        self._save(work / "searched", searched, sizes)
        groups = [[self.paths[number] for number in group] for group in self.groups]
        steps = [
            ReadParts(groups, work / "read"),
            SearchedTexts(work / "searched", exchanges_of_kept),
            Signatures(work / "signatures", settings),
        ]
        name = f"signatures of {what}"
        with self.progress.task(name, sum(map(content_bytes, self.paths)), BYTES) as task, watch(task, work / "read"):
            run_tasks(steps, len(groups), self.recipe.executor, work / "signing")
        search = Buckets(work / "signatures", work / "pairs", settings, work / "compared")
        name = f"comparison of {what}"
        with self.progress.task(name, settings.buckets, "buckets") as task, watch(task, work / "compared"):
            run_tasks([search], settings.buckets, self.recipe.executor, work / "comparing")
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        for path in sorted((work / "pairs").glob("*.dups")):
            # (pairs, 4): task and text within the task, of one and of the other.
            rows = np.fromfile(path, "<u4").reshape(-1, 4).astype(np.int64)
            one, other = starts[rows[:, 0]] + rows[:, 1], starts[rows[:, 2]] + rows[:, 3]
            yield np.stack([one, other], axis=1)

    def _save(self, folder: Path, marks: np.ndarray, sizes: Sequence[int]) -> None:
        """`folder/<rank>.npy`: each task's share of `marks`."""
        folder.mkdir(parents=True, exist_ok=True)
        ends = np.cumsum(sizes)
        for rank, size in enumerate(sizes):
            np.save(folder / f"{rank:05d}.npy", marks[ends[rank] - size : ends[rank]])


@dataclass(frozen=True)
class SearchedTexts:
    """Pipeline step: the texts to sign, as datatrove's documents; those that `searched/<rank>.npy` does not mark are
    empty.

    The texts are whole documents, or the exchanges of the conversations that `exchanges_of/<rank>.npy` marks. Empty
    ones stay in the stream, because datatrove's files name a text by its position.
    """

    searched: Path
    exchanges_of: Path | None

    def __call__(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        marks = np.load(self.searched / f"{rank:05d}.npy")
        for number, (text, searched) in enumerate(zip(self._texts(data, rank), marks, strict=True)):
            yield Item(text if searched else "", str(number))

    def _texts(self, data: Iterator[Document], rank: int) -> Iterator[str]:
        if self.exchanges_of is None:
            yield from (document.content for document in data)
            return
        kept = np.load(self.exchanges_of / f"{rank:05d}.npy")
        for document, is_kept in zip(data, kept, strict=True):
            if is_kept:
                yield from exchanges_of(document)


def minhash_config(settings: Deduplication) -> MinhashConfig:
    """Numbers are not normalised: two sums that differ only in their numbers would share every bucket."""
    return MinhashConfig(
        n_grams=settings.shingle_words,
        num_buckets=settings.buckets,
        hashes_per_bucket=settings.hashes_per_bucket,
        hash_config=HashConfig(precision=64, hash_fc="xxhash"),
        norm_config=TextNormConfig(norm_numbers=False),
    )


class Signatures(MinhashDedupSignature):
    """Last step of signing: datatrove's MinHash signatures of the texts with at least `min_words` words."""

    def __init__(self, folder: Path, settings: Deduplication) -> None:
        super().__init__(str(folder), minhash_config(settings), language=RegexWordTokenizer())
        self.folder = folder
        self.min_words = settings.min_words
        # ASCII has no diacritics. Not looking for them character by character doubles the speed of this step.
        self.ascii_norm = replace(self.config.norm_config, norm_unicode_diacritics=False)
        random = np.random.default_rng(self.config.seed)
        self.multipliers = random.integers(0, 1 << 64, (self.num_hashes, 1), np.uint64) | np.uint64(1)
        self.additions = random.integers(0, 1 << 64, (self.num_hashes, 1), np.uint64)
        self.place_multipliers = random.integers(0, 1 << 64, settings.shingle_words, np.uint64) | np.uint64(1)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """A generator, so that errors reach the last step of the pipeline, which reports them."""
        super().run(data, rank, world_size)
        # Synced before the task is marked as complete: in a file that a power cut emptied, the search finds nothing.
        for file in self.folder.glob(f"bucket_*/{rank:05d}.minhash.sig"):
            sync_file(file)
        yield from ()

    def get_shingles(self, text: str) -> np.ndarray:
        """uint64 (shingles,): hashes of the runs of `shingle_words` words; none for a text that is too short.

        Each word is hashed once, by xxh3. A run's hash is the mixed sum of its words' hashes, each times an odd number
        that depends on its place: 2.7 × as fast as hashing the joined words of every run.
        """
        norm = self.ascii_norm if text.isascii() else self.config.norm_config
        words = self.word_tokenizer.word_tokenize(simplify_text(stream_safe(text), norm))
        if len(words) < max(self.min_words, self.config.n_grams):
            return np.empty(0, np.uint64)
        hashes = np.array([xxhash.xxh3_64_intdigest(word) for word in words], np.uint64)
        runs = len(words) - self.config.n_grams + 1
        shingles = np.zeros(runs, np.uint64)
        for place, multiplier in enumerate(self.place_multipliers):
            shingles += hashes[place : place + runs] * multiplier
        return mixed(shingles)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The least value of every hash function a · x + b over the shingles, its upper 61 bits, by bucket.

        It is taken modulo 2^64, 3.5 × as fast as datatrove's 2^61 − 1, which needs a division. This is a permutation
        too, because a is odd and the shingles are mixed; the data benchmark measures its recall against the formula.
        """
        # (hashes,) running minima; each piece gives (hashes, shingles of the piece).
        least = np.full(self.num_hashes, np.iinfo(np.uint64).max, np.uint64)
        for at in range(0, len(shingles), SHINGLES_AT_ONCE):
            values = shingles[at : at + SHINGLES_AT_ONCE] * self.multipliers + self.additions
            np.minimum(least, values.min(axis=1), out=least)
        least >>= np.uint64(64 - SIGNATURE_BITS)
        buckets: list[list[int]] = least.reshape(self.config.num_buckets, -1).tolist()
        return buckets


def mixed(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser (Appleby 2011) on uint64 of any shape: every bit depends on all."""
    for shift, multiplier in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
    return values ^ (values >> np.uint64(33))


class Buckets(MinhashDedupBuckets):
    """datatrove's search for equal signatures, a task a bucket. `counts/<rank>` marks a bucket as done, for `watch`."""

    def __init__(self, signatures: Path, folder: Path, settings: Deduplication, counts: Path) -> None:
        config = minhash_config(settings)
        super().__init__(str(signatures), str(folder), config=config, lines_to_buffer=SIGNATURES_AT_ONCE)
        self.folder = folder
        self.counts = counts

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        super().run(data, rank, world_size)
        for file in self.folder.glob(f"{rank:05d}_*.dups"):
            sync_file(file)
        count(self.counts, rank, 1)
        yield from ()
