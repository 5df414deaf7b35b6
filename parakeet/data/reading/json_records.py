"""Records of JSON files: one value a line, or an array or object over all lines."""

import json
from collections.abc import Iterator
from typing import Any

from parakeet.data.reading.json_objects import is_turn
from parakeet.data.reading.json_values import (
    LONE_SURROGATE_POSSIBLE,
    LONG_CHARACTERS,
    JsonText,
    complaint_of,
    n_values,
)
from parakeet.data.reading.records import (
    MAX_LINE_BYTES,
    MAX_VALUES,
    TEXT_PIECE_BYTES,
    Problem,
    Record,
    bad_bytes,
    excerpt_of,
    skip_line,
)
from parakeet.formatting import format_bytes

FEW_VALUES = 100_000
"""In the first turn of a conversation."""
_OPENING_OF = {ord("]"): ord("["), ord("}"): ord("{")}
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_jsonl(stream: Any, where: str = "The file") -> Iterator[Record]:
    """One record a line. A file that is clearly an array or an object over several lines is read as `read_json` does.

    A record is an object or a list. Blank lines are not records.
    """
    yield from _read(stream, where, has_lines=True)


def read_json(stream: Any, where: str) -> Iterator[Record]:
    """The elements of an array, or the records that an object holds (json_objects.py has the rules).

    A file whose first line is a value of its own, with others after it, is read by lines. Raises ParakeetError, with
    the line, if the text is not JSON.
    """
    yield from _read(stream, where, has_lines=False)


def _read(stream: Any, where: str, has_lines: bool) -> Iterator[Record]:
    """`has_lines` says how a file is read that does not show what it is."""
    row, head = _next_line(stream, 0)
    is_array = head.lstrip().startswith(b"[")
    # An array on one line is read no further than its first element, however long that is.
    while is_array and _is_cut(head) and n_values(head) < FEW_VALUES and _first_element(head) is None:
        more = stream.readline(min(len(head), MAX_LINE_BYTES - len(head)))
        if not more:
            break
        head += more
    # The second line is not read if an array begins in the first: it may hold all elements.
    second_row, second, by_lines = row, b"", False
    if _is_cut(head):
        by_lines = is_turn(_first_element(head)) if is_array else has_lines
    elif (has_lines and not is_array) or not (_open_brackets(head) or b"").endswith(b"["):
        second_row, second = _next_line(stream, row)
        by_lines = _is_by_lines(head, second, has_lines)
    if by_lines:
        for number, line in ((row, head), (second_row, second)):
            if line:
                yield from _lines(stream, number, line)
        yield from _lines(stream, second_row + 1)
        return
    # A lone line of a file of lines is placed by its line.
    first = max(row, 1) if has_lines and not is_array and not second else 1
    elements = JsonText(stream, head + b"\n" * (second_row - row - 1) + second, max(row, 1), where).elements()
    del head, second  # up to 64 MiB
    numbered = enumerate(elements, start=first)
    yield from (_json_record(position, value, suspect) for position, (value, suspect) in numbered)


def _next_line(stream: Any, row: int) -> tuple[int, bytes]:
    """The next line that is not blank and its number; of an array only a piece, as it may be the whole file."""
    line = b""
    while not line.strip() and (line := stream.readline(TEXT_PIECE_BYTES)):
        row += not line.isspace() or line.endswith(b"\n")
    if line.lstrip().startswith(b"{") and not line.endswith(b"\n"):
        line += stream.readline(MAX_LINE_BYTES - len(line))
    return row, line


def _is_cut(line: bytes) -> bool:
    """Whether the line may go on."""
    most = MAX_LINE_BYTES if line.lstrip().startswith(b"{") else TEXT_PIECE_BYTES
    return len(line) >= most and not line.endswith(b"\n")


def _is_by_lines(first: bytes, second: bytes, has_lines: bool) -> bool:
    """Whether the first two lines that are not blank are values of their own."""
    is_array = first.lstrip().startswith(b"[")
    if not (is_array or first.lstrip().startswith(b"{")):
        return has_lines
    brackets = _open_brackets(first)
    if brackets is None:
        return has_lines or _is_whole(second)
    if brackets:
        # Within an object, a value can begin only after its name; in an array after anything.
        may_go_on = first.rstrip().endswith(b":") or brackets.endswith(b"[")
        return (not may_go_on or (has_lines and not is_array)) and _is_whole(second)
    if second:
        return has_lines or not is_array or _is_whole(second)
    return has_lines and not _is_json(first)


def _is_whole(line: bytes) -> bool:
    line = line.strip()
    return line.startswith((b"{", b"[")) and line.endswith((b"}", b"]")) and _open_brackets(line) == b""


def _open_brackets(line: bytes) -> bytes | None:
    """The brackets that are open at the end of the line; None if a string is cut off or they do not match."""
    outside = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    if len(outside) % 2 == 0:
        return None
    brackets = bytearray()
    for bracket in b"".join(outside[::2]).translate(None, _NO_BRACKETS):
        if bracket in b"[{":
            brackets.append(bracket)
        elif not brackets or brackets.pop() != _OPENING_OF[bracket]:
            return None
    return bytes(brackets)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _first_element(piece: bytes) -> Any:
    """Of an array, from its beginning; None if it goes on after the piece, or if it is broken."""
    text = piece.decode(errors="replace").lstrip()[1:].lstrip()
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _lines(stream: Any, row: int, line: bytes = b"") -> Iterator[Record]:
    """The record in a line that was read, or at least begun; without it, the records in all lines from `row` on."""
    only_one = bool(line)
    while line := (line if line.endswith(b"\n") else line + stream.readline(MAX_LINE_BYTES - len(line))):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield bad_bytes(row, Problem("line too long", f"more than {format_bytes(MAX_LINE_BYTES, 0)}"), line)
            skip_line(stream)
        elif line.strip():
            yield _json_line(row, line)
        if only_one:
            return
        row, line = row + 1, b""


def _json_line(row: int, line: bytes) -> Record:
    if len(line) > LONG_CHARACTERS and n_values(line) > MAX_VALUES:
        return bad_bytes(row, Problem("record too long", f"more than {MAX_VALUES:,} values"), line)
    try:
        # Files that begin with a byte order mark are joined with `cat`.
        text = line.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        return bad_bytes(row, Problem("invalid UTF-8", f"at byte {error.start + 1} of the line"), line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return bad_bytes(row, Problem("broken JSON", complaint_of(error)), line)
    return _json_record(row, value, LONE_SURROGATE_POSSIBLE.search(text) is not None)


def _json_record(row: int, value: Any, suspect: bool) -> Record:
    """`suspect`: escapes of lone surrogates, which UTF-8 cannot encode, may be in it."""
    may_be_turns = isinstance(value, list) and all(isinstance(first, dict | list | str) for first in value[:1])
    if not isinstance(value, dict) and not may_be_turns:
        return Record(row, problem=Problem("not a JSON object"), excerpt=excerpt_of(value))
    if suspect:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(row, problem=Problem("lone surrogate"), excerpt=excerpt_of(value))
    return Record(row, value)
