"""A conversation's exchanges: each Human turn with the reply to it, the unit of deduplication by turns."""

from collections.abc import Sequence
from dataclasses import replace

from parakeet.conversation import Turn
from parakeet.data.documents import Document


def exchanges_of(document: Document) -> list[str]:
    """Question and reply of every exchange, joined by a newline; none for a plain document."""
    return [f"{human.content}\n{assistant.content}" for human, assistant in _pairs(document)]


def without_exchanges(document: Document, removed: Sequence[bool]) -> Document | None:
    """The conversation without the exchanges that `removed` marks, or None where nothing but System is left."""
    kept = [pair for pair, gone in zip(_pairs(document), removed, strict=True) if not gone]
    if not kept:
        return None
    system = [turn for turn in document.turns if turn.role == "System"]
    return replace(document, turns=(*system, *(turn for pair in kept for turn in pair)))


def _pairs(document: Document) -> list[tuple[Turn, Turn]]:
    spoken = [turn for turn in document.turns if turn.role in ("Human", "Assistant")]
    return list(zip(spoken[::2], spoken[1::2], strict=True))
