"""Records of files with columns: Parquet, Arrow and CSV."""

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.reading.columnar import BATCH_BYTES, BATCH_ROWS, READING_BYTES, batch_records, bounded_memory
from parakeet.data.reading.compression import Allowance
from parakeet.data.reading.records import Record
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

BUFFER_BYTES = 1 << 20
"""Of each column of Parquet. Without it a row group's columns are read whole, and some files have one row group."""
ARROW_FILE = b"ARROW1\0\0"
ARROW_STREAM = b"\xff\xff\xff\xff"
ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"
FEATHER_1 = b"FEA1"


@contextmanager
def seekable(stream: Any) -> Iterator[BinaryIO]:
    """The stream itself, or a temporary file with its content if it is not seekable."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        yield file


def read_row_groups(
    stream: BinaryIO, groups: Sequence[int] | None = None, rows_before: int = 0, where: str = "The Parquet file"
) -> Iterator[Record]:
    """Rows of a Parquet file: all, or those of some row groups, which have `rows_before` rows before them.

    Raises ParakeetError if a row group takes more memory than there is for it, or if it unpacks to far more than the
    file's size.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    allowance = Allowance(where, lambda: size)
    row = rows_before
    try:
        with bounded_memory(READING_BYTES):
            file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        with file:
            columns = _wanted_leaves(file.schema)
            for group in range(file.num_row_groups) if groups is None else groups:
                for batch in _batches(file, group, columns):
                    for record in batch_records(batch, row, allowance):
                        row += 1
                        yield record
    except MemoryError:
        advice = "row groups: pq.write_table(table, path, row_group_size=100)"
        raise _too_large(where, row, advice) from None


def _wanted_leaves(schema: pq.ParquetSchema) -> list[str]:
    """The paths of the columns without times and without bytes in structs, such as images."""
    wanted = []
    for leaf in map(schema.column, range(len(schema))):
        is_time = leaf.logical_type.type in ("DATE", "TIME", "TIMESTAMP", "INTERVAL") or leaf.physical_type == "INT96"
        is_inner = leaf.path != leaf.name
        is_image = is_inner and leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE"
        # A map without its values would be read as a list of keys.
        if not (is_time or is_image) or ".key_value." in leaf.path:
            wanted.append(leaf.path)
    return wanted


def _batches(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group in batches; in smaller ones from where memory did not suffice."""
    about = file.metadata.row_group(group)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
    done = 0
    while True:
        batches = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
        seen = 0
        try:
            while True:
                with bounded_memory(READING_BYTES):
                    batch = next(batches, None)
                if batch is None:
                    return
                known = max(0, min(done - seen, batch.num_rows))
                seen += batch.num_rows
                done = max(done, seen)
                yield batch.slice(known)
                del batch
        except MemoryError:
            if rows == 1:
                raise
            rows = max(1, rows // 16)


def read_arrow(stream: Any, where: str = "The Arrow file") -> Iterator[Record]:
    """Rows of an Arrow file or stream: what `datasets.save_to_disk`, Feather and Polars' `write_ipc` write.

    Raises ParakeetError if it is cut off, of Feather's first version, takes too much memory or unpacks to far more than
    its size.
    """
    source = _Source(stream)
    is_file = source.start == ARROW_FILE
    if source.start.startswith(FEATHER_1):
        message = (
            f"{where} is of version 1 of Feather. Write it again, with pyarrow.feather.write_feather or as Parquet."
        )
        raise ParakeetError(sanitise(message))
    allowance = Allowance(where, lambda: source.position)
    row = 0
    try:
        # It copies what it reads into Arrow's memory, where it counts.
        with bounded_memory(READING_BYTES):
            buffered = pa.BufferedInputStream(
                pa.PythonFile(source, mode="r"), BUFFER_BYTES, memory_pool=pa.default_memory_pool()
            )
            if is_file:  # a stream between a mark and an index, which is not needed
                buffered.read(len(ARROW_FILE))
            reader = pa.ipc.open_stream(buffered, options=pa.ipc.IpcReadOptions(use_threads=False))
        while (batch := _next_batch(reader)) is not None:
            for record in batch_records(batch, row, allowance, is_checked=_is_valid(batch)):
                row += 1
                yield record
            del batch
    except MemoryError:
        raise _too_large(where, row, "batches: pyarrow.feather.write_feather(table, path, chunksize=1000)") from None
    if not is_file:
        _check_end(source, buffered, where, row)


def _next_batch(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    with bounded_memory(READING_BYTES):
        try:
            return reader.read_next_batch()
        except StopIteration:
            return None


def _is_valid(batch: pa.RecordBatch) -> bool:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _check_end(source: "_Source", buffered: pa.NativeFile, where: str, row: int) -> None:
    if buffered.read(1):
        raise ParakeetError(
            sanitise(f"{where} holds more than one stream: data follows the end of the first, after {row:,} records")
            + ". Write them into files of their own."
        )
    if source.start.startswith(ARROW_STREAM) and source.end != ARROW_END:
        raise ParakeetError(
            sanitise(f"{where} ends without the mark of its end, after {row:,} records: it was cut off")
            + ". Write it, copy it or download it again."
        )


def _too_large(where: str, row: int, advice: str) -> ParakeetError:
    return ParakeetError(
        sanitise(f"{where} takes more than {format_bytes(READING_BYTES, 0)} of memory to read beyond record {row:,}")
        + f". Write it again with smaller {advice}. If it is small, it is damaged or a decompression bomb: remove it."
    )


class _Source(io.RawIOBase):
    """A stream that remembers its first and last 8 bytes and how many were read."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self.start = self._ahead = stream.read(len(ARROW_FILE))
        self.end = b""
        self.position = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._ahead or self._stream.read(size)
        self._ahead = b""
        self.end = (self.end + data[-len(ARROW_END) :])[-len(ARROW_END) :]
        self.position += len(data)
        return data
