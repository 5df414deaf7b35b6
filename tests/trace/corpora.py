"""Small corpora of ids, and answers about them found by looking at every place."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from parakeet.benchmarks.trace import Corpus
from parakeet.progress import Progress
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex

ROWS = 700


def corpus_of(documents: Sequence[Sequence[int]], rows: int = ROWS) -> Corpus:
    ids = np.array([one for document in documents for one in document], np.uint32)
    return Corpus(ids, np.array([len(document) for document in documents], np.int64), rows)


def indexed(
    folder: Path, documents: Sequence[Sequence[int]], shard_tokens: int = 1 << 20, rows: int = ROWS
) -> TraceIndex:
    folder.mkdir(exist_ok=True)
    build_index(corpus_of(documents, rows), "tokenizer", "shards", folder, Progress(), shard_tokens)
    return TraceIndex.open(folder)


class Searched:
    """The same questions, answered by the search of Python's strings. Each id is a character."""

    def __init__(self, documents: Sequence[Sequence[int]], rows: int = ROWS) -> None:
        self.documents = [as_text(document, rows) for document in documents]
        self.rows = rows

    def occurrences(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        wanted, found = as_text(ids, self.rows), []
        for number, document in enumerate(self.documents):
            at = document.find(wanted)
            while at >= 0:
                found.append((number, at))
                at = document.find(wanted, at + 1)
        return found

    def longest_matches(self, ids: Sequence[int]) -> list[int]:
        text, found, length = as_text(ids, self.rows), [], 0
        for start in range(len(text)):
            length = max(length - 1, 0)  # a match without its first token is a match
            while start + length < len(text) and self._has(text[start : start + length + 1]):
                length += 1
            found.append(length)
        return found

    def _has(self, wanted: str) -> bool:
        return any(wanted in document for document in self.documents)


def as_text(ids: Sequence[int], rows: int) -> str:
    """What is no token becomes a character that no document has."""
    return "".join(chr(0x4000 + one) if 0 <= one < rows else "?" for one in ids)


def _random(kinds: int, documents: int, seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(kinds, size=size).tolist() for size in draw.integers(0, 80, documents)]


def _fibonacci(tokens: int) -> list[int]:
    one, other = [0], [0, 1]
    while len(other) < tokens:
        one, other = other, other + one
    return other[:tokens]


def _copies() -> list[list[int]]:
    """Documents that repeat each other, whole, in part, and reversed."""
    first = np.random.default_rng(3).integers(ROWS, size=60).tolist()
    return [first, first, first[10:50], first[::-1], [*first, *first], [*first[30:], *first[:30]]]


CORPORA: dict[str, Callable[[], list[list[int]]]] = {
    "two kinds of token": lambda: _random(2, 40, 1),
    "many kinds of token": lambda: _random(ROWS, 40, 2),
    "equal tokens": lambda: [[5] * size for size in (200, 1, 0, 64, 65, 63)],
    "Fibonacci": lambda: [_fibonacci(800), _fibonacci(90)],
    "copies": _copies,
    "documents of one token": lambda: [[number % 7] for number in range(300)],
    "first and last ids": lambda: [[0, ROWS - 1] * 35, [ROWS - 1] * 3, [0] * 3],
}
