"""Hashes of raw files, remembered by path, size and modification time."""

import json
from collections.abc import Iterable
from pathlib import Path

from parakeet.artifact import explain_os_error, replace_file, sha256_of


class HashCache:
    """sha256 of files. A file is read again only if its size or modification time changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            known = {}
        entries = known.items() if isinstance(known, dict) else ()
        self._known = {file: entry for file, entry in entries if isinstance(entry, list) and len(entry) == 3}

    def sha256(self, files: Iterable[Path]) -> dict[Path, str]:
        """Hashes by file. ParakeetError if one cannot be read."""
        known, result = dict(self._known), {}
        for file in files:
            try:
                status = file.stat()
                key = [status.st_size, status.st_mtime_ns]
                entry = known.get(str(file.resolve()))
                digest = str(entry[2]) if entry is not None and entry[:2] == key else sha256_of(file)
            except OSError as error:
                raise explain_os_error(error, "reading a source file") from None
            known[str(file.resolve())] = [*key, digest]
            result[file] = digest
        if known != self._known:
            self._remember(known)
        return result

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
