"""About how much text a file on this machine holds, for a plan: from its size, its directory or its first megabyte."""

import bz2
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

SAMPLE_BYTES = 1 << 20
LZ4 = b"\x04\x22\x4d\x18"
LARGEST_SAMPLE = 64 << 20
"""Most bytes to decompress. A file of zeros expands a thousandfold."""


def text_bytes(path: Path) -> int:
    """At most how many bytes of text a file holds: its size, or what it would expand to. 0 if that cannot be told.

    A compressed file is taken to expand as its first megabyte does.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    if sample.startswith(b"PK"):
        return _zip_bytes(path)
    if sample.startswith(b"PAR1"):
        return _parquet_bytes(path)
    if sample.startswith(LZ4):
        return 0
    for magic, expand in _EXPAND.items():
        if sample.startswith(magic):
            try:
                return round(n_bytes * len(expand(sample)) / len(sample))
            except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError):
                return 0
    return n_bytes


def _gzip(sample: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(sample, LARGEST_SAMPLE)


def _zstd(sample: bytes) -> bytes:
    import zstandard

    # A frame may ask for a window of any size; a plan need not give it.
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_SAMPLE)
    try:
        with decompressor.stream_reader(sample) as reader:
            return reader.read(LARGEST_SAMPLE)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


_EXPAND: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": lambda sample: bz2.BZ2Decompressor().decompress(sample, LARGEST_SAMPLE),
    b"\xfd7zXZ\x00": lambda sample: lzma.LZMADecompressor(memlimit=LARGEST_SAMPLE).decompress(sample, LARGEST_SAMPLE),
}


def _zip_bytes(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, OverflowError):
        return 0


def _parquet_bytes(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError, OverflowError):
        return 0
