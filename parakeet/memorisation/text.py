"""The text that is measured: excerpts of documents, with the tokens that the recipe trains on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parakeet.data.tokens.shards import TokenShards, ranges
from parakeet.evaluation.scoring import byte_lengths, is_control
from parakeet.tokenizer import Tokenizer

EXCERPT = 512
"""Tokens of an excerpt, in whole training sequences: a few long documents give as many excerpts as many short ones."""
MOST_DOCUMENTS = 200_000
"""So many documents, chosen at random, are looked at: of a corpus of any size the memory stays small."""


@dataclass(frozen=True)
class Places:
    """Where excerpts stand: `length` tokens of a document from `start`. Three arrays (p,) int64."""

    documents: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, numbers: np.ndarray) -> "Places":
        return Places(self.documents[numbers], self.starts[numbers], self.lengths[numbers])


def places_of(documents: np.ndarray, lengths: np.ndarray, sequence_length: int, rng: np.random.Generator) -> Places:
    """All excerpts of some documents, in a random order. lengths (all documents,) in tokens.

    Neighbours share a token, the last one of the first: so each token but the first of a document is predicted once.
    """
    width = max(EXCERPT // sequence_length, 1) * sequence_length
    chosen = rng.permutation(documents)[:MOST_DOCUMENTS]
    counts = -(-np.maximum(lengths[chosen] - 1, 0) // width)
    numbers = np.repeat(chosen, counts)
    starts = ranges(np.zeros_like(counts), counts) * width
    places = Places(numbers, starts, np.minimum(lengths[numbers] - starts, width + 1))
    return places.take(rng.permutation(len(places)))


def up_to(places: Places, most_tokens: int) -> Places:
    """The first of them, about `most_tokens` tokens, and at least one if there is any."""
    return places.take(np.arange(min(len(places), 1 + int(np.searchsorted(np.cumsum(places.lengths), most_tokens)))))


@dataclass(frozen=True)
class Excerpts:
    """Parts of documents, one after the other.

    documents (d,): the document of each, by its number in the shards. begins (d + 1,): where each begins in the other
    two, which are (n,): ids int64, and `learned`, whether the recipe trains on a token and it is content. The first
    token of an excerpt is only context.
    """

    documents: np.ndarray
    begins: np.ndarray
    ids: np.ndarray
    learned: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def lengths(self) -> np.ndarray:
        """(d,) tokens of each."""
        return np.diff(self.begins)

    @property
    def owner(self) -> np.ndarray:
        """(n,) the excerpt that each token belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def n_bytes(self, tokenizer: Tokenizer) -> np.ndarray:
        """(d,) int64: UTF-8 bytes of the learned tokens of each."""
        return self.sums(byte_lengths(tokenizer, self.ids) * self.learned).astype(np.int64)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(d,) the sum of values (n,) over each excerpt."""
        return np.bincount(self.owner, values, len(self))


def by_document(documents: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(different documents,) float64: the sum of the values (d,) of each document's excerpts, which are dependent."""
    _, owner = np.unique(documents, return_inverse=True)
    return np.bincount(owner, values).astype(np.float64)


def joined(parts: Sequence[Places]) -> Places:
    """Places of several samples, one after the other."""
    none = np.zeros(0, np.int64)
    columns = ([getattr(part, name) for part in parts] for name in ("documents", "starts", "lengths"))
    return Places(*(np.concatenate([none, *column]) for column in columns))


def read_excerpts(shards: TokenShards, places: Places, tokenizer: Tokenizer) -> Excerpts:
    """The text at these places."""
    documents, starts, taken = places.documents, places.starts, places.lengths
    ids = shards.read(documents, starts, taken).astype(np.int64)
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(taken)])
    learned = np.zeros(len(ids), np.bool_)
    whole = shards.all_targets(documents)
    learned[ranges(begins[:-1][whole], taken[whole])] = True
    if not whole.all():
        counts, bounds = shards.spans(documents[~whole])
        owner = np.repeat(np.flatnonzero(~whole), counts)
        first = np.maximum(bounds[:, 0] - starts[owner], 0)
        last = np.minimum(bounds[:, 1] - starts[owner], taken[owner])
        learned[ranges(begins[:-1][owner] + first, np.maximum(last - first, 0))] = True
    learned[begins[:-1]] = False
    learned &= ~is_control(tokenizer)[ids]
    return Excerpts(documents, begins, ids, learned)


def separated(texts: Sequence[np.ndarray] | Excerpts) -> tuple[np.ndarray, np.ndarray]:
    """Texts as one query of the trace index, with −1 after each, which matches nothing; and where each begins (d,)."""
    parts = [texts.ids[a:b] for a, b in zip(texts.begins, texts.begins[1:], strict=False)] if isinstance(
        texts, Excerpts
    ) else list(texts)  # fmt: skip
    lengths = np.array([len(part) for part in parts], np.int64)
    begins = np.cumsum(lengths + 1) - lengths - 1
    query = np.full(int(lengths.sum()) + len(parts), -1, np.int64)
    query[ranges(begins, lengths)] = np.concatenate([np.zeros(0, np.int64), *parts])
    return query, begins
