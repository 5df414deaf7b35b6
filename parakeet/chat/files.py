"""`@file` in what a person types: the text of the file stands in its place."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from parakeet.errors import ParakeetError, os_reason
from parakeet.formatting import format_bytes

MAX_FILE_BYTES = 16 << 20
"""A larger file is refused before it is read: no context holds it."""

_REFERENCE = re.compile(r'(?<!\S)(@@?)("[^"\n]+"|(?:\\.|[^\s\\"@])(?:\\.|[^\s\\])*)')
"""@name at the start of a word: a name with spaces is quoted, or has a backslash before each."""

_ENDS_SENTENCE = ".,;:!?)]}'\"…"
_LIKE_A_FILE = re.compile(r"[/~]|\.[A-Za-z][A-Za-z0-9]{0,4}$")


class _Found(NamedTuple):
    path: Path
    rest: str
    """Punctuation after the name that is not part of it."""


def with_files(text: str, note: Callable[[str], None]) -> str:
    """A text with the content of each file that it names as `@file` in place of the name.

    A content of several lines stands apart from what is around it. A word that names no file stays as it is, with a
    note if it looks like a file's name. Of `@@word`, one @ is sent where `@word` would be read as a file.

    Raises ParakeetError if a file cannot be read as text, or if the text is nothing but the name of a missing file.
    """
    parts: list[str] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        marks, name = match.groups()
        alone = match[0] == text.strip()
        found = _find(name, folders=alone)
        if found is None and not alone:
            if marks == "@" and _LIKE_A_FILE.search(_plain(name)):
                note(f"There is no file {_plain(name)}: {match[0]} is sent as it is.")
            continue
        if marks == "@@":
            parts += [text[end : match.start()], match[0][1:]]
        elif found is None:
            raise ParakeetError(f"There is no file {_plain(name)}. To send the word itself, double the @: @{match[0]}")
        else:
            content, rest = read_text(found.path), found.rest
            parts.append(text[end : match.start()])
            if "\n" in content:
                content = _gap("".join(parts)) + content
                rest += "" if not (rest + text[match.end() :]).strip() else _gap_before(text[match.end() :])
            parts += [content, rest]
        end = match.end()
    return "".join(parts) + text[end:]


def read_text(path: Path) -> str:
    """The text of a file without the newline at its end. UTF-8, or UTF-16 with a byte order mark.

    Raises ParakeetError if it is not a regular file of at most 16 MiB of text.
    """
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
            raise ParakeetError(f"{path} {kind}: give a text file.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ParakeetError(
                f"{path} has {format_bytes(size)}, but a message can hold {format_bytes(MAX_FILE_BYTES)}: cut it."
            )
        data = path.read_bytes()
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {os_reason(error)}.") from None
    return decoded(data, str(path)).removesuffix("\n")


def decoded(data: bytes, name: str) -> str:
    """Bytes as text with newlines alone as line ends; ParakeetError, with the place, if they are not text."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ParakeetError(
            f"{name} is not UTF-8 text: byte {error.start + 1:,} is not. If it is text in another encoding, convert it "
            "with: iconv -f latin1 -t utf-8"
        ) from None
    if (place := text.find("\x00")) >= 0:
        raise ParakeetError(f"{name} is not text: its character {place + 1:,} is NUL.")
    return text.replace("\r\n", "\n")


def complete_path(name: str) -> Iterator[str]:
    """Names that begin with what was typed after the @, each as it would be typed; folders end with a slash."""
    typed = _plain(name)
    beginning = typed.rpartition("/")[2]
    shown = typed[: len(typed) - len(beginning)]
    try:
        entries = sorted(os.scandir(os.path.expanduser(shown) or "."), key=lambda entry: entry.name)
        for entry in entries:
            hidden = entry.name.startswith(".") and not beginning.startswith(".")
            if entry.name.startswith(beginning) and not hidden:
                end = "/" if entry.is_dir() else ""
                yield re.sub(r"([\s\\\"])", r"\\\1", shown + entry.name) + end
    except OSError:
        return


def _plain(name: str) -> str:
    """A name without its quotes, or without the backslashes before spaces."""
    return name[1:-1] if name.startswith('"') else re.sub(r"\\(.)", r"\1", name)


def _find(name: str, folders: bool) -> _Found | None:
    """The file of a name. A folder counts only if there is no other text: "@home" may be a word."""
    plain = _plain(name)
    # "See @notes.txt." names notes.txt, unless there is a file with the point.
    trimmed = "" if name.startswith('"') else plain.rstrip(_ENDS_SENTENCE)
    for candidate in dict.fromkeys((plain, trimmed)):
        try:
            path = Path(os.path.expanduser(candidate))
            if candidate and path.exists() and (folders or not path.is_dir()):
                return _Found(path, plain[len(candidate) :])
        except (OSError, ValueError):  # too long for a name, or with a NUL
            continue
    return None


def _gap(before: str) -> str:
    """What stands between a text and a file after it."""
    return "" if not before.strip() or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"


def _gap_before(after: str) -> str:
    return "" if after.startswith("\n\n") else "\n" if after.startswith("\n") else "\n\n"
