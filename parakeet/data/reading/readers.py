"""From a file to its records: one reader for each kind of file.

Everything streams: JSONL by lines, JSON arrays by elements, Parquet by batches, text by blocks or by a separator. A
fault in one record is a `Problem` that travels with it; a fault of the file is a ParakeetError.
"""

import codecs
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from parakeet.data.reading.archives import DAMAGE, decompressed, members, opened
from parakeet.data.reading.csv_records import read_csv
from parakeet.data.reading.json_records import read_json, read_jsonl
from parakeet.data.reading.records import Record
from parakeet.data.reading.sources import ARCHIVES, RECOGNISED, file_kind
from parakeet.data.reading.tables import read_arrow, read_row_groups, seekable
from parakeet.data.reading.text_records import read_separated, read_text
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise


def read_records(path: Path, separator: str | None = None) -> Iterator[Record]:
    """All records of a file in order, unusable ones with their `problem`. Blank lines are not records.

    A text file is split at lines that equal `separator`, or without one at blank lines. Archives give the records of
    their members, with the member's name. Raises ParakeetError if the kind of file is unknown, or if the file cannot be
    opened, is damaged, truncated, a decompression bomb or UTF-16. The message has the number of records before.
    """
    kind_and_compression = file_kind(path.name)
    if kind_and_compression is None:
        raise ParakeetError(sanitise(f"{path} is of a kind that Parakeet does not read. It reads {RECOGNISED}."))
    yield from _undamaged(_file_records(path, *kind_and_compression, separator), path)


def read_rows(path: Path, groups: range, rows_before: int) -> Iterator[Record]:
    """The same for some row groups of a Parquet file. `rows_before` is the number of rows before them."""
    with opened(path) as file:
        yield from _undamaged(read_row_groups(file, groups, rows_before, str(path)), path)


def _file_records(path: Path, kind: str, compression: str, separator: str | None) -> Iterator[Record]:
    where = str(path)
    with opened(path) as packed, decompressed(packed, compression, where) as stream:
        if kind not in ARCHIVES:
            yield from read_stream(kind, stream, where, separator)
            return
        for member in members(kind, stream, where):
            if member.problem is not None:
                yield Record(0, problem=member.problem, excerpt=member.name, member=member.name)
                continue
            inside = f"{where}/{member.name}"
            with decompressed(member.stream, member.kind[1], inside) as content:
                for record in read_stream(member.kind[0], content, inside, separator):
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

    Raises ParakeetError if it is UTF-16 or a broken JSON array, and one of `archives.DAMAGE` if it is damaged.
    """
    if kind == "parquet":
        with seekable(stream) as file:
            yield from read_row_groups(file, where=where)
        return
    if kind == "arrow":
        yield from read_arrow(stream, where)
        return
    _skip_byte_order_mark(stream, where)
    if kind == "jsonl":
        yield from read_jsonl(stream, where)
    elif kind == "json":
        yield from read_json(stream, where)
    elif kind == "csv":
        yield from read_csv(stream, ",", where)
    elif kind == "tsv":
        yield from read_csv(stream, "\t", where)
    elif separator is not None:
        yield from read_separated(stream, separator)
    else:
        yield from read_text(stream)


def _skip_byte_order_mark(stream: Any, where: str) -> None:
    start = stream.peek(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ParakeetError(sanitise(f"{where} is encoded as UTF-16. Save it as UTF-8 and try again."))
    if start.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
