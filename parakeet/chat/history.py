"""What was typed at the prompt, kept from one chat to the next: a JSON string a line, for its owner's eyes only."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

LONGEST_FILE = 1 << 20
"""Bytes from which the older part of the file is left behind."""

LONGEST_ENTRY = 10_000
"""Characters of an input that is still kept: a pasted book is no line to come back to with the arrow keys."""


class PromptHistory(History):
    """prompt_toolkit's history in a file with mode 0600, or for this chat only where `path` is None.

    So it is also where the file cannot be used; `notes` says why, once. Lines that are damaged are skipped.
    `expand` turns what stands in the input line into what it means.
    """

    def __init__(self, path: Path | None, expand: Callable[[str], str]) -> None:
        super().__init__()
        self.notes: list[str] = []
        self._expand = expand
        self._entries: list[str] = []
        self._descriptor = self._open(path) if path else None

    def load_history_strings(self) -> Iterable[str]:
        """Newest first, as prompt_toolkit wants them."""
        return reversed(self._entries)

    def append_string(self, string: str) -> None:
        string = self._expand(string)
        if string.strip() and len(string) <= LONGEST_ENTRY and self._entries[-1:] != [string]:
            # Here too, since prompt_toolkit asks for the whole list only when its event loop comes to it.
            self._entries.append(string)
            super().append_string(string)

    def store_string(self, string: str) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(string).encode() + b"\n")
        except OSError as error:
            self._descriptor = None
            self.notes.append(f"What you type is no longer kept for the next chat: {error.strerror}.")

    def _open(self, path: Path) -> int | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without O_NONBLOCK, a FIFO of that name would wait for a writer for ever.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
            self._read(descriptor, path)
        except OSError as error:
            self.notes.append(f"What you type is not kept for the next chat: {path}: {error.strerror}.")
            return None
        return descriptor

    def _read(self, descriptor: int, path: Path) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "this is not a file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
            self.notes.append(f"{path} could be read by others: it is now for you alone.")
        skipped = max(0, status.st_size - LONGEST_FILE // 2) if status.st_size > LONGEST_FILE else 0
        content = os.pread(descriptor, LONGEST_FILE, skipped)
        if skipped:
            content = content.partition(b"\n")[2]
            os.ftruncate(descriptor, 0)
            os.write(descriptor, content)
        elif content and not content.endswith(b"\n"):
            os.write(descriptor, b"\n")  # a line that a power cut left open must not swallow the next one
        self._entries = [entry for line in content.split(b"\n") if (entry := _entry(line))]


def _entry(line: bytes) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return value[:LONGEST_ENTRY] if isinstance(value, str) else ""
