"""Compressed files as streams, within bounds of memory and of what they may unpack to.

`Allowance` stops a decompression bomb (a file that unpacks to far more than its size) while it is read.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import zstandard

from parakeet.data.reading.contents import HEAD_BYTES, compression_of, kind_of
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
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
BUFFER_BYTES = HEAD_BYTES
MOST_LAYERS = 3
"""A file may be packed again on its way (`Content-Encoding`). A quine of gzip unpacks to itself for ever."""
MOST_WINDOW = 1 << 31
"""Of zstd, as for `zstd --long=31`, and of xz, whose largest is 1.5 GiB. It is taken only if a file asks for it."""
ZSTD_MARK = b"\x28\xb5\x2f\xfd"
FRAME_HEADER_BYTES = 18
ZSTD_PIECE_BYTES = 2 << 10
"""zstandard returns all that its input gives: a block of 4 bytes can give 128 KiB."""


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

    def __init__(self, read: Callable[[int], bytes], allowance: Allowance) -> None:
        super().__init__()
        self._read = read
        self._allowance = allowance
        self._position = 0
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, so that whoever looks at the beginning sees enough of it."""
        filled = 0
        while filled < len(buffer) and self._error is None:
            try:
                data = self._read(len(buffer) - filled)
            except DAMAGE as error:
                self._error = error  # raised once what came before it has been read
                break
            if not data:
                break
            self._allowance.take(len(data))
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        if self._error is not None and not filled:
            raise self._error
        self._position += filled
        return filled


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, or a ParakeetError."""
    try:
        file = path.open("rb", buffering=BUFFER_BYTES)
    except OSError as error:
        message = f"{path} cannot be opened: {error.strerror}. Make it a readable file, or remove it."
        raise ParakeetError(sanitise(message)) from None
    with file:
        yield file


class PackedStreams:
    """The content of compressed streams that follow each other. Raises EOFError if the last one breaks off.

    BZ2File and LZMAFile take whatever follows the first stream for padding, and zstandard's reader ends silently where
    a frame breaks off.
    """

    def __init__(self, packed: Any, begin: Callable[[], Any], piece_bytes: int, padding: bytes = b"") -> None:
        self._packed = packed
        self._begin = begin
        self._piece_bytes = piece_bytes
        self._padding = padding
        self._stream: Any = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, and none only at the end."""
        while True:
            if self._stream is None and not self._next():
                return b""
            piece, self._rest = self._rest, b""
            if self._stream.needs_input and not piece and not (piece := self._packed.read(self._piece_bytes)):
                raise EOFError("it breaks off")
            data: bytes = self._stream.decompress(piece, size)
            if self._stream.eof:
                self._rest, self._stream = self._stream.unused_data.lstrip(self._padding), None
            if data:
                return data

    def _next(self) -> bool:
        """Begin the next stream; False at the end of the file."""
        while not self._rest:
            if not (piece := self._packed.read(self._piece_bytes)):
                return False
            self._rest = piece.lstrip(self._padding)
        self._stream = self._begin()
        return True


class _ZstdStream:
    """A frame, with the interface of BZ2Decompressor."""

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW).decompressobj()
        self._content = b""
        self._given = 0

    def decompress(self, data: bytes, size: int) -> bytes:
        if data:
            self._content, self._given = self._frame.decompress(data), 0
        given = self._content[self._given : self._given + size]
        self._given += len(given)
        return given

    @property
    def needs_input(self) -> bool:
        return self._given == len(self._content)

    @property
    def eof(self) -> bool:
        return self.needs_input and self._frame.eof

    @property
    def unused_data(self) -> bytes:
        unused: bytes = self._frame.unused_data
        return unused


@contextmanager
def decompressed(packed: Any, compression: str, where: str, consumed: Callable[[], int]) -> Iterator[Any]:
    """A buffered stream of the content of `packed`, which is compressed in one of `kinds.COMPRESSIONS`.

    `consumed` gives the number of bytes read of the file itself, which may be packed more than once.
    """
    with ExitStack() as stack:
        if compression == ".gz":
            # Not `read`, which loses what comes before an error.
            read: Callable[[int], bytes] = stack.enter_context(gzip.GzipFile(fileobj=packed)).read1
        elif compression == ".zst":
            _refuse_frame(packed.peek(FRAME_HEADER_BYTES)[:FRAME_HEADER_BYTES], where)
            read = PackedStreams(packed, _ZstdStream, ZSTD_PIECE_BYTES).read
        elif compression == ".bz2":
            read = PackedStreams(packed, bz2.BZ2Decompressor, BUFFER_BYTES).read
        elif compression == ".xz":
            read = PackedStreams(packed, _begin_xz, BUFFER_BYTES, padding=b"\0").read
        else:
            assert compression == ".lz4"
            read = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "lz4")).read
        yield buffered(read, Allowance(where, consumed))


def _begin_xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_WINDOW)


def _refuse_frame(head: bytes, where: str) -> None:
    """ParakeetError for a zstd frame that is whole, but cannot be unpacked here."""
    if not head.startswith(ZSTD_MARK):
        return
    try:
        frame = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError as error:
        if "memory" not in str(error):
            return  # damaged
        message = f"{where} was packed with a window of more than {format_bytes(MOST_WINDOW, 0)}. "
        raise ParakeetError(sanitise(message) + "Pack it again, with zstd --long=31 or less.") from None
    if frame.dict_id:
        message = f"{where} was packed with a dictionary of its own. Unpack it yourself: zstd -d -D DICTIONARY"
        raise ParakeetError(sanitise(message))


@contextmanager
def unpacked(
    packed: Any, named: tuple[str, str], where: str, separator: str | None = None
) -> Iterator[tuple[str, Any]]:
    """What a file or a member is in fact, and a stream of its content. `named` is what `file_kind` says of its name.

    Raises ParakeetError for what cannot be read.
    """
    kind, compression = named
    with ExitStack() as stack:
        stream, consumed = packed, packed.tell
        for layer in range(MOST_LAYERS + 1):
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            found = compression_of(head, compression if layer == 0 else "")
            if not found:
                break
            if layer == MOST_LAYERS:
                raise ParakeetError(sanitise(f"{where} is packed more than {MOST_LAYERS} times. Unpack it yourself."))
            stream = stack.enter_context(decompressed(stream, found, where, consumed))
        yield kind_of(head, kind, where, separator), stream


def buffered(read: Callable[[int], bytes], allowance: Allowance) -> io.BufferedReader:
    """What `read` gives, within the allowance."""
    return io.BufferedReader(Unpacked(read, allowance), BUFFER_BYTES)
