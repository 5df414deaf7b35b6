"""Hashes of raw files, remembered by path and state, and whether a file has changed since."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from parakeet.artifact import explain_os_error, replace_file, sha256_of
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

TICK_NS = 20_000_000

FileState = tuple[int, int, int]
"""Size, and the times of the last change of content and of the file's entry in nanoseconds. The last cannot be set."""


def file_state(file: Path) -> FileState:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _settled_state(file: Path) -> FileState:
    """The state once a later change is sure to have another time: the clock of files ticks every few milliseconds."""
    state = file_state(file)
    while 0 <= time.time_ns() - state[2] < TICK_NS:
        time.sleep(TICK_NS / 1e9)
        state = file_state(file)
    return state


def refuse_changed(states: Mapping[Path, FileState]) -> None:
    """Raise ParakeetError if a file is no longer in the state that it was in when it was hashed."""
    for file, state in states.items():
        try:
            changed = file_state(file) != tuple(state)
        except OSError:
            changed = True
        if changed:
            raise ParakeetError(
                sanitise(f"{file} was changed while it was read. Nothing was made of it: run the same command again.")
            )


class HashCache:
    """sha256 of files. A file is read again only if its state changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            known = {}
        entries = known.items() if isinstance(known, dict) else ()
        self._known = {file: entry for file, entry in entries if isinstance(entry, list) and len(entry) in (3, 4)}

    def sha256(self, files: Iterable[Path]) -> dict[Path, str]:
        """Hashes by file. ParakeetError if one cannot be read."""
        return {file: digest for file, (digest, _) in self.hashed(files).items()}

    def hashed(self, files: Iterable[Path]) -> dict[Path, tuple[str, FileState]]:
        """The same with the state that each file had. ParakeetError also if one changes while it is read."""
        known, result = dict(self._known), {}
        folders: dict[str, str] = {}
        for file in files:
            name = _real_name(file, folders)
            try:
                state = _settled_state(file)
                digest = _digest_in(known.get(name), state)
                if digest is None:
                    digest = sha256_of(file)
                    refuse_changed({file: state})
            except OSError as error:
                raise explain_os_error(error, "reading a source file") from None
            known[name] = [*state, digest]
            result[file] = digest, state
        if known != self._known:
            self._remember(known)
        return result

    def sha256_for_reader(self, file: Path) -> str:
        """The hash of one file, remembered if the cache can be written. OSError if the file cannot be read."""
        name, state = str(file.resolve()), _settled_state(file)
        digest = _digest_in(self._known.get(name), state)
        if digest is None:
            digest = sha256_of(file)
            if file_state(file) == state:
                self._known[name] = [*state, digest]
                with suppress(OSError):
                    replace_file(self._path, json.dumps(self._known))
        return digest

    def forget(self, file: Path) -> None:
        """Read the file again next time, even if size and time are the same."""
        name = str(file.resolve())
        if name in self._known:
            self._remember({known: entry for known, entry in self._known.items() if known != name})

    def _remember(self, known: dict[str, list[object]]) -> None:
        self._known = known
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(known))
        except OSError as error:
            raise explain_os_error(error, "preparing the assets folder") from None


def _real_name(file: Path, folders: dict[str, str]) -> str:
    """The path without links. `folders` remembers that of each folder: for 20,000 files this saves half a second."""
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = os.path.join(folders[folder], name)
    return os.path.realpath(path) if name in ("", ".", "..") or os.path.islink(path) else path


def _digest_in(entry: list[object] | None, state: FileState) -> str | None:
    """The hash that was remembered for this state. Entries of Parakeet 0.1 have no time of the file's entry."""
    if entry is None:
        return None
    *before, digest = entry
    return str(digest) if before in ([*state], [*state[:2]]) else None
