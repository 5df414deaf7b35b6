"""The text that is measured: excerpts of documents, with the tokens that the recipe trains on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parakeet.data.tokens.shards import TokenShards, ranges
from parakeet.evaluation.scoring import is_control
from parakeet.tokenizer import Tokenizer

MOST_OF_A_DOCUMENT = 4096
"""Longest excerpt in tokens, unless a training sequence is longer: books must not make up a sample by themselves."""


@dataclass(frozen=True)
class Excerpts:
    """Parts of documents, one after the other.

    documents (d,): their numbers in the shards. begins (d + 1,): where each begins in the other two, which are (n,):
    ids int64, and `learned`, whether the recipe trains on a token and it is content. The first token of an excerpt is
    only context.
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
        sizes = np.zeros(tokenizer.rows, np.int64)
        for token_id, length in tokenizer.lengths().items():
            sizes[token_id] = length
        return self.sums(sizes[self.ids] * self.learned).astype(np.int64)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(d,) the sum of values (n,) over each excerpt."""
        return np.bincount(self.owner, values, len(self))


def take_excerpts(
    shards: TokenShards, documents: np.ndarray, tokenizer: Tokenizer, sequence_length: int, chance: np.random.Generator
) -> Excerpts:
    """An excerpt of each document (d,): the whole, or a part of a long one that begins where a sequence may begin."""
    lengths = shards.lengths()[documents]
    most = max(MOST_OF_A_DOCUMENT // sequence_length * sequence_length, sequence_length) + 1
    taken = np.minimum(lengths, most)
    starts = chance.integers(0, (lengths - taken) // sequence_length + 1) * sequence_length
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
    learned[begins[:-1][taken > 0]] = False
    learned &= ~is_control(tokenizer)[ids]
    return Excerpts(documents, begins, ids, learned)


def some_documents(
    candidates: np.ndarray, lengths: np.ndarray, most_tokens: int, chance: np.random.Generator
) -> np.ndarray:
    """Documents (d,) in a random order, about `most_tokens` of them, and at least one if there is any.

    candidates are numbers of documents; lengths (documents,) those of all. A long document counts as its excerpt.
    """
    shuffled = chance.permutation(candidates)
    before = np.cumsum(np.minimum(lengths[shuffled], MOST_OF_A_DOCUMENT))
    return shuffled[: 1 + int(np.searchsorted(before, most_tokens))]


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
