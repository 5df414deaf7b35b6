"""The list of sessions, and a search in all that was said."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from parakeet.chat.events import fold
from parakeet.chat.storage import SessionRow, latest_first, load, session_files, session_row
from parakeet.errors import ParakeetError

MOST_CHARACTERS = 64 << 20
"""Of text that is kept for the next search. What is beyond is read again for each."""


@dataclass(frozen=True)
class _Known:
    state: tuple[int, int, int]
    """Changes with the file."""
    row: SessionRow
    text: str | None
    """All messages and replies without case; None if there was no room to keep it."""


class SessionList:
    """The sessions under a root. A file is read again only after it changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, _Known] = {}
        self._characters = 0
        """Of all texts that are kept."""
        self._lock = threading.Lock()

    def find(self, search: str = "") -> list[SessionRow]:
        """The sessions with a text, whatever its case, in their name or in any message or reply; the latest first."""
        search = search.casefold()
        with self._lock:
            paths = session_files(self.root)
            for gone in self._known.keys() - set(paths):
                self._forget(gone)
            return latest_first(row for path in paths if (row := self._row(path, search)) is not None)

    def _row(self, path: Path, search: str) -> SessionRow | None:
        try:
            status = os.stat(path)
        except OSError:
            return None  # removed meanwhile
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(path)
        if known is not None and known.state == state and (not search or known.text is not None):
            text = known.text
        else:
            self._forget(path)
            row, text = _read(path)
            kept = text if self._characters + len(text) <= MOST_CHARACTERS else None
            self._characters += len(kept or "")
            known = self._known[path] = _Known(state, row, kept)
        return known.row if not search or search in path.stem.casefold() or search in (text or "") else None

    def _forget(self, path: Path) -> None:
        if (known := self._known.pop(path, None)) is not None:
            self._characters -= len(known.text or "")


def _read(path: Path) -> tuple[SessionRow, str]:
    try:
        loaded = load(path)
    except ParakeetError as error:
        return SessionRow(path.stem, 0, "", "", "", str(error)), ""
    exchanges = [node.exchange for node in fold(loaded.events).nodes]
    text = "\n\0".join(text for exchange in exchanges for text in (exchange.message, exchange.reply))
    return session_row(path.stem, loaded), text.casefold()
