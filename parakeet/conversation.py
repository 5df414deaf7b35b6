"""A turn of a conversation: the one structure that text has between files, templates and chats."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """`role` is System, Human or Assistant; `text` marks the single turn of a plain document."""

    role: str
    content: str
