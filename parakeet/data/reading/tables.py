"""Records of files with columns: Parquet."""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.reading.records import Problem, Record

PARQUET_BATCH_ROWS = 256
PARQUET_BUFFER_BYTES = 1 << 20
"""Of each column. Without it a row group's columns are read whole, and some data sets have one row group a file."""


@contextmanager
def seekable(stream: Any) -> Iterator[BinaryIO]:
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


def read_csv(stream: Any, delimiter: str) -> Iterator[Record]:
    """Rows of a file whose first line names the columns."""
    rows = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), delimiter=delimiter)
    yield from (Record(rows.line_num, dict(row)) for row in rows)


def read_arrow(stream: BinaryIO) -> Iterator[Record]:
    """Rows of an Arrow IPC file or stream."""
    start = stream.read(6)
    stream.seek(0)
    with (pa.ipc.open_file if start == b"ARROW1" else pa.ipc.open_stream)(stream) as file:
        batches = (file.get_batch(n) for n in range(file.num_record_batches)) if start == b"ARROW1" else file
        row = 0
        for batch in batches:
            yield from _batch_records(batch, row)
            row += batch.num_rows
