"""A record of a source's file before it becomes a document, and the problem that can make it unusable."""

import json
from dataclasses import dataclass
from typing import Any

EXCERPT_CHARACTERS = 200
MAX_LINE_BYTES = 64 << 20
"""A longer line of JSONL is a problem: it is unlikely to be text, and it would fill the memory."""
TEXT_PIECE_BYTES = 64 << 10


@dataclass(frozen=True)
class Problem:
    """Why a record cannot be used: a `reason` that can be counted, and the detail of this one."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class BadRecord(Exception):
    """A record that gives no document."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.problem = Problem(reason, detail)
        super().__init__(str(self.problem))


@dataclass(frozen=True)
class Record:
    """One record of a file: a `value` (its columns, a list of turns, or a piece of plain text) or a `problem`.

    `row` counts from 1: in JSONL and text the line on which the record begins, else its position. 0 means a whole
    member of an archive. `member` is the name inside the archive, empty outside archives.
    """

    row: int
    value: dict[str, Any] | list[Any] | str | None = None
    problem: Problem | None = None
    excerpt: str = ""
    member: str = ""


def bad_bytes(row: int, problem: Problem, content: bytes) -> Record:
    """A record that is not text, with its beginning as the excerpt."""
    return Record(row, problem=problem, excerpt=content[: 4 * EXCERPT_CHARACTERS].decode(errors="replace").strip())


def excerpt_of(value: Any) -> str:
    """A record's value on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def skip_line(stream: Any) -> None:
    """Read to the end of the line."""
    while (rest := stream.readline(TEXT_PIECE_BYTES)) and not rest.endswith(b"\n"):
        pass
