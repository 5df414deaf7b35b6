"""Whether a file is a whole archive as torch.save writes it. Nothing in it is executed or unpickled."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from parakeet.download.pages import fault_of_page
from parakeet.sanitise import sanitise

MAGIC = b"PK\x03\x04"
BLOCK_BYTES = 1 << 20
_SAVE_AGAIN = "Save it again with torch.save of torch 1.6 or newer"
_TAR_MAGIC = slice(257, 262)
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error, OverflowError)
"""What zipfile raises for broken archives; OSError is the disk's, and passes."""


def fault_of_head(head: bytes) -> str | None:
    """Why a file that begins like this cannot be a checkpoint that torch.save wrote, or None."""
    page = fault_of_page(head)
    if page or head.startswith(MAGIC):
        return page
    if not head.strip(b"\0"):
        return "it is empty" if not head else "it begins with nothing but zeros"
    if head.startswith(b"\x80\x02"):
        return f"it is a bare pickle, as torch wrote before version 1.6. {_SAVE_AGAIN}"
    if head[_TAR_MAGIC] == b"ustar":
        return f"it is a tar archive, as the first versions of torch wrote. {_SAVE_AGAIN}"
    if head[8:9] == b"{" and head[7:8] == b"\0":
        return "it is a safetensors file, not the original's .pth"
    for magic, kind in ((b"\x1f\x8b", "gzip"), (b"7z\xbc\xaf", "7z"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"Rar!", "RAR")):
        if head.startswith(magic):
            return f"it is a {kind} file: unpack it first"
    return f"it is no checkpoint: it begins with {head[:8].hex(' ')}, a .pth with {MAGIC.hex(' ')} (zip)"


def fault_of_archive(path: Path, advance: Callable[[int], None] = lambda n: None) -> str | None:
    """What is wrong with a checkpoint file, or None: its first bytes, its table of contents, and every CRC-32.

    A splice of two files is found too: the table at the end holds the checksums of one of them only. `advance` is
    told the bytes that were read. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        fault = fault_of_head(file.read(BLOCK_BYTES))
    if fault:
        return fault
    try:
        with zipfile.ZipFile(path) as archive:
            return _fault_of_table(archive, path.stat().st_size) or _fault_of_members(archive, advance)
    except _DAMAGE as error:
        return f"it is a damaged or cut-off archive ({sanitise(str(error))})"


def _fault_of_table(archive: zipfile.ZipFile, n_bytes: int) -> str | None:
    """Torch stores, never compresses: so what is read back can never be more than the file holds."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if not any(name.endswith("/data.pkl") for name in names):
        return "it is a zip archive, but none that torch.save wrote: it has no data.pkl"
    if len(set(names)) < len(names):
        return "it is an archive with two members of one name"
    if any(member.flag_bits & _ENCRYPTED or member.compress_type != zipfile.ZIP_STORED for member in members):
        return "it is an archive with compressed or encrypted members, which torch.save never writes"
    if min(member.header_offset for member in members) or sum(member.file_size for member in members) > n_bytes:
        return "it is an archive whose table of contents does not fit its bytes (two files in one?)"
    return None


def _fault_of_members(archive: zipfile.ZipFile, advance: Callable[[int], None]) -> str | None:
    for member in archive.infolist():
        with archive.open(member) as stream:
            while block := stream.read(BLOCK_BYTES):
                advance(len(block))
    return None
