"""A turn of a conversation: the one structure that text has between files, templates and chats."""

from dataclasses import dataclass

ROLES = ("System", "Human", "Assistant", "text")
"""`text` marks the single turn of a plain document; the others are a conversation's."""


@dataclass(frozen=True)
class Turn:
    role: str
    content: str
