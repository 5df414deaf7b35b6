"""From a file to its records: one reader for each kind of file.

Everything streams: JSONL by lines, JSON arrays by elements, Parquet by batches, text by blocks or by a separator. A
fault in one record is a `Problem` that travels with it; a fault of the file is a ParakeetError.
"""

import codecs
import errno
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.reading.archives import DAMAGE, decompressed, members, opened
from parakeet.data.reading.json_values import JsonText, complaint_of
from parakeet.data.reading.records import Problem, Record, bad_bytes, excerpt_of
from parakeet.data.reading.sources import ARCHIVES, RECOGNISED, file_kind
from parakeet.data.reading.text_blocks import TextBlocks
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

MAX_LINE_BYTES = 64 << 20
"""A longer line of JSONL is a problem: it is unlikely to be text, and it would fill the memory."""
TEXT_PIECE_BYTES = 64 << 10
PARQUET_BATCH_ROWS = 256
PARQUET_BUFFER_BYTES = 1 << 20
"""Of each column. Without it a row group's columns are read whole, and some data sets have one row group a file."""

_LONE_SURROGATE_POSSIBLE = re.compile(r"\\u[dD][89a-fA-F]")


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
        yield from _undamaged(read_row_groups(file, groups, rows_before), path)


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
        with _seekable(stream) as file:
            yield from read_row_groups(file)
        return
    _skip_byte_order_mark(stream, where)
    if kind == "jsonl":
        yield from _read_jsonl(stream)
    elif kind == "json":
        yield from _read_json(stream, where)
    elif separator is not None:
        yield from _read_separated(stream, separator)
    else:
        yield from _read_text(stream)


def _skip_byte_order_mark(stream: Any, where: str) -> None:
    start = stream.peek(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ParakeetError(sanitise(f"{where} is encoded as UTF-16. Save it as UTF-8 and try again."))
    if start.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))


def _read_jsonl(stream: Any, first_row: int = 1) -> Iterator[Record]:
    row = first_row - 1
    while line := stream.readline(MAX_LINE_BYTES):
        row += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield bad_bytes(row, Problem("line too long", f"more than {format_bytes(MAX_LINE_BYTES, 0)}"), line)
            _skip_line(stream)
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
    if not isinstance(value, dict):
        return Record(row, problem=Problem("not a JSON object"), excerpt=excerpt_of(value))
    if _LONE_SURROGATE_POSSIBLE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(row, problem=Problem("lone surrogate"), excerpt=excerpt_of(value))
    return Record(row, value)


def _read_json(stream: Any, where: str) -> Iterator[Record]:
    """A file whose first line is a complete object is JSONL with another suffix."""
    head = b""
    row = 0
    while not head.strip() and (head := stream.readline(TEXT_PIECE_BYTES)):
        row += not head.isspace() or head.endswith(b"\n")
    if head.lstrip().startswith(b"{") and not head.endswith(b"\n"):
        head += stream.readline(MAX_LINE_BYTES)
    if _is_an_object(head):
        yield _json_line(row, head)
        yield from _read_jsonl(stream, row + 1)
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


def _read_text(stream: Any) -> Iterator[Record]:
    blocks = TextBlocks()
    decoder = codecs.getincrementaldecoder("utf-8")()
    row = 1
    for piece in _pieces(stream):
        try:
            text = decoder.decode(piece, final=piece.endswith(b"\n") or not piece)
            problem = Problem("NUL byte", "not text") if "\0" in text else None
        except UnicodeDecodeError:
            problem = Problem("invalid UTF-8")
        if problem is None:
            yield from (Record(start, block) for start, block in blocks.add(text, row))
            row += piece.endswith(b"\n")
            continue
        decoder.reset()
        yield from (Record(start, block) for start, block in blocks.flush())
        yield bad_bytes(row, problem, piece)
        if not piece.endswith(b"\n"):
            _skip_line(stream)
        row += 1
    yield from (Record(start, block) for start, block in blocks.flush())


def _read_separated(stream: Any, separator: str) -> Iterator[Record]:
    """Documents between lines that hold nothing but the separator."""
    mark = separator.strip().encode()
    held: list[bytes] = []
    size, begin, row, at_line_start = 0, 1, 1, True
    for piece in _pieces(stream):
        if not piece or (at_line_start and piece.strip() == mark):
            yield from _separated(b"".join(held), begin, size)
            held, size = [], 0
        elif held or piece.strip():
            begin = begin if held else row
            size += len(piece)
            if size <= MAX_LINE_BYTES or not held:
                held.append(piece)
        at_line_start = piece.endswith(b"\n")
        row += at_line_start


def _separated(content: bytes, row: int, size: int) -> Iterator[Record]:
    if size > MAX_LINE_BYTES:
        detail = f"more than {format_bytes(MAX_LINE_BYTES, 0)} without a line that is the separator"
        yield bad_bytes(row, Problem("document too long", detail), content)
        return
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        before = content.count(b"\n", 0, error.start)
        yield bad_bytes(row + before, Problem("invalid UTF-8"), content.split(b"\n")[before])
        return
    if text:
        yield Record(row, text)


def _pieces(stream: Any) -> Iterator[bytes]:
    """Lines, in several pieces if longer than `TEXT_PIECE_BYTES`. The last piece is empty."""
    while piece := stream.readline(TEXT_PIECE_BYTES):
        yield piece
    yield b""


def _skip_line(stream: Any) -> None:
    while (rest := stream.readline(TEXT_PIECE_BYTES)) and not rest.endswith(b"\n"):
        pass


@contextmanager
def _seekable(stream: Any) -> Iterator[BinaryIO]:
    """The stream itself, or a temporary file with its content if it is not seekable."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        yield file


def read_row_groups(stream: BinaryIO, groups: Sequence[int] | None = None, rows_before: int = 0) -> Iterator[Record]:
    """Rows of a Parquet file: all, or those of some row groups, which have `rows_before` rows before them."""
    with pq.ParquetFile(stream, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
        # Times hold no text, and Python has no type for those in nanoseconds.
        columns = [field.name for field in file.schema_arrow if not pa.types.is_temporal(field.type)]
        row = rows_before
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
            for record in _batch_records(batch, row):
                row += 1
                yield record


def _batch_records(batch: pa.RecordBatch, rows_before: int) -> Iterator[Record]:
    try:
        values = batch.to_pylist()
    except ValueError:  # nobody checks Parquet's strings when they are written; find those that are not UTF-8
        values = [None] * batch.num_rows
    for index, value in enumerate(values):
        row = rows_before + index + 1
        try:
            yield Record(row, value if value is not None else batch.slice(index, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield Record(row, problem=Problem("invalid UTF-8"))
        except ValueError as error:
            yield Record(row, problem=Problem("unreadable value", str(error)))
