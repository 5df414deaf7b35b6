"""The records of a JSON file, one by one, in memory for the longest one. (json parses only whole texts.)"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from parakeet.data.reading.json_objects import TABLE_KEY, ObjectRecords, Part, conversations_joined
from parakeet.data.reading.records import MAX_VALUES
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

PIECE_BYTES = 256 << 10
MAX_ELEMENT_CHARACTERS = 64 << 20
LONGEST_LITERAL = 16
"""An error this close to the end of the buffer may only mean that more has to be read; `-Infinity` has 9."""

LONG_CHARACTERS = 8 << 20

LONE_SURROGATE_POSSIBLE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")
_OPENING = re.compile(r"\[[ \t\n\r]*")


def n_values(text: Any, start: int = 0) -> int:
    """At most how many values are in a JSON text (str or bytes), from the characters between them."""
    marks: tuple[Any, ...] = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    return sum(text.count(mark, start) for mark in marks)


def complaint_of(error: ValueError | RecursionError) -> str:
    """json's error in plain words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


class JsonText:
    """A JSON file that is read piece by piece: an array, objects, or a single value.

    `head` was read from the stream before; its first character is on line `row` of the file. It may be 64 MiB long, so
    it too is taken piece by piece.
    """

    def __init__(self, stream: Any, head: bytes, row: int, where: str) -> None:
        self._head = io.BytesIO(head)
        self._stream = stream
        self._where = where
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._row = row  # of the buffer's first character
        self._at = 0
        self._buffer = ""
        self._over = False
        self._taken = 0  # characters of the last value
        self._add(self._read(PIECE_BYTES))

    def elements(self) -> Iterator[tuple[Any, bool]]:
        """Each record, and whether escapes of lone surrogates may be in it; nothing for an empty file.

        The elements of an array, except that turns are one conversation; of objects the records that `ObjectRecords`
        finds in them; else the single value. Raises ParakeetError, with the line, if the text is not JSON.
        """
        is_object = False
        while mark := self._next():
            if is_object and mark != "{":
                raise self._error("Extra data", self._at)
            is_object = mark == "{"
            if is_object:
                yield from self._object()
                continue
            yield from conversations_joined(self._array()) if mark == "[" else [self._value()]
            if self._next():
                raise self._error("Extra data", self._at)

    def _object(self) -> Iterator[tuple[Any, bool]]:
        found = ObjectRecords()
        for part in self._parts():
            yield from found.add(part)
            if found.held_characters > MAX_ELEMENT_CHARACTERS:
                raise self._error(f"an object longer than {format_bytes(MAX_ELEMENT_CHARACTERS, 0)}", self._at)
        yield from found.end()

    def _parts(self) -> Iterator[Part]:
        """The members of an object. Those that may hold many records come by their elements or members."""
        for key, start in self._members():
            if start == "[" and self._peek(_OPENING) in ("{", "["):
                for value, suspect in self._array():
                    yield Part("element", key, "", value, suspect, self._taken)
            elif start == "{" and TABLE_KEY.fullmatch(key):
                yield Part("member", key, "", {}, False, 0)
                for name, _ in self._members():
                    value, suspect = self._value()
                    yield Part("entry", key, name, value, suspect, self._taken)
            else:
                value, suspect = self._value()
                yield Part("member", key, "", value, suspect, self._taken)

    def _members(self) -> Iterator[tuple[str, str]]:
        """Each key of an object, and the first character of its value, which has to be read before the next key."""
        self._at += 1
        if self._next() == "}":
            self._at += 1
            return
        while True:
            if self._next() != '"':
                raise self._error("Expecting property name enclosed in double quotes", self._at)
            key, _ = self._value()
            if self._next() != ":":
                raise self._error("Expecting ':' delimiter", self._at)
            self._at += 1
            yield key, self._next()
            if self._ends("}"):
                return

    def _array(self) -> Iterator[tuple[Any, bool]]:
        self._at += 1
        if self._next() == "]":
            self._at += 1
            return
        while True:
            self._next()
            yield self._value()
            if self._ends("]"):
                return

    def _ends(self, closing: str) -> bool:
        """Read the character after an element: whether it closes, or else is a comma."""
        mark = self._next()
        if mark not in (",", closing) or not mark:
            raise self._error("Expecting ',' delimiter", self._at)
        self._at += 1
        return mark == closing

    def _peek(self, pattern: re.Pattern[str]) -> str:
        """The character after the pattern, which matches here. Nothing is read."""
        while True:
            match = pattern.match(self._buffer, self._at)
            assert match is not None
            if match.end() < len(self._buffer) or not self._more():
                return self._buffer[match.end() : match.end() + 1]

    def _next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def _value(self) -> tuple[Any, bool]:
        while True:
            self._refuse_too_many()
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self._buffer) - LONGEST_LITERAL or error.msg.startswith("Unterminated")
                if unfinished and self._more():
                    continue
                raise self._error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self._error(complaint_of(error), self._at) from None
            # A number may continue in what has not been read yet, after `1`, `1.` or `1e+`.
            if end + (2 if isinstance(value, int | float) else 0) >= len(self._buffer) and self._more():
                continue
            suspect = LONE_SURROGATE_POSSIBLE.search(self._buffer, self._at, end) is not None
            self._taken = end - self._at
            self._at = end
            return value, suspect

    def _refuse_too_many(self) -> None:
        """The buffer is only that long if it holds the beginning of one long element."""
        if len(self._buffer) - self._at > LONG_CHARACTERS and n_values(self._buffer, self._at) > MAX_VALUES:
            raise self._error(f"an element of more than {MAX_VALUES:,} values", self._at)

    def _more(self) -> bool:
        """Read about as much again as is held, so a long element is parsed only a few times. False at the end."""
        if self._over:
            return False
        self._row += self._buffer.count("\n", 0, self._at)
        self._buffer = self._buffer[self._at :]
        self._at = 0
        if len(self._buffer) > MAX_ELEMENT_CHARACTERS:
            raise self._error(f"an element longer than {format_bytes(MAX_ELEMENT_CHARACTERS, 0)}", 0)
        self._add(self._read(min(max(PIECE_BYTES, len(self._buffer)), LONG_CHARACTERS)))
        return True

    def _read(self, n_bytes: int) -> bytes:
        """At most that many bytes; b"" at the end."""
        return self._head.read(n_bytes) or bytes(self._stream.read(n_bytes))

    def _add(self, piece: bytes) -> None:
        self._over = not piece
        try:
            self._buffer += self._decoder.decode(piece, final=self._over)
        except UnicodeDecodeError as error:
            self._buffer += "\n" * piece.count(b"\n", 0, error.start)
            raise self._error("invalid UTF-8", len(self._buffer)) from None

    def _error(self, complaint: str, position: int) -> ParakeetError:
        row = self._row + self._buffer.count("\n", 0, position)
        message = f"{self._where}, line {row}: neither an array of records nor one record a line: {complaint}. "
        return ParakeetError(sanitise(message) + "Correct the file there.")
