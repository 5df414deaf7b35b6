"""From a file to its records: one reader for each kind of file.

Everything streams: JSONL by lines, JSON arrays by elements, Parquet by batches, text by blocks or by a separator. A
fault in one record is a `Problem` that travels with it; a fault of the file is a ParakeetError.
"""

import codecs
import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from parakeet.data.reading.archives import Member, company_of, members
from parakeet.data.reading.compression import DAMAGE, opened, unpacked
from parakeet.data.reading.csv_records import read_csv
from parakeet.data.reading.json_records import read_json, read_jsonl
from parakeet.data.reading.kinds import ARCHIVES, Company, ending, file_kind
from parakeet.data.reading.records import Problem, Record
from parakeet.data.reading.tables import read_arrow, read_row_groups, seekable
from parakeet.data.reading.text_records import read_separated, read_text
from parakeet.data.reading.web_pages import read_page
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise


def read_records(path: Path, separator: str | None = None, unread: Counter[str] | None = None) -> Iterator[Record]:
    """All records of a file in order, unusable ones with their `problem`. Blank lines are not records.

    The content decides what the file is, whatever its name says. A text file is split at lines that equal `separator`,
    or without one at blank lines. Archives give the records of their members, with the member's name; `unread` counts
    by ending the members that are left out. Raises ParakeetError if the file is of a kind that is not read, or if it
    cannot be opened, is damaged, truncated, a decompression bomb or UTF-16. The message has the number of records
    before.
    """
    yield from _undamaged(_file_records(path, separator, Counter() if unread is None else unread), path)


def read_rows(path: Path, groups: range, rows_before: int) -> Iterator[Record]:
    """The same for some row groups of a Parquet file. `rows_before` is the number of rows before them."""
    with opened(path) as file:
        yield from _undamaged(read_row_groups(file, groups, rows_before, str(path)), path)


def _file_records(path: Path, separator: str | None, unread: Counter[str]) -> Iterator[Record]:
    where = str(path)
    with _content(path, separator) as (kind, stream):
        if kind not in ARCHIVES:
            yield from read_stream(kind, stream, where, separator)
            return
        with ExitStack() as stack:
            archive = stack.enter_context(seekable(stream)) if kind == "zip" else stream
            company = _company(path, kind, archive)
            for member in members(kind, archive, where, unread):
                if member.problem is not None:
                    yield Record(0, problem=member.problem, excerpt=member.name, member=member.name)
                elif company.leaves_out(member.name, member.kind[0]):
                    unread[ending(member.name)] += 1
                else:
                    yield from _member_records(member, where, separator)


@contextmanager
def _content(path: Path, separator: str | None) -> Iterator[tuple[str, Any]]:
    with opened(path) as packed, unpacked(packed, file_kind(path.name) or ("", ""), str(path), separator) as content:
        yield content


def _company(path: Path, kind: str, archive: Any) -> Company:
    """A tar has no list of its members: it is read once more, up to the first one that holds records."""
    if kind == "zip":
        return company_of(members(kind, archive, str(path)))
    with _content(path, None) as (_, stream):
        return company_of(members(kind, stream, str(path)))


def _member_records(member: Member, where: str, separator: str | None) -> Iterator[Record]:
    inside = f"{where}/{member.name}"
    with unpacked(member.stream, member.kind, inside, separator) as (kind, content):
        if kind in ARCHIVES:
            problem = Problem("refused archive member", "an archive inside an archive; unpack the outer one")
            yield Record(0, problem=problem, excerpt=member.name, member=member.name)
            return
        for record in read_stream(kind, content, inside, separator):
            yield replace(record, member=member.name)


def _undamaged(records: Iterator[Record], path: Path) -> Iterator[Record]:
    count = 0
    try:
        for record in records:
            yield record
            count += 1
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # raised by the temporary file
            raise
        message = f"{path} cannot be read beyond record {count:,}: {error or type(error).__name__}. "
        raise ParakeetError(sanitise(message) + "Copy or download the file again, or remove it.") from None


def read_stream(kind: str, stream: Any, where: str, separator: str | None) -> Iterator[Record]:
    """The records of a decompressed file that is not an archive.

    Raises ParakeetError if it is a broken JSON array, and one of `archives.DAMAGE` if it is damaged.
    """
    if kind == "parquet":
        with seekable(stream) as file:
            yield from read_row_groups(file, where=where)
        return
    if kind == "arrow":
        yield from read_arrow(stream, where)
        return
    _skip_byte_order_mark(stream)
    if kind == "jsonl":
        yield from read_jsonl(stream, where)
    elif kind == "json":
        yield from read_json(stream, where)
    elif kind == "csv":
        yield from read_csv(stream, ",", where)
    elif kind == "tsv":
        yield from read_csv(stream, "\t", where)
    elif kind == "html":
        yield from read_page(stream)
    elif separator is not None:
        yield from read_separated(stream, separator)
    else:
        yield from read_text(stream)


def _skip_byte_order_mark(stream: Any) -> None:
    if stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
