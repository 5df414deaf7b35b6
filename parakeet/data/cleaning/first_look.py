"""A first look at many documents at once, to see in which of them a rule can find something."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from parakeet.conversation import Turn
from parakeet.data.documents import Document

DOCUMENTS_AT_ONCE = 256
BYTES_AT_ONCE = 1 << 20


def some_at_once(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists that are worth a look: RE2 takes 0.1 ms to start, as long as it takes for 60 kB."""
    held: list[Document] = []
    n_bytes = 0
    for document in documents:
        held.append(document)
        n_bytes += document.n_bytes
        if len(held) >= DOCUMENTS_AT_ONCE or n_bytes >= BYTES_AT_ONCE:
            yield held
            held, n_bytes = [], 0
    if held:
        yield held


def matching(documents: Sequence[Document], expression: str, text_of: Callable[[Turn], str | None]) -> list[bool]:
    """For each document, whether RE2 finds the expression in a turn's text: 0.6 GB/s with any number of alternatives.

    `text_of` gives the text of a turn to look at, without lone surrogates, or None.
    """
    texts: list[str] = []
    owners: list[int] = []
    for number, document in enumerate(documents):
        for turn in document.turns:
            if (text := text_of(turn)) is not None:
                texts.append(text)
                owners.append(number)
    found = pc.match_substring_regex(pa.array(texts, pa.large_string()), expression).to_pylist()
    marks = [False] * len(documents)
    for owner, is_found in zip(owners, found, strict=True):
        marks[owner] = marks[owner] or is_found
    return marks
