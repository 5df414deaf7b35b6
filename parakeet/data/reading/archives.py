"""Archives as streams of their members. Nothing is ever extracted under a name from an archive."""

import io
import re
import stat
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from parakeet.data.reading.compression import BUFFER_BYTES, DAMAGE, Allowance, buffered
from parakeet.data.reading.contents import HEAD_BYTES, is_array_or_lines, refuse_other_zip
from parakeet.data.reading.kinds import ARCHIVES, COMPRESSIONS, Company, ending, file_kind
from parakeet.data.reading.records import Problem
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.sanitise import sanitise

UNPACKED_BY_ZIPFILE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""zipfile unpacks other methods (bzip2, LZMA) without a bound on memory."""
ENCRYPTED = 0x1
ZIP_TAIL_BYTES = 66 << 10
"""Where the end of a zip's directory is: a comment of 64 KiB may follow it."""
MOST_DIRECTORY_BYTES = 32 << 20
"""Of a zip: its list of members is kept in memory, at about 20 times its size."""
MOST_HEADER_BYTES = 1 << 20
"""Of a tar: long names and attributes, which tarfile reads at once."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: a stream to read before the next member is asked for, or a problem."""

    name: str
    kind: tuple[str, str] = ("", "")
    stream: Any = None
    problem: Problem | None = None


def members(kind: str, stream: Any, where: str, unread: Counter[str] | None = None) -> Iterator[Member]:
    """The members of a zip or tar archive whose kind is read, and those that are refused.

    Folders and hidden files are left out, as they are outside archives. `unread` counts members of other kinds by
    ending. Raises ParakeetError for encrypted members, bombs and unsupported compression, and one of `DAMAGE` if the
    archive is damaged.
    """
    counts = Counter() if unread is None else unread
    return _zip_members(stream, where, counts) if kind == "zip" else _tar_members(stream, where, counts)


def company_of(members: Iterator[Member]) -> Company:
    """What stands together in an archive, as far as it can be read; the rest of its members are not asked for."""
    company = Company()
    try:
        for member in members:
            if member.problem is None:
                company.add(member.name, member.kind[0], partial(_is_records, member))
            if company.records:
                break
    except DAMAGE:
        pass  # reported by whoever reads the records
    return company


def _is_records(member: Member) -> bool:
    packed = member.name.lower().endswith(COMPRESSIONS)
    return packed or member.kind[0] == "jsonl" or is_array_or_lines(member.stream.peek(HEAD_BYTES)[:HEAD_BYTES])


def _zip_members(file: BinaryIO, where: str, unread: Counter[str]) -> Iterator[Member]:
    size = file.seek(0, io.SEEK_END)
    packed = 0
    _refuse_directory(file, size, where)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if not any(map(file_kind, names)):
            refuse_other_zip(names, where)
        # For all members together: a small archive can hold the same bomb thousands of times.
        allowance = Allowance(where, lambda: min(packed, size))
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            # ZipInfo.is_dir raises on a member without a name.
            is_folder = info.filename.endswith("/")
            problem = _fault(info.filename, kind in (0, stat.S_IFREG) or is_folder)
            if problem:
                yield Member(_shown(info.filename), problem=problem)
            elif not is_folder and (wanted := _wanted_kind(info.filename, unread)):
                _refuse_packing(info, where)
                packed += info.compress_size
                with archive.open(info) as stream:
                    yield Member(_shown(info.filename), wanted, buffered(stream.read, allowance))


def _refuse_directory(file: BinaryIO, size: int, where: str) -> None:
    """ParakeetError for a zip with more members than the memory should hold. Damage is left to zipfile."""
    tail = min(size, ZIP_TAIL_BYTES)
    file.seek(size - tail)
    end = file.read(tail)
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 > len(end):
        return
    n_bytes, begin = struct.unpack_from("<LL", end, at + 12)
    if n_bytes == 0xFFFFFFFF or begin == 0xFFFFFFFF:  # zip64: the size is in a record of its own
        at = end.rfind(b"PK\x06\x06", 0, at)
        n_bytes = struct.unpack_from("<Q", end, at + 40)[0] if 0 <= at <= len(end) - 48 else size
    if n_bytes > MOST_DIRECTORY_BYTES:
        message = f"{where} has too many members: their list alone is {format_bytes(n_bytes)}. "
        raise ParakeetError(sanitise(message) + "Pack it as several archives, or as a tar.")


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
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not buf.strip(b"\0"):
                raise  # the real end
            raise tarfile.ReadError(f"{error}, where a member or the end of the archive should be") from None
        if header.type in _EXTENDED and header.size > MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _tar_members(stream: Any, where: str, unread: Counter[str]) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES, tarinfo=_Header) as archive:
        while (info := archive.next()) is not None:
            # The holes of a sparse member are produced from nothing, past every allowance.
            problem = _fault(info.name, info.isdir() or (info.isreg() and not info.issparse()))
            if problem:
                yield Member(_shown(info.name), problem=problem)
            elif not info.isdir() and (wanted := _wanted_kind(info.name, unread)):
                content: Any = archive.extractfile(info)
                # Tar does not compress; the compression around the archive has its own allowance.
                yield Member(_shown(info.name), wanted, buffered(content.read, Allowance(where, content.tell)))
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


def _wanted_kind(name: str, unread: Counter[str]) -> tuple[str, str] | None:
    if _is_hidden(name):
        return None
    if (kind := file_kind(name)) is None:
        unread[ending(name)] += 1
    return kind


def _shown(name: str) -> str:
    return sanitise(name.removeprefix("./"))
