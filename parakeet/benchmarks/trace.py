"""`parakeet bench trace`: how fast the trace index is built, with how much memory, and how fast it answers."""

import numpy as np

from parakeet.data.tokens.shards import ranges

VOCABULARY = 100_288
PHRASES = 400_000
MOST_PHRASE_TOKENS = 6
DOCUMENT_TOKENS = 600
COPIED = 0.05
"""Share of the documents that are a copy of another one, in whole or in part."""


class Corpus:
    """Documents in memory that `build_index` takes in place of token shards: `ids` (Σ lengths,) one after the other."""

    directory = "the benchmark's text"
    names = ("invented",)

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, rows: int = VOCABULARY) -> None:
        self.ids = ids.astype(np.uint32)
        self.vocabulary_rows = rows
        self._lengths = lengths.astype(np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self) -> np.ndarray:
        return self._lengths

    def sources(self) -> np.ndarray:
        return np.zeros(len(self), np.int16)

    def doc_ids(self) -> np.ndarray:
        return np.stack([np.zeros(len(self), np.uint64), np.arange(len(self), dtype=np.uint64)], axis=1)

    def doc_id(self, number: int) -> bytes:
        return number.to_bytes(16, "big")

    def read(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self.ids[ranges(self._starts[documents] + starts, lengths)]


def invented(tokens: int, seed: int = 1) -> Corpus:
    """About as repetitive as text: ids and phrases by Zipf's law, and some documents copied from others.

    Texts of all seeds have the same phrases.
    """
    draw = np.random.default_rng(0)
    ids_of_phrases = draw.permutation(VOCABULARY)[_zipf(draw, VOCABULARY, PHRASES * MOST_PHRASE_TOKENS)]
    lengths_of_phrases = draw.integers(1, MOST_PHRASE_TOKENS + 1, PHRASES)
    draw = np.random.default_rng([seed, tokens])
    phrases = _zipf(draw, PHRASES, 2 * tokens // MOST_PHRASE_TOKENS + 1)
    counts = lengths_of_phrases[phrases]
    ids = np.empty(tokens, np.uint32)
    filled, piece = 0, 1 << 20
    for begin in range(0, len(phrases), piece):
        part = slice(begin, begin + piece)
        found = ids_of_phrases[ranges(phrases[part] * MOST_PHRASE_TOKENS, counts[part])][: tokens - filled]
        ids[filled : filled + len(found)] = found
        filled += len(found)
    ids = ids[:filled]
    lengths = draw.geometric(1 / DOCUMENT_TOKENS, max(1, filled // DOCUMENT_TOKENS))
    ends = np.cumsum(lengths)
    lengths = lengths[: np.searchsorted(ends, filled)]
    used = int(lengths.sum())
    lengths = np.append(lengths, filled - used)
    starts = np.cumsum(lengths) - lengths
    for to in np.flatnonzero(draw.random(len(lengths)) < COPIED).tolist():
        other = int(draw.integers(len(lengths)))
        n = min(int(lengths[to]), int(lengths[other]))
        ids[starts[to] : starts[to] + n] = ids[starts[other] : starts[other] + n]
    return Corpus(ids, lengths)


def _zipf(draw: np.random.Generator, kinds: int, n: int) -> np.ndarray:
    """(n,) numbers below `kinds`; number k is drawn in proportion to 1 / (k + 3)."""
    # The inverse of the integral of 1 / (x + 3), in place of a table: the same law, without a search for each.
    return np.minimum((3 * ((kinds + 3) / 3) ** draw.random(n) - 3).astype(np.int64), kinds - 1)
