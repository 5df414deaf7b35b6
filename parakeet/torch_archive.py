"""Checks a file that torch.save wrote, without torch and without executing anything in it.

A `.pth` file is a ZIP archive: one pickle, `data.pkl`, and one member of raw bytes per tensor. A pickle is a program
that names functions and calls them. Here its instructions are only read, and any function that a state dict does not
need is refused by name. What passes still goes through torch.load(weights_only=True), in a process of its own
(`parakeet.model.original_reader`).
"""

import errno
import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from parakeet.formatting import format_bytes, one_line

STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
NEEDED_GLOBALS = frozenset(
    {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", *(f"torch.{name}Storage" for name in STORAGES)}
)
"""All that the pickle of a state dict of plain tensors names."""

MAX_PICKLE_BYTES = 4 << 20
"""The pickle of the 378M model takes 16 kB."""
CHUNK_BYTES = 1 << 20

_ZIP_START = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q4sLQL")  # the record for archives beyond 4 GiB and its locator
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number 0x1950a86a20f9469cfc6c
_LONGEST_SAFETENSORS_HEADER = 100_000_000
_OTHER_FORMATS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ\x00": "an xz file: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstandard file: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"GGUF": "a GGUF file, not a .pth that torch.save wrote",
    _LEGACY_START: "a bare pickle, as torch wrote before version 1.6. In a throw-away environment, convert it with "
    "torch.save(torch.load(FILE, weights_only=True), NEW_FILE)",
    **dict.fromkeys(
        [b"\x80" + bytes([protocol]) for protocol in range(6)],
        "a bare pickle, not an archive as torch.save of torch 1.6 or newer writes it",
    ),
}
_BROKEN_ZIP = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError, struct.error
)  # fmt: skip
"""What zipfile raises for damaged archives, besides OSError with EINVAL for seeks to impossible offsets."""


def fault_of_head(head: bytes) -> str | None:
    """Why a file that begins with `head` is not a checkpoint, as words to follow a colon; None for a ZIP archive."""
    if head.startswith(_ZIP_START):
        return None
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros" if head else "it is empty (0 bytes)"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "it is a web page or other markup, not a checkpoint: maybe the error page of a failed download"
    if head[257:262] == b"ustar":
        return "it is a tar archive, not a file that torch.save of torch 1.6 or newer wrote"
    # Before the pickles: the length of the header can begin with the same bytes as a pickle.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_SAFETENSORS_HEADER:
        return "it is a safetensors file under another name, not a .pth that torch.save wrote"
    for start, name in _OTHER_FORMATS.items():
        if head.startswith(start):
            return f"it is {name}"
    return (
        f"it is not a checkpoint that torch.save wrote: it begins with {head[:8].hex(' ')}, "
        f"and a .pth with {_ZIP_START.hex(' ')} (zip)"
    )


def fault_of_archive(path: Path, advance: Callable[[int], None]) -> str | None:
    """What is wrong with a file, as words to follow a colon; None if it is an intact archive of a state dict.

    Intact: it has the plain form that torch.save writes, every member matches its CRC-32, and the pickle names only
    NEEDED_GLOBALS. `advance` receives the number of bytes after each read. OSError if the disk fails.
    """
    with path.open("rb") as file:
        fault = fault_of_head(file.read(CHUNK_BYTES))
        if fault:
            return fault
        try:
            with zipfile.ZipFile(file) as archive:
                return (
                    _fault_of_end(archive, file)
                    or _fault_of_members(archive, file.seek(0, io.SEEK_END))
                    or _fault_of_sums(archive, advance)
                    or _fault_of_pickle(archive)
                )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return _damaged(error)
        except _BROKEN_ZIP as error:
            return _damaged(error)


def _damaged(error: Exception) -> str:
    if str(error) == "File is not a zip file":
        return "it is a cut-off archive: it begins like a checkpoint, but its end is missing"
    return f"it is a damaged archive ({one_line(str(error))[:200] or type(error).__name__})"


def _fault_of_end(archive: zipfile.ZipFile, file: BinaryIO) -> str | None:
    """The records at the end must be exactly those of the directory that zipfile found (APPNOTE 6.3, 4.3.14 to 4.3.16).

    Otherwise bytes are missing or added, or another reader, such as torch's, could find another directory.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_64.size - _END.size))
    tail = file.read()
    if not tail[-_END.size :].startswith(b"PK\x05\x06"):
        return "it has more bytes after the end of its archive: it was tampered with, or badly copied"
    members, start = len(archive.infolist()), archive.start_dir
    large = tail.startswith(b"PK\x06\x06")
    n_bytes = size - start - _END.size - (_END_64.size if large else 0)
    # Where a number is too large for the short record, that record holds its own largest.
    few = min(members, 0xFFFF)
    end = _END.pack(b"PK\x05\x06", 0, 0, few, few, min(n_bytes, 0xFFFFFFFF), min(start, 0xFFFFFFFF), 0)
    if large:
        versions = _END_64.unpack(tail[: _END_64.size])[2:4]
        counts = (0, 0, members, members, n_bytes, start)
        end = _END_64.pack(b"PK\x06\x06", 44, *versions, *counts, b"PK\x06\x07", 0, start + n_bytes, 1) + end
    if not tail.endswith(end):
        return "it is a damaged archive, or made of two: the records at its end do not match its directory"
    return None


def _fault_of_members(archive: zipfile.ZipFile, size: int) -> str | None:
    """The members must be those that torch.save writes, each once, uncompressed, and not larger than the file."""
    members = archive.infolist()
    names = [member.orig_filename for member in members]  # `filename` ends at a NUL; other readers may not
    root = names[0].split("/")[0] if names else ""
    if f"{root}/data.pkl" not in names:
        return "it is a ZIP archive, but none that torch.save wrote: it has no data.pkl"
    known = r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9]+"
    for member, name in zip(members, names, strict=True):
        if not re.fullmatch(f"{re.escape(root)}/({known})", name):
            return f"it is a TorchScript program or another ZIP archive: torch.save does not write {name[:100]!r}"
        plain = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if member.flag_bits & 1 or not plain:
            return f"it is an archive that holds {name[:100]!r} compressed or encrypted, which torch.save never writes"
    if len(set(names)) < len(names):
        return "it is an archive with two members of the same name: it was tampered with"
    if min(member.header_offset for member in members) != 0:
        return "it has bytes before its archive begins: it was tampered with"
    if sum(member.file_size for member in members) > size:
        return "it is an archive whose members overlap: it was tampered with"
    return None


def _fault_of_sums(archive: zipfile.ZipFile, advance: Callable[[int], None]) -> str | None:
    """Read every member; zipfile compares its CRC-32 at the end. torch itself does not when it maps a file."""
    for member in archive.infolist():
        with archive.open(member) as stream:
            while piece := stream.read(CHUNK_BYTES):
                advance(len(piece))
    return None


def _fault_of_pickle(archive: zipfile.ZipFile) -> str | None:
    """The pickle must name nothing but NEEDED_GLOBALS, and those by the one instruction that torch.save uses."""
    member = next(member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
    if member.file_size > MAX_PICKLE_BYTES:
        return f"it has a pickle of more than {format_bytes(MAX_PICKLE_BYTES, 0)}, and no state dict needs that"
    refused: dict[str, None] = {}
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(archive.read(member)):
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                # STACK_GLOBAL takes its two names from the stack: mostly the last two strings.
                name = ".".join(strings) if argument is None else str(argument).replace(" ", ".")
                if opcode.name != "GLOBAL" or name not in NEEDED_GLOBALS:
                    refused[one_line(name)[:200] or opcode.name] = None
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
    except ValueError as error:
        if not refused:
            return f"it has a broken pickle ({one_line(str(error))[:200]})"
    if not refused:
        return None
    return (
        f"it names {', '.join(list(refused)[:3])} in its pickle, which no state dict of plain tensors needs: it may be "
        "a program, and nothing of it was executed. If it holds parameters or special tensors, save "
        "model.state_dict() of the float32 model"
    )
