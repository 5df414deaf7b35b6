"""Records of CSV and TSV files with a header."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from parakeet.data.reading.columnar import unique_names
from parakeet.data.reading.records import EXCERPT_CHARACTERS, MAX_VALUE_BYTES, MAX_VALUES, Problem, Record
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, one_line
from parakeet.sanitise import sanitise

DELIMITERS = (",", ";", "\t", "|")
MAX_HEADER_CHARACTERS = 64 << 10
MAX_NAME_CHARACTERS = 500
LINE_BYTES = 32
"""What a short line takes in memory beyond its text."""
REREAD_BYTES = 64 << 20
MOST_REREADS = 5

_EXCEL_DELIMITER = re.compile(r"sep=.\r?\n?")
_QUOTED = re.compile('"[^"]*"')
_NO_NAME = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def read_csv(stream: Any, delimiter: str | None = None, where: str = "The CSV file") -> Iterator[Record]:
    r"""Rows of a table: each a dict of strings, by the names in the first line. `row` is the line where it begins.

    The delimiter is the given one if the first line has it, else the one of `,` `;` tab `|` that stands in it most.
    Values may be quoted with `"` and then hold delimiters and lines; a quote in them is doubled or stands after `\`. A
    record that cannot be read so is read as one line without quotes. An empty value is None; a row with another number
    of values than the first line is a problem, unless what it has too many is empty. In a table of one column, a line
    that holds the delimiter is one value.

    Raises ParakeetError if the first line names no columns, or if quotes do not pair over hundreds of megabytes.
    """
    csv.field_size_limit(MAX_VALUE_BYTES)
    lines = _Lines(stream, where)
    try:
        delimiter = _delimiter(lines, delimiter)
        if delimiter is not None:
            lines.delimiter = delimiter
            names = _header(lines, where)
            lines.columns = len(names)
            yield from _rows(lines, names)
    finally:
        lines.release()


def _delimiter(lines: "_Lines", given: str | None) -> str | None:
    """None for a file without content. The header remains to be read."""
    while lines.bare() is not None:
        line = lines.given[0]
        if line.strip() and not _EXCEL_DELIMITER.fullmatch(line):
            break
        lines.accept(1)
        if line.strip():
            return line[len("sep=")]
    if not lines.given:
        return None
    bare = _QUOTED.sub("", lines.given[0][:MAX_HEADER_CHARACTERS])
    if (given and given in bare) or not any(map(bare.count, DELIMITERS)):
        return given or ","
    return max(DELIMITERS, key=bare.count)


def _header(lines: "_Lines", where: str) -> list[str]:
    """The names of the columns."""
    names = lines.standard() or lines.bare() or [""]
    lines.accept(len(lines.given))
    names = [name.strip() for name in names]
    if not any(names) or any(len(name) > MAX_NAME_CHARACTERS or _NO_NAME.search(name) for name in names):
        raise ParakeetError(
            sanitise(f"{where}: the first line does not name the columns: {one_line(_shown(names[0]))[:60]}")
            + ". Put a line with their names before it, such as text, or question,answer."
        )
    return unique_names(names)


def _rows(lines: "_Lines", names: list[str]) -> Iterator[Record]:
    while True:
        row = lines.row + 1
        values = lines.standard()
        if not lines.given:
            return
        while values and len(values) > len(names) and not values[-1]:
            values.pop()
        count = len(values or ())
        if values is not None and not "".join(values).strip() and len(values) < 2:
            lines.accept(len(lines.given))  # a blank line
            continue
        # Tools that write TSV mostly know no quotes, so a line that has its values by itself is a record, if those that
        # would follow it in quotes are records too. What Excel and pandas put in quotes goes on in lines that are not.
        is_plain_tsv = lines.delimiter == "\t" and (
            len(names) == 1 or any(line.count("\t") == len(names) - 1 for line in lines.given[1:])
        )
        if count != len(names) or (is_plain_tsv and len(lines.given) > 1):
            other = lines.escaped if any("\\" in line for line in lines.given) else lines.bare
            ways = (lines.bare, lines.standard) if is_plain_tsv else (other, lines.bare)
            values = next((found for way in ways if len(found := way() or []) == len(names)), None)
        if values is not None:
            text = "".join(lines.given)
            lines.accept(len(lines.given))
            if not text.isascii() and _NOT_UTF8.search(text):
                yield Record(row, problem=Problem("invalid UTF-8"), excerpt=_shown(text))
            else:
                yield Record(row, dict(zip(names, (value or None for value in values), strict=True)))
            continue
        problem = Problem("wrong number of values", f"{count}, and the first line names {len(names)}")
        if not count:
            problem = Problem("broken quotes")
        if lines.is_too_long():
            problem = Problem("line too long", f"more than {format_bytes(MAX_VALUE_BYTES, 0)} or {MAX_VALUES:,} values")
        line = lines.given[0]
        lines.accept(1)
        yield Record(row, problem=problem, excerpt=_shown(line))


def _shown(text: str) -> str:
    return text[: 4 * EXCERPT_CHARACTERS].encode(errors="surrogateescape").decode(errors="replace").strip()


class _Lines:
    """The lines of a file, and the three ways to read a record from them, each from where the last one was accepted.

    Bytes that are not UTF-8 are read as surrogates.
    """

    def __init__(self, stream: Any, where: str) -> None:
        # Excel writes a byte order mark. Old Macs end lines with \r, which a line of bytes would hold.
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._where = where
        self._again: deque[str] = deque()
        self._size = self._n_read = self._n_reread = 0
        self._readers: dict[bool, Any] = {}
        self.delimiter = ","
        self.columns = 0
        self.given: list[str] = []
        """The lines of the record that is being read."""
        self.row = 0
        """The number of lines before it."""

    def release(self) -> None:
        """Leave the stream open."""
        self._text.detach()

    def standard(self) -> list[str] | None:
        """The values of a record; None if the rules of quoting are broken, or at the end, where none are `given`."""
        return self._parsed(has_escapes=False)

    def escaped(self) -> list[str] | None:
        r"""The same if `\` stands before quotes in values."""
        return self._parsed(has_escapes=True)

    def bare(self) -> list[str] | None:
        """The values of one line in which quotes mean nothing."""
        self.back()
        try:
            line = next(self).rstrip("\r\n")
            return [line] if self.columns == 1 else line.split(self.delimiter)
        except (_TooLong, StopIteration):
            return None

    def _parsed(self, has_escapes: bool) -> list[str] | None:
        self.back()
        if has_escapes not in self._readers:
            escape = "\\" if has_escapes else None
            self._readers[has_escapes] = csv.reader(
                self, delimiter=self.delimiter, escapechar=escape, skipinitialspace=True, strict=True
            )
        try:
            values: list[str] = next(self._readers[has_escapes])
        except (_TooLong, StopIteration, csv.Error):
            return None
        return values

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._size > MAX_VALUE_BYTES:
            raise _TooLong
        is_again = bool(self._again)
        line = self._again.popleft() if is_again else self._text.readline(MAX_VALUE_BYTES + 1)
        if not line:
            raise StopIteration
        self.given.append(line)
        size = len(line) + LINE_BYTES
        self._size += size
        self._n_read += 0 if is_again else size
        self._n_reread += size if is_again else 0
        if self._n_reread > REREAD_BYTES + MOST_REREADS * self._n_read:
            message = f"{self._where}, line {self.row + 1}: the quotes from here on do not pair"
            raise ParakeetError(sanitise(message) + ". Correct them, or write the file again with quotes doubled.")
        if self.is_too_long():
            raise _TooLong
        return line

    def is_too_long(self) -> bool:
        """Whether a single line is."""
        return len(self.given) == 1 and (
            len(self.given[0]) > MAX_VALUE_BYTES or self.given[0].count(self.delimiter) > MAX_VALUES
        )

    def back(self) -> None:
        """Begin the record again."""
        self._again.extendleft(reversed(self.given))
        self.given, self._size = [], 0

    def accept(self, count: int) -> None:
        """The record ends with the first `count` of the given lines. The others are given again."""
        done = self.given[:count]
        self.given = self.given[count:]
        self.back()
        self.row += count
        if len(done[0]) > MAX_VALUE_BYTES:
            while not done[0].endswith(("\n", "\r")):
                done[0] = self._text.readline(MAX_HEADER_CHARACTERS) or "\n"


class _TooLong(Exception):
    """A line too long to be one, or a quoted value too long, mostly because its quote is not closed."""
