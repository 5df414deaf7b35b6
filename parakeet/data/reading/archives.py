"""Compressed files and archives as streams. Nothing is ever extracted under a name from an archive.

`Allowance` stops a decompression bomb (a file that unpacks to far more than its size) while it is read.
"""

import gzip
import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from parakeet.data.reading.records import Problem
from parakeet.data.reading.sources import ARCHIVES, file_kind
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    pa.ArrowException,
    zipfile.BadZipFile,
    tarfile.TarError,
    # From zipfile: names that are marked as UTF-8 but are not, and features that it does not know.
    UnicodeDecodeError,
    NotImplementedError,
)
"""Exceptions from reading damaged files."""

FREE_BYTES = 64 << 20
MOST_EXPANSION = 200
"""Text compresses 3 to 10 times, logs perhaps 50; deflate reaches 1,030 and zstd far more for one repeated byte."""
BUFFER_BYTES = 256 << 10
UNPACKED_BY_ZIPFILE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""zipfile unpacks other methods (bzip2, LZMA) without a bound on memory."""
ENCRYPTED = 0x1


class Allowance:
    """How much may be unpacked: `FREE_BYTES` plus `MOST_EXPANSION` times the bytes read."""

    def __init__(self, where: str, consumed: Callable[[], int]) -> None:
        self._where = where
        self._consumed = consumed
        self._produced = 0

    def take(self, n_bytes: int) -> None:
        self._produced += n_bytes
        if self._produced > FREE_BYTES and self._produced > FREE_BYTES + MOST_EXPANSION * self._consumed():
            raise ParakeetError(
                sanitise(f"{self._where} unpacks to more than {MOST_EXPANSION} times its size")
                + ", as no text does: a decompression bomb. Remove it, or unpack it yourself if you trust it."
            )


class Unpacked(io.RawIOBase):
    """The output of a decompressor, within an allowance."""

    def __init__(self, stream: Any, allowance: Allowance) -> None:
        super().__init__()
        self._stream = stream
        self._allowance = allowance
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._allowance.take(len(data))
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, or a ParakeetError."""
    try:
        file = path.open("rb")
    except OSError as error:
        message = f"{path} cannot be opened: {error.strerror}. Make it a readable file, or remove it."
        raise ParakeetError(sanitise(message)) from None
    with file:
        yield file


@contextmanager
def decompressed(packed: Any, compression: str, where: str) -> Iterator[Any]:
    """A buffered stream of the content of `packed`, seekable only if it is not compressed."""
    with ExitStack() as stack:
        if compression == ".gz":
            stream: Any = stack.enter_context(gzip.GzipFile(fileobj=packed))
        elif compression == ".zst":
            # Arrow's reader raises on a truncated frame; zstandard's stream_reader just ends.
            stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd"))
        else:
            yield packed
            return
        yield _buffered(stream, Allowance(where, packed.tell))


def _buffered(stream: Any, allowance: Allowance) -> io.BufferedReader:
    return io.BufferedReader(Unpacked(stream, allowance), BUFFER_BYTES)


@dataclass(frozen=True)
class Member:
    """A file in an archive: a stream to read before the next member is asked for, or a problem."""

    name: str
    kind: tuple[str, str] = ("", "")
    stream: Any = None
    problem: Problem | None = None


def members(kind: str, stream: Any, where: str) -> Iterator[Member]:
    """The members of a zip or tar archive whose kind is read, and those that are refused.

    Folders, hidden files and other kinds are left out, as they are outside archives. Raises ParakeetError for encrypted
    members, bombs and unsupported compression, and one of `DAMAGE` if the archive is damaged.
    """
    return _zip_members(stream, where) if kind == "zip" else _tar_members(stream, where)


def _zip_members(file: BinaryIO, where: str) -> Iterator[Member]:
    size = file.seek(0, io.SEEK_END)
    packed = 0
    with zipfile.ZipFile(file) as archive:
        # For all members together: a small archive can hold the same bomb thousands of times.
        allowance = Allowance(where, lambda: min(packed, size))
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            # ZipInfo.is_dir raises on a member without a name.
            is_folder = info.filename.endswith("/")
            problem = _fault(info.filename, kind in (0, stat.S_IFREG) or is_folder)
            if problem:
                yield Member(_shown(info.filename), problem=problem)
            elif not is_folder and (wanted := _wanted_kind(info.filename)):
                _refuse_packing(info, where)
                packed += info.compress_size
                with archive.open(info) as stream:
                    yield Member(_shown(info.filename), wanted, _buffered(stream, allowance))


def _refuse_packing(info: zipfile.ZipInfo, where: str) -> None:
    named = f"{where}: {info.filename} is "
    if info.flag_bits & ENCRYPTED:
        raise ParakeetError(sanitise(named) + "encrypted. Pack it again without a password, or remove the archive.")
    if info.compress_type not in UNPACKED_BY_ZIPFILE:
        raise ParakeetError(sanitise(named) + "compressed by an unsupported method. Pack it again with deflate.")


class _Header(tarfile.TarInfo):
    """Raises on a damaged header and on a missing end, which tarfile takes for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not buf.strip(b"\0"):
                raise  # the real end
            raise tarfile.ReadError(f"{error}, where a member or the end of the archive should be") from None


def _tar_members(stream: Any, where: str) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES, tarinfo=_Header) as archive:
        while (info := archive.next()) is not None:
            # The holes of a sparse member are produced from nothing, past every allowance.
            problem = _fault(info.name, info.isdir() or (info.isreg() and not info.issparse()))
            if problem:
                yield Member(_shown(info.name), problem=problem)
            elif not info.isdir() and (wanted := _wanted_kind(info.name)):
                content: Any = archive.extractfile(info)
                # Tar does not compress; the compression around the archive has its own allowance.
                yield Member(_shown(info.name), wanted, _buffered(content, Allowance(where, content.tell)))
            # tarfile would keep every header in memory.
            archive.members.clear()  # type: ignore[attr-defined]
    while stream.read(BUFFER_BYTES):  # so that gzip reaches its checksum at the end
        pass


def _fault(name: str, regular: bool) -> Problem | None:
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return Problem("refused archive member", "its path leads out of the archive")
    if not regular:
        return Problem("refused archive member", "a link, a device or a sparse file")
    if not _is_hidden(name) and (kind := file_kind(name)) and kind[0] in ARCHIVES:
        return Problem("refused archive member", "an archive inside an archive; unpack the outer one")
    return None


def _is_hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part.strip(".") and part.startswith(".")) for part in name.split("/"))


def _wanted_kind(name: str) -> tuple[str, str] | None:
    return None if _is_hidden(name) else file_kind(name)


def _shown(name: str) -> str:
    return sanitise(name.removeprefix("./"))
