"""From a source's path to its records: finding files, decompressing them, cutting them into records.

Everything streams: JSONL by lines, Parquet by batches, text by blocks; only a JSON array is read whole.
Trouble in one record is a `Problem` that travels with it; trouble with a file is a ParakeetError.
"""

import codecs
import glob
import gzip
import io
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.text_blocks import TextBlocks
from parakeet.errors import ParakeetError
from parakeet.recipe import FileSource
from parakeet.sanitise import sanitise

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
}
COMPRESSIONS = (".gz", ".zst")
RECOGNISED = f"{', '.join(KINDS)}, each also with {' or '.join(COMPRESSIONS)} behind it"

EXCERPT_CHARACTERS = 200
MAX_LINE_BYTES = 64 << 20
"""A longer line of JSONL is a problem: what it is a line of is hardly text, and it would fill the memory."""
TEXT_PIECE_BYTES = 64 << 10
COPY_BYTES = 1 << 20
PARQUET_BATCH_ROWS = 256

_LONE_SURROGATE_POSSIBLE = re.compile(r"\\u[dD][89a-fA-F]")
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException)


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

    `row` counts from 1: the line in JSONL and text (where a text's block begins), else the record's position.
    """

    row: int
    value: dict[str, Any] | str | None = None
    problem: Problem | None = None
    excerpt: str = ""


def file_kind(path: Path) -> tuple[str, str] | None:
    """("jsonl" | "json" | "parquet" | "text", "" | ".gz" | ".zst") by the name's suffixes, None where unknown."""
    name = path.name.lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    kind = KINDS.get(Path(name.removesuffix(compression)).suffix)
    return (kind, compression) if kind else None


def source_files(source: FileSource) -> list[Path]:
    """The files of a source: its file, or those of its folder (with subfolders) or glob that are recognised, sorted.

    Hidden files and folders are left out of folders. Raises ParakeetError where nothing is there, nothing of
    it is recognised, a link leads nowhere, or a folder cannot be listed.
    """
    path = Path(os.path.expanduser(source.path))  # unlike Path's own, never raises
    where = f"Source {source.name}: {path}"
    if os.path.isdir(path):
        found = sorted(_walk(path, where))
        nothing = f"{where} holds no file that Parakeet reads. It reads {RECOGNISED}."
    elif os.path.lexists(path):
        found = [path]
        nothing = f"{where} is of a kind that Parakeet does not read. It reads {RECOGNISED}."
    elif glob.has_magic(str(path)):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if not p.is_dir())
        nothing = f"{where} matches no file that Parakeet reads. It reads {RECOGNISED}."
    else:
        message = f"{where} does not exist or cannot be reached. Correct the path"
        raise ParakeetError(sanitise(f"{message}; in a recipe it is relative to the recipe's own file."))
    files = [file for file in found if file_kind(file)]
    if not files:
        raise ParakeetError(sanitise(nothing))
    for file in files:
        if not file.is_file():
            message = f"Source {source.name}: {file} is not a file, or a link to none. Mend it or take it away."
            raise ParakeetError(sanitise(message))
    return files


def _walk(folder: Path, where: str) -> Iterator[Path]:
    """Links are followed, each folder once, so that a link to a parent does not go round for ever."""

    def refuse(error: OSError) -> None:
        message = f"{where}: {error.filename} cannot be listed ({error.strerror}). Make it readable, or give files."
        raise ParakeetError(sanitise(message))

    seen = {folder.resolve()}
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        candidates = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in candidates:
            target = (Path(here) / name).resolve()
            if target not in seen:
                seen.add(target)
                folders.append(name)
        yield from (Path(here) / name for name in names if not name.startswith("."))


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file in order, the unusable ones with their `problem`; blank lines are no records.

    Raises ParakeetError if the file is of no recognised kind, cannot be opened, is damaged or breaks off
    (with the number of records before), or is UTF-16.
    """
    kind_and_compression = file_kind(path)
    if kind_and_compression is None:
        raise ParakeetError(sanitise(f"{path} is of a kind that Parakeet does not read. It reads {RECOGNISED}."))
    kind, compression = kind_and_compression
    readers = {"jsonl": _read_jsonl, "json": _read_json, "text": _read_text, "parquet": _read_parquet}
    count = 0
    try:
        with _opened(path, compression, seekable=kind == "parquet") as stream:
            if kind != "parquet":
                _skip_byte_order_mark(stream, path)
            for record in readers[kind](stream, path):
                yield record
                count += 1
    except _DAMAGE as error:
        message = f"{path} cannot be read beyond record {count:,}: {error or type(error).__name__}. "
        raise ParakeetError(sanitise(message) + "Copy or download the file again, or take it away.") from None


@contextmanager
def _opened(path: Path, compression: str, seekable: bool) -> Iterator[io.BufferedReader]:
    """The file's content, decompressed; `seekable` unpacks it to a temporary file where need be."""
    with ExitStack() as stack:
        try:
            file: Any = stack.enter_context(path.open("rb"))
        except OSError as error:
            message = f"{path} cannot be opened: {error.strerror}. Make it a readable file, or take it away."
            raise ParakeetError(sanitise(message)) from None
        if compression == ".gz":
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif compression == ".zst":
            # Arrow's reader raises on a frame that breaks off; zstandard's stream_reader just ends.
            file = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
        if compression:
            file = stack.enter_context(io.BufferedReader(file))
        if compression and seekable:
            packed, file = file, stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(packed, file, COPY_BYTES)
        yield file


def _skip_byte_order_mark(stream: io.BufferedReader, path: Path) -> None:
    start = stream.peek(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ParakeetError(sanitise(f"{path} is encoded as UTF-16. Save it as UTF-8 and try again."))
    if start.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))


def _read_jsonl(stream: io.BufferedReader, path: Path, first_row: int = 1) -> Iterator[Record]:
    row = first_row - 1
    while line := stream.readline(MAX_LINE_BYTES):
        row += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield _bad_line(row, Problem("line too long", f"more than {MAX_LINE_BYTES >> 20} MiB"), line)
            _skip_line(stream)
        elif line.strip():
            yield _json_line(row, line)


def _json_line(row: int, line: bytes) -> Record:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return _bad_line(row, Problem("invalid UTF-8", f"at byte {error.start + 1} of the line"), line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _bad_line(row, Problem("broken JSON", _json_complaint(error)), line)
    return _json_record(row, value, suspicious=_LONE_SURROGATE_POSSIBLE.search(text) is not None)


def _json_record(row: int, value: Any, suspicious: bool) -> Record:
    """`suspicious`: the JSON text has escapes that might be lone surrogates, which no UTF-8 file can hold."""
    if not isinstance(value, dict):
        return Record(row, problem=Problem("not a JSON object"), excerpt=excerpt_of(value))
    if suspicious:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(row, problem=Problem("lone surrogate"), excerpt=excerpt_of(value))
    return Record(row, value)


def _json_complaint(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _read_json(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
    """A file whose first line is an object by itself is JSONL under another name, which streams."""
    head = b""
    row = 0
    while not head.strip() and (head := stream.readline(MAX_LINE_BYTES)):
        row += 1
    if _is_an_object(head):
        yield _json_line(row, head)
        yield from _read_jsonl(stream, path, row + 1)
        return
    content = head + stream.read()
    if not content.strip():
        return
    value, suspicious = _parse_whole(content, path, row)
    records = value if isinstance(value, list) else [value]
    for position, item in enumerate(records, start=1):
        yield _json_record(position, item, suspicious)


def _is_an_object(line: bytes) -> bool:
    if not (line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}")):
        return False
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _parse_whole(content: bytes, path: Path, row: int) -> tuple[Any, bool]:
    """`row`: the line of the file that `content` begins on."""
    try:
        text = content.decode()
        return json.loads(text), _LONE_SURROGATE_POSSIBLE.search(text) is not None
    except UnicodeDecodeError as error:
        row += content.count(b"\n", 0, error.start)
        complaint = "invalid UTF-8"
    except (ValueError, RecursionError) as error:
        row += error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0
        complaint = _json_complaint(error)
    message = f"{path}, line {row}: neither an array of records nor one record a line: {complaint}. "
    raise ParakeetError(sanitise(message) + "Correct the file there.")


def _read_text(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
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
        yield _bad_line(row, problem, piece)
        if not piece.endswith(b"\n"):
            _skip_line(stream)
        row += 1
    yield from (Record(start, block) for start, block in blocks.flush())


def _pieces(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines, those above `TEXT_PIECE_BYTES` in several pieces; an empty piece comes last."""
    while piece := stream.readline(TEXT_PIECE_BYTES):
        yield piece
    yield b""


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(TEXT_PIECE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _read_parquet(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
    with pq.ParquetFile(stream) as file:
        # Times hold no text, and those in nanoseconds cannot become Python's.
        columns = [field.name for field in file.schema_arrow if not pa.types.is_temporal(field.type)]
        row = 0
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
            for record in _batch_records(batch, row):
                row += 1
                yield record


def _batch_records(batch: pa.RecordBatch, rows_before: int) -> Iterator[Record]:
    try:
        values = batch.to_pylist()
    except ValueError:  # Parquet's strings are not checked when written; find the ones that are none
        values = [None] * batch.num_rows
    for index, value in enumerate(values):
        row = rows_before + index + 1
        try:
            yield Record(row, value if value is not None else batch.slice(index, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield Record(row, problem=Problem("invalid UTF-8"))
        except ValueError as error:
            yield Record(row, problem=Problem("unreadable value", str(error)))


def _bad_line(row: int, problem: Problem, line: bytes) -> Record:
    return Record(row, problem=problem, excerpt=line[: 4 * EXCERPT_CHARACTERS].decode(errors="replace").strip())


def excerpt_of(value: Any) -> str:
    """A record's value on one line, for people."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
