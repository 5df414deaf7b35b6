"""Files that torch.save wrote, judged without torch and without executing anything.

A `.pth` file is a ZIP archive of one pickle, `data.pkl`, and one member of raw bytes per tensor. A pickle is a
program: it names functions and calls them. Before torch's restricted unpickler sees one, its opcodes are read here
and every function outside the few that a state dict needs is refused by name. The archive itself must have exactly
the plain form that torch writes, so that no two readers can see two different things in it.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from parakeet.errors import ParakeetError

STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
NEEDED_GLOBALS = frozenset(
    {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", *(f"torch.{name}Storage" for name in STORAGES)}
)
"""What the pickle of a state dict of plain tensors names."""

MAX_PICKLE_BYTES = 4 << 20
"""The 378M model's takes 16 kB."""
CHUNK_BYTES = 1 << 20

Advance = Callable[[int], None]

_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_END = struct.Struct("<4s4H2LH")
_ZIP_LARGE_END = b"PK\x06\x06"
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_ZIP_LOCATOR = b"PK\x06\x07"
_LOCATOR = struct.Struct("<4sLQL")
_LONGEST_ZIP_COMMENT = 65_535
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # pickled 0x1950a86a20f9469cfc6c, after the protocol's two bytes
_LEGACY_PICKLES = 5
_PRESENT = "Give the .pth file as it was published, or as torch.save of torch 1.6 or newer writes a state dict."
_AGAIN = "Download or copy it again."
_BROKEN_ZIP = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError, OSError
)  # fmt: skip
"""What zipfile raises on damaged archives; OSError for seeks to offsets that no file has."""


def check_torch_archive(path: Path, advance: Advance) -> None:
    """Refuse all but a whole archive of torch.save whose pickle names nothing but what a state dict needs.

    `advance` is called with the number of bytes of members read and checked by CRC-32. ParakeetError says what
    the file is, or what is wrong with it.
    """
    with path.open("rb") as file:
        if not file.read(len(_ZIP_START)) == _ZIP_START:
            raise ParakeetError(f"{path} {_what_it_is(file)}")
        _check_end(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                members = _checked_members(path, archive)
                _check_sums(path, archive, members, advance)
                pickled = next(member for member in members if member.filename.endswith("/data.pkl"))
                _check_pickle(path, io.BytesIO(archive.read(pickled)))
        except _BROKEN_ZIP as error:
            raise ParakeetError(f"{path} is damaged: {str(error) or type(error).__name__}. {_AGAIN}") from None


def _what_it_is(file: BinaryIO) -> str:
    """In words, the kind of a file that is no ZIP archive, from its first bytes."""
    file.seek(0)
    start = file.read(CHUNK_BYTES)
    if not start:
        return f"is empty (0 bytes). {_AGAIN}"
    text = start[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return f"is a web page, not a checkpoint: a download ended in an error page. {_AGAIN}"
    if start[257:262] == b"ustar":
        return f"is a tar archive, the format of torch before 0.1.10 or of another program. {_PRESENT}"
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return _which_pickle(start)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20:
        return f"is a safetensors file under another name, not one that torch.save wrote. {_PRESENT}"
    for magic, name in (
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ\x00", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstandard file"),
        (b"Rar!", "a RAR archive"),
    ):
        if start.startswith(magic):
            return f"is {name}: unpack it first."
    if start.startswith(b"GGUF"):
        return f"is a GGUF file. {_PRESENT}"
    return f"is no file of torch.save: it begins with the bytes {start[:8].hex(' ')}. {_PRESENT}"


def _which_pickle(start: bytes) -> str:
    legacy = start[2 : 2 + len(_LEGACY_MAGIC)] == _LEGACY_MAGIC
    stream = io.BytesIO(start[:MAX_PICKLE_BYTES])
    refused = None
    try:
        for _ in range(_LEGACY_PICKLES if legacy else 1):
            refused = refused or next(refused_globals(stream), None)
    except ValueError:
        pass  # The tensors' bytes, or the end of what was read, after the pickles.
    if refused:
        return f"is a pickle that names {refused}, which no checkpoint needs: it may try to run a program. Refused."
    if legacy:
        return (
            "is in the format of torch before 1.6. In a throw-away environment, save it anew with "
            "torch.save(torch.load(FILE, weights_only=True), NEW_FILE)."
        )
    return f"is a bare pickle, not an archive of torch.save. {_PRESENT}"


def _check_end(path: Path, file: BinaryIO) -> None:
    """The end record must be the file's last bytes: nothing is missing, and nothing hides behind it.

    Before it torch writes a second one, for archives beyond 4 GiB. Both must tell of the same directory, or a reader
    that goes by the one would see another archive than a reader that goes by the other.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END.size - _LONGEST_ZIP_COMMENT))
    tail = file.read()
    behind = len(tail) - tail.rfind(_ZIP_END) - _END.size
    if _ZIP_END not in tail or behind < 0:
        raise ParakeetError(f"{path} is cut short: it begins like a checkpoint, but its end is missing. {_AGAIN}")
    if behind > 0:
        raise ParakeetError(f"{path} goes on behind the end of its archive: it was tampered with, or badly copied.")
    if not _ends_agree(tail, size):
        raise ParakeetError(
            f"{path} was damaged or tampered with: the records at the end of its archive do not fit it. {_AGAIN}"
        )


def _ends_agree(tail: bytes, size: int) -> bool:
    """Whether the end record, and the one for large archives if there is one, place the directory right before them.

    Formats: APPNOTE 6.3 §4.3.14 to §4.3.16.
    """
    _, disk, first_disk, here, members, n_bytes, start, comment = _END.unpack(tail[-_END.size :])
    if (disk, first_disk, here, comment) != (0, 0, members, 0):
        return False
    large = tail[-_END.size - _LARGE_END.size - _LOCATOR.size : -_END.size]
    if not large.startswith(_ZIP_LARGE_END):
        return bool(start + n_bytes == size - _END.size)
    record, locator = _LARGE_END.unpack(large[: _LARGE_END.size]), _LOCATOR.unpack(large[_LARGE_END.size :])
    here64, members64, n_bytes64, start64 = record[6:]
    end = size - _END.size - len(large)
    # Where a number is too large for the short record, that record holds its largest.
    shown = (min(members64, 0xFFFF), min(n_bytes64, 0xFFFFFFFF), min(start64, 0xFFFFFFFF))
    return bool(
        shown == (members, n_bytes, start)
        and (record[1], record[4], record[5], here64) == (_LARGE_END.size - 12, 0, 0, members64)
        and start64 + n_bytes64 == end
        and locator == (_ZIP_LOCATOR, 0, end, 1)
    )


def _checked_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's members, if they are what torch.save writes, stored plainly and once each."""
    members = archive.infolist()
    # zipfile cuts `filename` at a NUL; other readers may not.
    names = [member.orig_filename for member in members]
    root = names[0].split("/")[0] if names else ""
    if any(name.endswith("/constants.pkl") or name.startswith(f"{root}/code/") for name in names):
        raise ParakeetError(f"{path} is a TorchScript program, not weights alone: it is not executed. {_PRESENT}")
    if f"{root}/data.pkl" not in names:
        raise ParakeetError(f"{path} is a ZIP archive, but not one that torch.save wrote: no data.pkl. {_PRESENT}")
    if len({name.lower() for name in names}) < len(names):
        raise ParakeetError(f"{path} holds two members of one name: it was tampered with.")
    for member, name in zip(members, names, strict=True):
        if not _belongs(name, root):
            raise ParakeetError(f"{path} holds {name[:100]!r}, which torch.save does not write. Refused.")
        if (
            member.flag_bits & 1
            or member.compress_type != zipfile.ZIP_STORED
            or member.file_size != (member.compress_size)
        ):
            raise ParakeetError(f"{path} holds {name!r} compressed or encrypted; torch.save does not.")
    if min(member.header_offset for member in members) != 0:
        raise ParakeetError(f"{path} holds something before its archive begins: it was tampered with.")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ParakeetError(f"{path} has members that overlap: it was tampered with.")
    _check_small_members(path, archive, root)
    return members


def _belongs(name: str, root: str) -> bool:
    rest = name.removeprefix(f"{root}/")
    if rest.startswith("data/"):
        return rest.removeprefix("data/").isdecimal()
    known = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
    return name.startswith(f"{root}/") and rest in known


def _check_small_members(path: Path, archive: zipfile.ZipFile, root: str) -> None:
    if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE_BYTES:
        raise ParakeetError(f"{path} has a pickle of more than {MAX_PICKLE_BYTES:,} bytes; no state dict needs that.")
    order = f"{root}/byteorder"
    if order in archive.namelist() and archive.getinfo(order).file_size < 16 and archive.read(order) != b"little":
        raise ParakeetError(f"{path} was written on a big-endian machine, which Parakeet does not read.")


def _check_sums(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], advance: Advance) -> None:
    """Read every member to its end; zipfile compares the CRC-32 there. torch itself does not when it maps a file."""
    for member in members:
        with archive.open(member) as stream:
            while piece := stream.read(CHUNK_BYTES):
                advance(len(piece))


def _check_pickle(path: Path, stream: BinaryIO) -> None:
    try:
        refused = next(refused_globals(stream), None)
    except ValueError as error:
        raise ParakeetError(f"{path} has a broken pickle ({error}). {_AGAIN}") from None
    if refused:
        raise ParakeetError(
            f"{path} names {refused} in its pickle, which no state dict needs: it may try to run a program. "
            "It was refused, and nothing of it was executed."
        )
    if stream.read(1):
        raise ParakeetError(f"{path} has something behind its pickle: it was tampered with.")


def refused_globals(stream: BinaryIO) -> Iterator[str]:
    """The functions and classes that the pickle at a stream's position names, but for NEEDED_GLOBALS.

    Opcodes are read, never executed. A global whose name is put together on the stack (STACK_GLOBAL), an
    extension code and INST are given whatever they name: torch.save writes none of them. Raises ValueError
    where the bytes are no pickle.
    """
    strings: list[str] = []
    memo: dict[int, str] = {}
    count, last = 0, ""
    for opcode, argument, _ in pickletools.genops(stream):
        pushed = ""
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
            if name not in NEEDED_GLOBALS:
                yield name
        elif opcode.name in ("INST", "EXT1", "EXT2", "EXT4"):
            yield f"{opcode.name} {str(argument).replace(' ', '.')}"
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:]) or "a function of no name"
        elif opcode.name == "MEMOIZE":
            memo[count], count = last, count + 1
        elif "PUT" in opcode.name:
            memo[int(str(argument))], count = last, count + 1
        elif "GET" in opcode.name:
            pushed = memo.get(int(str(argument)), "")
        elif isinstance(argument, str):
            pushed = argument
        if pushed:
            strings = [*strings[-1:], pushed]
        last = pushed
