"""Records on their way from a file to a document, and what can be wrong with one."""

import json
from dataclasses import dataclass
from typing import Any

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Problem:
    """Why a record cannot be used: a `reason` that can be counted, and what is particular to this one."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class Record:
    """One record of a file: a `value` (the columns, or a piece of plain text), or else a `problem`.

    `row` counts from 1: the line in JSONL and text (where a document begins), else the record's position; 0 stands for
    a member of an archive as a whole. `member` is the name inside the archive, empty outside of archives.
    """

    row: int
    value: dict[str, Any] | str | None = None
    problem: Problem | None = None
    excerpt: str = ""
    member: str = ""


def bad_bytes(row: int, problem: Problem, content: bytes) -> Record:
    """A record that is no text, with its beginning as an excerpt."""
    return Record(row, problem=problem, excerpt=content[: 4 * EXCERPT_CHARACTERS].decode(errors="replace").strip())


def excerpt_of(value: Any) -> str:
    """A record's value on one line, for people."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
