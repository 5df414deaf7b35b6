"""Files that torch.save wrote, judged without torch and without executing anything.

A `.pth` file is a ZIP archive of one pickle, `data.pkl`, and one member of raw bytes per tensor. A pickle is a
program: it names functions and calls them. Before torch's restricted unpickler sees one, its opcodes are read here
and every function outside the few that a state dict needs is refused by name. The archive itself must have exactly
the plain form that torch writes, so that no two readers can see two different things in it.
"""

import errno
import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from parakeet.sanitise import sanitise

STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
NEEDED_GLOBALS = frozenset(
    {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", *(f"torch.{name}Storage" for name in STORAGES)}
)
"""What the pickle of a state dict of plain tensors names."""

MAX_PICKLE_BYTES = 4 << 20
"""The 378M model's takes 16 kB."""
CHUNK_BYTES = 1 << 20
MOST_SHOWN = 200
"""Characters of a file's own words, such as names, that a message repeats."""

Advance = Callable[[int], None]

_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_END = struct.Struct("<4s4H2LH")
_ZIP_LARGE_END = b"PK\x06\x06"
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_ZIP_LOCATOR = b"PK\x06\x07"
_LOCATOR = struct.Struct("<4sLQL")
_ENCRYPTED = 0x1
_LONGEST_ZIP_COMMENT = 65_535
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # pickled 0x1950a86a20f9469cfc6c, after the protocol's two bytes
_LEGACY_PICKLES = 5
_MAY_RUN = "which no state dict needs: it may try to run a program. It was refused, and nothing of it was executed"
_NOT_PLAIN = (
    "it is not a plain state dict of tensors, but holds parameters, or quantised, sparse or other special tensors; "
    "save model.state_dict() of the float32 model instead"
)
_OTHER_TENSORS = re.compile(
    r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|serialization\._get_layout"
    r"|storage\.UntypedStorage|\w+Storage|per_\w+|Size|Tensor|device|bool|[a-z]+\d+\w*)"
)
"""What torch.save names for tensors that are not plain: parameters, quantised, sparse and meta tensors, and so on."""
_LONGEST_SAFETENSORS_HEADER = 100_000_000
_TAR_MAGIC = slice(257, 262)
_PACKED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstandard file",
    b"Rar!": "a RAR archive",
}
_BROKEN_ZIP = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError
)  # fmt: skip
"""What zipfile raises on damaged archives, besides OSError with EINVAL for seeks to offsets that no file has."""


def fault_of_head(head: bytes) -> str | None:
    """Why a file that begins like this is no checkpoint of torch.save, as words to follow a colon, or None.

    What a bare pickle names is looked for in `head` only.
    """
    if head.startswith(_ZIP_START):
        return None
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros" if head else "it is empty (0 bytes)"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "it is a web page or other markup, not a checkpoint: maybe the error page of a failed download"
    if head[_TAR_MAGIC] == b"ustar":
        return (
            "it is a tar archive, the format of torch before version 0.1.10 or of another program, "
            "not a file of torch.save of torch 1.6 or newer"
        )
    # Before pickles: the length of its header can begin with the bytes that a pickle begins with.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_SAFETENSORS_HEADER:
        return "it is a safetensors file under another name, not a .pth that torch.save wrote"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _fault_of_bare_pickle(head)
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            return f"it is {name}: unpack it first"
    if head.startswith(b"GGUF"):
        return "it is a GGUF file, not a .pth that torch.save wrote"
    return (
        f"it is no checkpoint that torch.save wrote: it begins with {head[:8].hex(' ')}, "
        f"a .pth with {_ZIP_START.hex(' ')} (zip)"
    )


def fault_of_archive(path: Path, advance: Advance) -> str | None:
    """What is wrong with a file, as words to follow a colon, or None for a whole archive of a state dict.

    Whole: in the plain form that torch.save writes, each member as its CRC-32 says, with a pickle that names nothing
    but NEEDED_GLOBALS. `advance` is told the bytes of members as they are read. OSError where the disk fails.
    """
    with path.open("rb") as file:
        fault = fault_of_head(file.read(CHUNK_BYTES)) or _fault_of_end(file)
        if fault:
            return fault
        try:
            with zipfile.ZipFile(file) as archive:
                return (
                    _fault_of_directory(archive, file)
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
    return f"it is a damaged archive ({_shown(str(error)) or type(error).__name__})"


def _shown(text: str) -> str:
    return " ".join(sanitise(text).split())[:MOST_SHOWN]


def _fault_of_bare_pickle(head: bytes) -> str:
    legacy = head[2 : 2 + len(_LEGACY_MAGIC)] == _LEGACY_MAGIC
    stream = io.BytesIO(head)
    refused = None
    # The tensors' bytes, or the end of what was read, come after the pickles.
    with suppress(ValueError):
        for _ in range(_LEGACY_PICKLES if legacy else 1):
            refused = refused or _gravest_global(stream)
    if refused:
        return f"it is a pickle that names {_shown(refused)}{_judged(refused)}"
    if legacy:
        return (
            "it is a bare pickle, as torch wrote before version 1.6. In a throw-away environment, save it anew with "
            "torch.save(torch.load(FILE, weights_only=True), NEW_FILE)"
        )
    return "it is a bare pickle, not an archive as torch.save of torch 1.6 or newer writes it"


def _fault_of_end(file: BinaryIO) -> str | None:
    """The end record must be the file's last bytes: nothing is missing, and nothing hides behind it.

    Before it torch writes a second one, for archives beyond 4 GiB. Both must tell of the same directory, or a reader
    that goes by the one would see another archive than a reader that goes by the other.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END.size - _LONGEST_ZIP_COMMENT))
    tail = file.read()
    behind = len(tail) - tail.rfind(_ZIP_END) - _END.size
    if _ZIP_END not in tail or behind < 0:
        return "it is a cut-off archive: it begins like a checkpoint, but its end is missing"
    if behind > 0:
        return "it goes on behind the end of its archive: it was tampered with, or badly copied"
    if not _ends_agree(tail, size):
        return "it is an archive that was damaged, tampered with, or made of two: the records at its end do not fit it"
    return None


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


def _fault_of_directory(archive: zipfile.ZipFile, file: BinaryIO) -> str | None:
    """As many members as the end record counts: an entry whose comment was made longer swallows those behind it."""
    file.seek(-_END.size, io.SEEK_END)
    members = _END.unpack(file.read())[4]
    if min(len(archive.infolist()), 0xFFFF) != members:
        return f"it is a damaged archive: its end counts {members:,} members, its directory {len(archive.infolist()):,}"
    return None


def _fault_of_members(archive: zipfile.ZipFile, size: int) -> str | None:
    """The members must be what torch.save writes, stored plainly and once each, and no more than the file holds."""
    members = archive.infolist()
    # zipfile cuts `filename` at a NUL; other readers may not.
    names = [member.orig_filename for member in members]
    root = names[0].split("/")[0] if names else ""
    if any(name.endswith("/constants.pkl") or name.startswith(f"{root}/code/") for name in names):
        return "it is a TorchScript program, not weights alone, and is not executed"
    if f"{root}/data.pkl" not in names:
        return "it is a ZIP archive, but none that torch.save wrote: it has no data.pkl"
    if len({name.lower() for name in names}) < len(names):
        return "it is an archive with two members of one name: it was tampered with"
    for member, name in zip(members, names, strict=True):
        if not _belongs(name, root):
            return f"it is an archive that holds {name[:100]!r}, which torch.save does not write"
        plain = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if member.flag_bits & _ENCRYPTED or not plain:
            return f"it is an archive that holds {name[:100]!r} compressed or encrypted, which torch.save never writes"
    if min(member.header_offset for member in members) != 0:
        return "it holds something before its archive begins: it was tampered with"
    if sum(member.file_size for member in members) > size:
        return "it is an archive whose members overlap: it was tampered with"
    return _fault_of_small_members(archive, root)


def _belongs(name: str, root: str) -> bool:
    rest = name.removeprefix(f"{root}/")
    if rest.startswith("data/"):
        return rest.removeprefix("data/").isdecimal()
    known = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
    return name.startswith(f"{root}/") and rest in known


def _fault_of_small_members(archive: zipfile.ZipFile, root: str) -> str | None:
    if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE_BYTES:
        return f"it has a pickle of more than {MAX_PICKLE_BYTES:,} bytes, and no state dict needs that"
    order = f"{root}/byteorder"
    if order in archive.namelist() and archive.getinfo(order).file_size < 16 and archive.read(order) != b"little":
        return "it was written on a big-endian machine, which Parakeet does not read"
    return None


def _fault_of_sums(archive: zipfile.ZipFile, advance: Advance) -> str | None:
    """Read every member to its end; zipfile compares the CRC-32 there. torch itself does not when it maps a file."""
    for member in archive.infolist():
        with archive.open(member) as stream:
            while piece := stream.read(CHUNK_BYTES):
                advance(len(piece))
    return None


def _fault_of_pickle(archive: zipfile.ZipFile) -> str | None:
    pickled = next(member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
    stream = io.BytesIO(archive.read(pickled))
    try:
        refused = _gravest_global(stream)
    except ValueError as error:
        return f"it has a broken pickle ({_shown(str(error))})"
    if refused:
        return f"it names {_shown(refused)} in its pickle{_judged(refused)}"
    return "it has something behind its pickle: it was tampered with" if stream.read(1) else None


def _gravest_global(stream: BinaryIO) -> str | None:
    """Of the names that a pickle is refused for, the first that is no kind of tensor, else the first."""
    first = None
    try:
        for name in refused_globals(stream):
            if not _OTHER_TENSORS.fullmatch(name):
                return name
            first = first or name
    except ValueError:
        if first is None:
            raise
    return first


def _judged(refused: str) -> str:
    return f": {_NOT_PLAIN}" if _OTHER_TENSORS.fullmatch(refused) else f", {_MAY_RUN}"


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
