"""The datatrove steps of near-duplicate search: which texts are compared, their MinHash signatures, and equal bands.

The layout (signatures by bucket, a merge of sorted files, pairs) is datatrove's; how a text becomes shingles and
shingles become minima is here, in numpy over all words of a text at once. Only stage functions reach this module.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, simplify_text

from parakeet.artifact import sync_file
from parakeet.data.deduplication.exchanges import exchanges_of
from parakeet.data.tasks import count
from parakeet.data.words import RegexWordTokenizer
from parakeet.recipe import Deduplication

SHINGLES_AT_ONCE = 256
"""Minima are taken in pieces that stay in cache: all shingles of a book of 2 MB at once take 0.3 GB and are slower."""
SIGNATURES_AT_ONCE = 512
SIGNATURE_BITS = 61
"""datatrove's merge stops at 2^61 − 1, the Mersenne prime that its own hashes are taken modulo."""


class SelectExchanges(PipelineStep):
    """In place of documents, each exchange of the conversations that `kept/<task>.npy` marks, one item each."""

    name = "Select exchanges"
    type = "Filter"

    def __init__(self, kept: Path) -> None:
        super().__init__()
        self.kept = kept

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        marks = np.load(self.kept / f"{rank:05d}.npy")
        for item, marked in zip(data, marks, strict=True):
            if marked:
                yield from (Item(text, item.id) for text in exchanges_of(item.metadata["document"]))


class BlankUnsearched(PipelineStep):
    """Empties the text of rows that `searched/<task>.npy` does not mark.

    They stay in the stream, so that a document's number in datatrove's files is its row among the task's.
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
    """datatrove's MinHash signatures, for texts of `min_words` words and more."""

    def __init__(self, folder: Path, settings: Deduplication) -> None:
        super().__init__(str(folder), minhash_config(settings), language=RegexWordTokenizer())
        self.folder = folder
        self.min_words = settings.min_words
        # ASCII has no diacritics; not looking for them character by character doubles the speed of this step.
        self.ascii_norm = replace(self.config.norm_config, norm_unicode_diacritics=False)
        random = np.random.default_rng(self.config.seed)
        self.multipliers = random.integers(0, 1 << 64, (self.num_hashes, 1), np.uint64) | np.uint64(1)
        self.additions = random.integers(0, 1 << 64, (self.num_hashes, 1), np.uint64)
        self.place_multipliers = random.integers(0, 1 << 64, settings.shingle_words, np.uint64) | np.uint64(1)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """As a generator, so that the last step of the pipeline sees what goes wrong in here."""
        super().run(data, rank, world_size)
        # Before the task is called finished: of an empty file the search would say that there is nothing to find.
        for file in self.folder.glob(f"bucket_*/{rank:05d}.minhash.sig"):
            sync_file(file)
        yield from ()

    def get_shingles(self, text: str) -> np.ndarray:
        """Hashes of the runs of `shingle_words` words: uint64 (shingles,), empty for a text that is too short.

        A word is hashed once, by xxh3, and a run's hash is a sum of its words' hashes, each times an odd number of its
        place, mixed: 2.7 × as fast as hashing the joined words of every run.
        """
        norm = self.ascii_norm if text.isascii() else self.config.norm_config
        words = self.word_tokenizer.word_tokenize(simplify_text(text, norm))
        if len(words) < max(self.min_words, self.config.n_grams):
            return np.empty(0, np.uint64)
        hashes = np.array([xxhash.xxh3_64_intdigest(word) for word in words], np.uint64)
        runs = len(words) - self.config.n_grams + 1
        shingles = np.zeros(runs, np.uint64)
        for place, multiplier in enumerate(self.place_multipliers):
            shingles += hashes[place : place + runs] * multiplier
        return mixed(shingles)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """Least value of every hash function a · x + b modulo 2^64 over the shingles, its upper 61 bits, by bucket.

        Modulo 2^64 instead of datatrove's 2^61 − 1, which takes a division: 3.5 × as fast. A permutation too, since a
        is odd, and the shingles are mixed; `python -m benchmarks.data` measures its recall against the formula.
        """
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
    """datatrove's search for equal signatures. `counts/<task>` says that a bucket is done, for `watch`."""

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
