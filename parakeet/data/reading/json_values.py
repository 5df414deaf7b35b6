"""The elements of a JSON array, one by one, in memory for the longest one. (json parses only whole texts.)"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

PIECE_BYTES = 256 << 10
MAX_ELEMENT_CHARACTERS = 64 << 20
LONGEST_LITERAL = 16
"""An error this close to the end of the buffer may only mean that more has to be read; `-Infinity` has 9."""

_SPACE = re.compile(r"[ \t\n\r]*")


def complaint_of(error: ValueError | RecursionError) -> str:
    """json's error in plain words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


class JsonText:
    """A JSON file that is read piece by piece: an array, or a single value.

    `head` was read from the stream before and ends on line `row` of the file.
    """

    def __init__(self, stream: Any, head: bytes, row: int, where: str) -> None:
        self._stream = stream
        self._where = where
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._row = max(row, 1)  # of the buffer's first character
        self._at = 0
        self._buffer = ""
        self._over = False
        self._add(head)

    def elements(self) -> Iterator[tuple[Any, str]]:
        """Each element and its text; a single value as one element; nothing for an empty file.

        Raises ParakeetError, with the line, if the text is not JSON.
        """
        if not self._next():
            return
        if self._next() != "[":
            yield self._value()
        else:
            self._at += 1
            yield from self._array()
        if self._next():
            raise self._error("Extra data", self._at)

    def _array(self) -> Iterator[tuple[Any, str]]:
        if self._next() == "]":
            self._at += 1
            return
        while True:
            self._next()
            yield self._value()
            mark = self._next()
            if mark not in (",", "]"):
                raise self._error("Expecting ',' delimiter", self._at)
            self._at += 1
            if mark == "]":
                return

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

    def _value(self) -> tuple[Any, str]:
        while True:
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self._buffer) - LONGEST_LITERAL or error.msg.startswith("Unterminated")
                if unfinished and self._more():
                    continue
                raise self._error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self._error(complaint_of(error), self._at) from None
            # A number may continue in what has not been read yet.
            if end == len(self._buffer) and self._more():
                continue
            text = self._buffer[self._at : end]
            self._at = end
            return value, text

    def _more(self) -> bool:
        """Read as much again as is held, so a long element is parsed only a few times. False at the end."""
        if self._over:
            return False
        self._row += self._buffer.count("\n", 0, self._at)
        self._buffer = self._buffer[self._at :]
        self._at = 0
        if len(self._buffer) > MAX_ELEMENT_CHARACTERS:
            raise self._error(f"an element longer than {format_bytes(MAX_ELEMENT_CHARACTERS, 0)}", 0)
        self._add(self._stream.read(max(PIECE_BYTES, len(self._buffer))))
        return True

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
