"""A conversation's exchanges: each Human turn with its reply, the unit of deduplication by turns."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parakeet.conversation import Turn
from parakeet.data.documents import Document, content_bytes, normalised, read_documents
from parakeet.progress import BYTES, Progress


def exchanges_of(document: Document) -> list[str]:
    """Question and reply of every exchange, joined by a newline; none for a plain document."""
    return [f"{human.content}\n{assistant.content}" for human, assistant in _pairs(document)]


def without_exchanges(document: Document, removed: Sequence[bool]) -> Document | None:
    """The conversation without the exchanges that `removed` marks, or None if nothing but System is left."""
    kept = [pair for pair, gone in zip(_pairs(document), removed, strict=True) if not gone]
    if not kept:
        return None
    system = [turn for turn in document.turns if turn.role == "System"]
    return replace(document, turns=(*system, *(turn for pair in kept for turn in pair)))


def _pairs(document: Document) -> list[tuple[Turn, Turn]]:
    spoken = [turn for turn in document.turns if turn.role in ("Human", "Assistant")]
    return list(zip(spoken[::2], spoken[1::2], strict=True))


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of the kept conversations, in the order of the parts; m of them."""

    part_sizes: list[int]
    """Exchanges in each part."""
    ids: np.ndarray
    """uint64 (m, 2): hash of the normalised question and reply."""
    documents: np.ndarray
    """int64 (m,): number of the document that each belongs to."""
    characters: np.ndarray
    """int64 (m,): length of question and reply."""


def read_exchanges(paths: Sequence[Path], kept: np.ndarray, progress: Progress) -> Exchanges:
    """Exchanges of the documents that `kept` (bool, n) marks; about 80 bytes of memory each."""
    sizes, ids, documents, characters = [], bytearray(), array("q"), array("q")
    number = 0
    with progress.task("exchanges", sum(map(content_bytes, paths)), BYTES) as task:
        for path in paths:
            before = len(documents)
            for document in read_documents([path]):
                for text in exchanges_of(document) if kept[number] else ():
                    ids += hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()
                    documents.append(number)
                    characters.append(len(text))
                number += 1
            sizes.append(len(documents) - before)
            task.advance(content_bytes(path))
    return Exchanges(
        sizes,
        np.frombuffer(bytes(ids), ">u8").astype(np.uint64).reshape(-1, 2),
        np.array(documents, np.int64),
        np.array(characters, np.int64),
    )
