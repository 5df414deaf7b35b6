"""Texts looked up in a trace index, in the spellings that they may have in the training text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex

PREFIXES = ("", " ")
"""A text that begins a document and one that follows a word differ in the tokens of its first word."""
IDS_AT_ONCE = 1 << 20


class Spelling(NamedTuple):
    """One way to write a text in tokens; all arrays are (n,) int64."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    """A token stands for the bytes [start, end) of the text. The space of a prefix has none."""
    lengths: np.ndarray
    """The longest match that begins at each token, in tokens."""


class Lookup:
    """Looks up texts by an index and its tokenizer."""

    def __init__(self, index: TraceIndex, tokenizer: Tokenizer) -> None:
        self.index = index
        self.tokenizer = tokenizer
        self._bytes = np.zeros(tokenizer.rows, np.int64)
        for token_id, length in tokenizer.lengths().items():
            self._bytes[token_id] = length

    def spellings(self, texts: Iterable[str]) -> Iterator[list[Spelling]]:
        """Of each text, one for each of PREFIXES.

        Many texts at once: the index steps through all places together, so a thousand cost little more than one.
        """
        waiting, n_ids = list[list[np.ndarray]](), 0
        for text in texts:
            waiting.append([self.tokenizer.encode_array(prefix + text) for prefix in PREFIXES])
            n_ids += sum(map(len, waiting[-1]))
            if n_ids >= IDS_AT_ONCE:
                yield from self._look_up(waiting)
                waiting, n_ids = [], 0
        if waiting:
            yield from self._look_up(waiting)

    def _look_up(self, written: Sequence[Sequence[np.ndarray]]) -> Iterator[list[Spelling]]:
        # No ordinary text holds the token between them. A match that goes on beyond it is cut off there.
        between = np.array([self.tokenizer.padding], np.uint32)
        joined = np.concatenate([part for spellings in written for ids in spellings for part in (ids, between)])
        matches = self.index.longest_matches(joined.astype(np.int64))
        begin = 0
        for spellings in written:
            found = []
            for prefix, ids in zip(PREFIXES, spellings, strict=True):
                lengths = np.minimum(matches[begin : begin + len(ids)], np.arange(len(ids), 0, -1))
                sizes = self._bytes[ids]
                ends = np.cumsum(sizes) - len(prefix)
                found.append(Spelling(ids.astype(np.int64), np.maximum(ends - sizes, 0), ends, lengths))
                begin += len(ids) + 1
            yield found
