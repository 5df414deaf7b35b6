"""What a file is, by its first bytes: an ending can be wrong, and a server can send something else.

This module is light, like `kinds`.
"""

import codecs
import json
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from parakeet.data.reading.kinds import ARCHIVES, PAGES_REMEDY
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

HEAD_BYTES = 256 << 10
"""A file is judged by this many bytes."""
SHORTEST_MARK = 4
TAR_MARK = 257

_MARKS = {
    b"\x1f\x8b\x08": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\xfd7zXZ\x00": ".xz",
    b"\x04\x22\x4d\x18": ".lz4",
}
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)")
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""A frame of zstd or lz4 that holds no content, and may come first."""
_ARROW = re.compile(rb"ARROW1\0\0|\xff\xff\xff\xff[^\xff]..\0", re.S)
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06)")
_LINE_OF_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")

_TO_ROWS = "Export its rows as Parquet, CSV or JSON lines."
_TO_TEXT = "Save its text as a .txt file."
_NO_TEXT = "Remove it from the source."
_TEXT_MARKS = (
    (
        rb"version https?://(git-lfs|hawser)\.github\.com/",
        "a Git LFS pointer, not the file itself",
        "Fetch the file, in its repository, with: git lfs pull",
    ),
    (
        rb"/annex/objects/",
        "a git-annex pointer, not the file itself",
        "Fetch the file, in its repository, with: git annex get",
    ),
    (rb"%PDF-", "a PDF document", _TO_TEXT),
    (rb"\{\\rtf", "a Rich Text document", _TO_TEXT),
)
"""Beginnings of files that are not read: a pattern, what it is, and a remedy. Text that is no text to train on."""
_BINARY_MARKS = (
    (rb"SQLite format 3\0", "an SQLite database", _TO_ROWS),
    (rb".{8}DUCK", "a DuckDB database", _TO_ROWS),
    (rb"Obj\x01", "an Avro file", _TO_ROWS),
    (rb"ORC", "an ORC file", _TO_ROWS),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _TO_ROWS),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old Microsoft Office", _TO_TEXT),
    (rb".{5}\0{3}\{\s*\"", "a safetensors file, the weights of a model", _NO_TEXT),
    (rb"GGUF", "a GGUF file, the weights of a model", _NO_TEXT),
    (rb"\x80[\x02-\x05].", "a Python pickle, which could run any code", _NO_TEXT),
    (rb"\x93NUMPY", "a NumPy array", _NO_TEXT),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*", "an image", _NO_TEXT),
    (rb"RIFF.{4}(WAVE|AVI )|OggS|fLaC|ID3[\x02-\x04]|.{4}ftyp|\x1aE\xdf\xa3", "sound or video", _NO_TEXT),
    (rb"\x7fELF|MZ.{1,2}\0", "a program", _NO_TEXT),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07", "an archive of a kind that Parakeet does not read", "Unpack it."),
    (rb"\x02\x21\x4c\x18", "packed with lz4's old format", "Unpack it with lz4 -d."),
    (rb"\x1f[\x9d\xa0]", "packed with compress", "Unpack it with uncompress."),
)
"""The same for files that are not text. A text may begin with ORC, too."""
_PAGE = re.compile(rb"(<!--(?:(?!-->).)*-->\s*|<\?xml[^>]*>\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)
_XML = re.compile(rb"<\?xml\s", re.I)
_IN_ZIPS = {
    "[Content_Types].xml": ("an Office document", _TO_TEXT),
    "mimetype": ("an EPUB or OpenDocument file", f"{_TO_TEXT} {PAGES_REMEDY}"),
    "data.pkl": ("a PyTorch checkpoint", _NO_TEXT),
}
"""Zip files that are something else, by the name of a member."""


def compression_of(head: bytes, named: str) -> str:
    """The compression that a file's first bytes are of, or "". `named` is what its name says.

    A file that is too short or too damaged to tell stays what it is named, so that reading it reports the damage.
    """
    start = 0
    while _SKIPPABLE.match(head, start):
        start += 8 + int.from_bytes(head[start + 4 : start + 8], "little")
    if start:
        return (compression_of(head[start:], named) if start < len(head) else named) or ".zst"
    found = next((compression for mark, compression in _MARKS.items() if head.startswith(mark)), "")
    if found or not head:
        return found or named
    if _BZIP2.match(head) or (named == ".bz2" and head[:3] == b"BZh"[: len(head)]):
        return ".bz2"
    known = is_text(head) or _is_utf16(head) or _binary_kind(head) or _refusal(head)
    return "" if known else named


def kind_of(head: bytes, named: str, where: str, separator: str | None = None) -> str:
    """What a file that is not compressed (any more) is: a value of `kinds.KINDS` or "zip".

    `named` is the kind that its name says, "" if that says nothing. Raises ParakeetError for what cannot be read.
    """
    if (found := _binary_kind(head)) is not None:
        return found
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if named == "html" and (_PAGE.match(start) or _XML.match(start)):
        return named
    _refuse(head, start, named, where)
    if not start:
        return named or "text"
    if named in ("jsonl", "json"):
        return named
    if not is_text(head):
        if named:
            return named
        raise ParakeetError(sanitise(f"{where} is of a kind that Parakeet does not know. {_NO_TEXT}"))
    if (form := _surely_json(start, len(head) < HEAD_BYTES)) and not (named == "text" and separator is not None):
        return form
    if named in ("parquet", "arrow", *ARCHIVES):
        if len(head) < SHORTEST_MARK or (named == "parquet" and head.startswith(b"PAR1")):
            return named
        message = (
            f"{where} cannot be read as {named}: it is plain text. If that is what it should be, rename it to .txt."
        )
        raise ParakeetError(sanitise(message))
    return named or "text"


def is_text(head: bytes) -> bool:
    """Whether bytes can be the beginning of a text in UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return _LINE_OF_CONTROLS.search(head) is None


def holds_json_records(path: Path) -> bool:
    """Whether a JSON file holds an array or lines of records, and not one value, such as settings.

    A compressed file, and one that cannot be read, count as records.
    """
    name = path.name.lower()
    if not name.endswith(".json"):
        return True
    try:
        with path.open("rb") as file:
            return is_array_or_lines(file.read(HEAD_BYTES))
    except OSError:
        return True


def is_array_or_lines(head: bytes) -> bool:
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    return start.startswith(b"[") or bool(_surely_json(start, len(head) < HEAD_BYTES))


def refuse_other_zip(names: list[str], where: str) -> None:
    """ParakeetError if a zip with these members, none of which is read, is a document or a checkpoint."""
    for name, (what, remedy) in _IN_ZIPS.items():
        if any(name in (member, PurePosixPath(member).name) for member in names):
            raise ParakeetError(sanitise(f"{where} is {what}. {remedy}"))


def _surely_json(start: bytes, whole: bool) -> str:
    """ "jsonl", "json" or "" for a text that is not named JSON. One object on one line may be just an example."""
    first, rest = _first_line(start)
    if start.startswith(b"{") and first is not None:
        second = _first_line(rest)[0] or (rest if whole else b"")
        return "jsonl" if all(isinstance(_parsed(line), dict) for line in (first, second)) else ""
    is_array = re.match(rb"\[\s*\{", start) and isinstance(_first_element(start), dict)
    return "json" if is_array else ""


def _first_line(text: bytes) -> tuple[bytes | None, bytes]:
    """The first line and what follows it without white space; (None, b"") if it has no end."""
    line, end, rest = text.partition(b"\n")
    return (line, rest.lstrip()) if end else (None, b"")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_element(array: bytes) -> Any:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(array)
        return json.JSONDecoder().raw_decode(text, re.compile(r"\[\s*").match(text).end())[0]  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None


def _binary_kind(head: bytes) -> str | None:
    if head.startswith((b"PAR1", b"PARE")) and not is_text(head):
        return "parquet"
    if _ARROW.match(head):
        return "arrow"
    if _ZIP.match(head):
        return "zip"
    if head[TAR_MARK : TAR_MARK + 5] == b"ustar" and _is_tar(head[: tarfile.BLOCKSIZE]):
        return "tar"
    return None


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _refusal(head: bytes) -> tuple[str, str] | None:
    marks = _TEXT_MARKS if is_text(head) else (*_TEXT_MARKS, *_BINARY_MARKS)
    return next(((what, remedy) for mark, what, remedy in marks if re.match(mark, head, re.S)), None)


def _refuse(head: bytes, start: bytes, named: str, where: str) -> None:
    if _is_utf16(head):
        raise ParakeetError(sanitise(f"{where} is encoded as UTF-16. Save it as UTF-8 and try again."))
    refusal = _refusal(head)
    if refusal is None and _PAGE.match(start):
        refusal = (
            "a web page (HTML), such as a server sends in place of a file",
            f"If it should be data, look at the page and fetch the file again. {PAGES_REMEDY}, under the name .html.",
        )
    if refusal is None and _XML.match(start) and named != "text":
        refusal = (
            "XML, such as a server sends when it refuses a file",
            "If it should be data, look at it and fetch the file again. If it is text, save it as a .txt file.",
        )
    if refusal is not None:
        raise ParakeetError(sanitise(f"{where} is {refusal[0]}. {refusal[1]}"))


def _is_utf16(head: bytes) -> bool:
    """Without a mark, text in Latin letters has a NUL in every second byte."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    piece = head[:512]
    for nul, letter in ((1, 0), (0, 1)):
        if len(piece) >= 8 and not any(piece[nul::2]) and is_text(piece[letter::2]):
            return True
    return False
