"""Records of JSON files: one object a line, or the elements of an array."""

import json
import re
from collections.abc import Iterator
from typing import Any

from parakeet.data.reading.json_values import JsonText, complaint_of
from parakeet.data.reading.records import (
    MAX_LINE_BYTES,
    TEXT_PIECE_BYTES,
    Problem,
    Record,
    bad_bytes,
    excerpt_of,
    skip_line,
)
from parakeet.formatting import format_bytes

_LONE_SURROGATE_POSSIBLE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(stream: Any, first_row: int = 1) -> Iterator[Record]:
    row = first_row - 1
    while line := stream.readline(MAX_LINE_BYTES):
        row += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield bad_bytes(row, Problem("line too long", f"more than {format_bytes(MAX_LINE_BYTES, 0)}"), line)
            skip_line(stream)
        elif line.strip():
            yield _json_line(row, line)


def _json_line(row: int, line: bytes) -> Record:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return bad_bytes(row, Problem("invalid UTF-8", f"at byte {error.start + 1} of the line"), line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return bad_bytes(row, Problem("broken JSON", complaint_of(error)), line)
    return _json_record(row, value, text)


def _json_record(row: int, value: Any, text: str) -> Record:
    """`text` is searched for escapes of lone surrogates, which UTF-8 cannot encode."""
    is_conversation = isinstance(value, list) and value and isinstance(value[0], dict)
    if not isinstance(value, dict) and not is_conversation:
        return Record(row, problem=Problem("not a JSON object"), excerpt=excerpt_of(value))
    if _LONE_SURROGATE_POSSIBLE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(row, problem=Problem("lone surrogate"), excerpt=excerpt_of(value))
    return Record(row, value)


def read_json(stream: Any, where: str) -> Iterator[Record]:
    """A file whose first line is a complete object is JSONL with another suffix."""
    head = b""
    row = 0
    while not head.strip() and (head := stream.readline(TEXT_PIECE_BYTES)):
        row += not head.isspace() or head.endswith(b"\n")
    if head.lstrip().startswith(b"{") and not head.endswith(b"\n"):
        head += stream.readline(MAX_LINE_BYTES)
    if _is_an_object(head):
        yield _json_line(row, head)
        yield from read_jsonl(stream, row + 1)
        return
    elements = JsonText(stream, head, row, where).elements()
    yield from (_json_record(position, value, text) for position, (value, text) in enumerate(elements, start=1))


def _is_an_object(line: bytes) -> bool:
    if not (line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}")):
        return False
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False
