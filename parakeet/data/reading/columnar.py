"""Rows of Arrow's record batches as Python values, in bounded memory.

A few kilobytes of Parquet or Arrow can stand for gigabytes: one value that a dictionary repeats, a run of a billion
equal elements, a page of zeros. What they take is known only while Arrow decodes them, and it has no limit of its own.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from parakeet.data.reading.compression import Allowance
from parakeet.data.reading.records import MAX_VALUE_BYTES, MAX_VALUES, Problem, Record
from parakeet.formatting import format_bytes

READING_BYTES = 700 << 20
"""For Arrow's reader. Parquet's default writer makes dictionary pages of 1,024 values, which take thrice their size."""
CONVERTING_BYTES = 160 << 20
BATCH_ROWS = 256
BATCH_BYTES = 32 << 20
"""Of rows that become Python values together; a longer row is alone."""
ELEMENT_BYTES = 64
"""About what a number or a short text takes in Python beyond its content."""


@contextmanager
def bounded_memory(n_bytes: int) -> Iterator[None]:
    """Raises MemoryError (or Arrow's, which is one) inside if Arrow takes more than `n_bytes`, what it holds included.

    The limit is the process's, so nothing else should allocate much inside. Arrow's other allocators reserve a gigabyte
    beforehand, which would count, or would be used without being counted.
    """
    pool, usual = pa.system_memory_pool(), pa.default_memory_pool()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    allowed = data_pages * resource.getpagesize() + max(0, n_bytes - pool.bytes_allocated())
    if before[0] != resource.RLIM_INFINITY:
        allowed = min(allowed, before[0])
    pa.set_memory_pool(pool)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        pa.set_memory_pool(usual)


def batch_records(
    batch: pa.RecordBatch, rows_before: int, allowance: Allowance, is_checked: bool = True
) -> Iterator[Record]:
    """The rows of a batch: each a dict of its columns, or a problem.

    Unless it `is_checked`, Arrow's rules on its content are checked for each row: following wrong offsets would crash.

    Columns whose type no shape uses (times, unions) are left out, also within structs and lists. Decimals become
    strings, maps dicts, and bytes strings if they are UTF-8.
    """
    row = rows_before
    for first in range(0, batch.num_rows, BATCH_ROWS):
        for part in _parts(batch.slice(first, BATCH_ROWS), is_checked):
            if isinstance(part, Problem):
                found = iter([Record(row + 1, problem=part)])
            else:
                allowance.take(part.nbytes + part.num_rows)
                found = _plain_records(part, row)
            for record in found:
                row += 1
                yield record


def _parts(batch: pa.RecordBatch, is_checked: bool) -> Iterator[pa.RecordBatch | Problem]:
    """Plain batches of at most `BATCH_BYTES` in Python, or of one row; a problem instead of a row that is too long."""
    problem = None
    try:
        if not is_checked:
            batch.validate(full=True)
        with bounded_memory(CONVERTING_BYTES):
            plain = _plain(batch)
            elements = sum(_elements(column) for column in plain.columns)
        if plain.nbytes + ELEMENT_BYTES * elements <= BATCH_BYTES:
            yield plain
            return
        sizes = [(column.nbytes, name) for name, column in zip(plain.schema.names, plain.columns, strict=True)]
        longest, name = max(sizes)
        if longest > MAX_VALUE_BYTES:
            problem = Problem("value too long", f"{name} has more than {format_bytes(MAX_VALUE_BYTES, 0)}")
        elif plain.nbytes > 2 * MAX_VALUE_BYTES or elements > MAX_VALUES:
            problem = Problem("record too long", f"{format_bytes(plain.nbytes)} in {elements:,} values")
    except MemoryError:
        problem = Problem("value too long", f"the record has more than {format_bytes(MAX_VALUE_BYTES, 0)}")
    except pa.ArrowInvalid as error:
        is_text = "UTF8" in str(error)
        problem = Problem("invalid UTF-8") if is_text else Problem("unreadable value", str(error))
    if batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half), is_checked)
        yield from _parts(batch.slice(half), is_checked)
    else:
        yield problem or plain


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with plain types, in which no two rows share memory."""
    names, columns = [], []
    for name, column in zip(unique_names(batch.schema.names), batch.columns, strict=True):
        wanted = _plain_type(column.type)
        plain = column if wanted == column.type else _cast(column, wanted)
        if plain is not None:
            names.append(name)
            columns.append(plain)
    # A batch without columns still has its rows.
    return pa.RecordBatch.from_arrays(columns, names) if columns else batch.select([])


def unique_names(names: list[str]) -> list[str]:
    """The names of a table's columns. One that is empty or was there before gets its number."""
    found: dict[str, None] = {}
    for number, name in enumerate(names, start=1):
        found[f"{name} (column {number})".strip() if not name or name in found else name] = None
    return list(found)


def _cast(column: pa.Array, wanted: pa.DataType | None) -> pa.Array | None:
    if wanted is None:
        return None
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary.take(column.indices)
        else:
            break
    try:
        return column.cast(wanted)
    except pa.ArrowNotImplementedError:  # encodings of nested values within nested values, which no writer makes
        return None


@lru_cache(1024)
def _plain_type(of: pa.DataType) -> pa.DataType | None:
    """The type with which values become Python values; None if they are left out."""
    types = pa.types
    if isinstance(of, pa.BaseExtensionType):
        return _plain_type(of.storage_type)
    if types.is_dictionary(of) or types.is_run_end_encoded(of):
        return _plain_type(of.value_type)
    # Times hold no text, and Python has no type for some of them.
    if types.is_temporal(of) or types.is_union(of):
        return None
    if types.is_decimal(of):
        return pa.string()
    simple = {
        pa.string_view(): pa.large_string(),
        pa.binary_view(): pa.large_binary(),
        pa.float16(): pa.float32(),
    }
    if of in simple:
        return simple[of]
    if types.is_map(of):
        item = _plain_type(of.item_type)
        return pa.map_(of.key_type, item) if item and types.is_string(of.key_type) else None
    if types.is_struct(of):
        return _plain_struct(of)
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        inner = _plain_type(of.value_type)
        if inner is None or inner == of.value_type:
            return of if inner else None
        return pa.large_list(inner) if types.is_large_list(of) else pa.list_(inner, getattr(of, "list_size", -1))
    if types.is_list_view(of) or types.is_large_list_view(of):
        # Arrow 26 casts them wrongly: the elements of later rows are lost.
        return of if _plain_type(of.value_type) == of.value_type else None
    return of


def _plain_struct(of: pa.DataType) -> pa.DataType | None:
    fields = [of.field(index) for index in range(of.num_fields)]
    if len({field.name for field in fields}) < len(fields):
        return None  # neither a cast nor Python can tell them apart
    kept = [(field.name, plain) for field in fields if (plain := _plain_type(field.type)) is not None]
    return pa.struct(kept) if kept or not fields else None


def _elements(array: pa.Array) -> int:
    """The number of values that an array has in Python, those within lists and structs included."""
    types = pa.types
    if types.is_struct(array.type):
        return len(array) + sum(_elements(child) for child in array.flatten())
    if types.is_map(array.type):
        first, last = (array.offsets[index].as_py() for index in (0, -1))
        return len(array) + last - first + _elements(array.items.slice(first, last - first))
    if types.is_nested(array.type):
        return len(array) + _elements(array.flatten())
    return len(array)


def _plain_records(batch: pa.RecordBatch, rows_before: int) -> Iterator[Record]:
    inner = set().union(*(_inner_types(column.type) for column in batch.columns))
    has_bytes = any(map(_is_bytes, inner))
    # Only where it is needed: with it, structs take three times as long.
    maps = "strict" if any(map(pa.types.is_map, inner)) else None
    try:
        values = batch.to_pylist(maps_as_pydicts=maps)
    except (ValueError, KeyError):  # a string that is not UTF-8 or a map with a key twice; find the row
        values = [None] * batch.num_rows
    for index, value in enumerate(values):
        row = rows_before + index + 1
        try:
            if value is None:
                (value,) = batch.slice(index, 1).to_pylist(maps_as_pydicts=maps)
            yield Record(row, _with_texts(value) if has_bytes else value)
        except UnicodeDecodeError:
            yield Record(row, problem=Problem("invalid UTF-8"))
        except (ValueError, KeyError) as error:
            yield Record(row, problem=Problem("unreadable value", str(error).strip("'")))


@lru_cache(1024)
def _inner_types(of: pa.DataType) -> frozenset[pa.DataType]:
    """The type and those within it."""
    return frozenset((of,)).union(*(_inner_types(of.field(index).type) for index in range(of.num_fields)))


def _is_bytes(of: pa.DataType) -> bool:
    return pa.types.is_binary(of) or pa.types.is_large_binary(of) or pa.types.is_fixed_size_binary(of)


def _with_texts(value: Any) -> Any:
    """Some writers do not mark texts as such. What is not UTF-8 remains bytes, which are no text to any shape."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {name: _with_texts(item) for name, item in value.items()}
    return [_with_texts(item) for item in value] if isinstance(value, list) else value
