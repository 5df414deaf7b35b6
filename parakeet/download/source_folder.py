"""The folder that a source is fetched into: whole files under their names, and under `work/` what is not whole yet.

`work/parts/<key>` is a file on its way and `<key>.json` beside it says of which remote file; `work/records/<key>.json`
says what arrived. `kill -9` at any instant leaves what the next try goes on with.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from parakeet.artifact import WORK_FOLDER, replace_file, sha256_of, sync_directory, sync_file
from parakeet.download.pages import fault_of_page
from parakeet.download.streams import READ_BYTES, Remote, Restart
from parakeet.download.transfer import Attempts, Broken, Patience, Unfit

Advance = Callable[[int], None]

LARGEST_PAGE_HEAD = 64 << 10


class SourceFolder:
    """Files of one source in one folder. `say` tells a person what went wrong and is being mended."""

    def __init__(self, folder: Path, patience: Patience, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._patience = patience
        self._say = say
        self._parts = folder / WORK_FOLDER / "parts"
        self._records = folder / WORK_FOLDER / "records"
        for needed in (self._parts, self._records):
            needed.mkdir(parents=True, exist_ok=True)

    def arrived(self, remote: Remote, wanted: int | None = None) -> dict[str, Any] | None:
        """The record of a file that an earlier try fetched, if it is still the same one there. What was
        damaged here, or is not what the recipe expects by now, is taken away."""
        path = self.folder / remote.name
        if not path.is_file():
            return None
        record = _read(self._record(remote))
        if record is None and remote.fetch is not None:  # the last try was killed between its fetch and its record
            record = {"of": _described(remote, wanted), "entry": self.adopt(remote, wanted)}
        if record is None or record["of"] != _described(remote, wanted):
            return None
        entry: dict[str, Any] = record["entry"]
        fault = _unexpected(remote, entry) if wanted is None else None
        if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            fault = "it was changed after it had arrived"
        if fault is None:
            return entry
        self._say(f"{remote.name}: {fault}; fetching it again")
        path.unlink()
        return None

    def take_over(self, remote: Remote, earlier: Path, entry: dict[str, Any]) -> bool:
        """Let a file of an earlier artefact, with its entry there, be this one; whether it is. `arrived` checks it."""
        if self._record(remote).exists():
            return False
        target = self.folder / remote.name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Without it nothing is ever written into what stands there: the two are one file.
        self._about(remote).unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(earlier, target)
        except OSError:  # not every file system has links
            with suppress(FileNotFoundError):
                shutil.copyfile(earlier, target)
        if not target.is_file():  # `parakeet clean` took it away
            return False
        self._remember(remote, None, {"bytes": entry["bytes"], "sha256": entry["sha256"]})
        return True

    def begun(self, remote: Remote) -> int:
        """Bytes of the file that wait in its part."""
        return _size(self._part(remote))

    def adopt(self, remote: Remote, wanted: int | None = None, source_bytes: int | None = None) -> dict[str, Any]:
        """Record the file that stands whole and checked under its name. `source_bytes` are those of the remote file
        that it holds, where they are not its own."""
        path = self.folder / remote.name
        known = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        return self._remember(remote, wanted, known | ({"source_bytes": source_bytes} if source_bytes else {}))

    def _remember(self, remote: Remote, wanted: int | None, known: dict[str, Any]) -> dict[str, Any]:
        entry = {"name": remote.name, **known, "origin": remote.origin}
        if remote.validator is not None:
            entry["etag"] = remote.validator
        record = {"of": _described(remote, wanted), "entry": entry}
        replace_file(self._record(remote), json.dumps(record))
        self._about(remote).unlink(missing_ok=True)
        return entry

    def fetch_whole(self, remote: Remote, advance: Advance) -> dict[str, Any]:
        """Transfer the whole file and check it. A part that turns out bad is fetched once more from the beginning."""
        assert remote.n_bytes is not None
        continued = self.begin(remote) > 0
        self.fill(remote, remote.n_bytes, advance)
        fault = self._fault(remote)
        if fault and continued:
            self._say(f"{remote.name}: {fault}. It was put together from several transfers; starting again")
            self._part(remote).unlink()
            self.fill(remote, remote.n_bytes, advance)
            fault = self._fault(remote)
        if fault:
            self._part(remote).unlink()
            raise Unfit(fault)
        return self.install(remote)

    def begin(self, remote: Remote) -> int:
        """Drop a part that is not of this very file; the bytes that there are to go on with."""
        part, about = self._part(remote), self._about(remote)
        target = self.folder / remote.name
        if target.is_file():  # killed before it was recorded, or it has changed since
            target.replace(part)
        described = {"n_bytes": remote.n_bytes, "validator": remote.validator}
        if _size(part) and (remote.validator is None or _read(about) != described):
            self._say(f"{remote.name} may be another file now than the one that was begun: starting again")
            part.unlink()
        elif _size(part) > (remote.n_bytes or 0):
            part.unlink()
        replace_file(about, json.dumps(described))
        part.touch()
        return _size(part)

    def fill(self, remote: Remote, wanted: int, advance: Advance) -> Path:
        """Transfer the file's first `wanted` bytes into its part, going on with what is there."""
        part = self._part(remote)
        part.touch()
        attempts = Attempts(self._patience, lambda text: self._say(f"{remote.name}: {text}"), _size(part))
        while (have := _size(part)) < wanted:
            try:
                self._append(remote, part, have, wanted, advance)
            except Restart as error:
                self._say(f"{remote.name}: {error}. Starting again from the beginning")
                part.write_bytes(b"")
                attempts.failed(Broken(str(error)))
            except Broken as error:
                attempts.failed(error, _size(part))
        return part

    def _append(self, remote: Remote, part: Path, start: int, wanted: int, advance: Advance) -> None:
        assert remote.read is not None
        position = start
        with part.open("ab") as file:
            for piece in remote.read(start, wanted):
                if position == 0 and (fault := fault_of_page(piece[:LARGEST_PAGE_HEAD])):
                    raise Unfit(fault)
                file.write(piece)
                position += len(piece)
                advance(len(piece))
        if position < wanted:
            raise Broken("it did not send all that it had announced")

    def install(self, remote: Remote, wanted: int | None = None, source_bytes: int | None = None) -> dict[str, Any]:
        """Give the part its place under the file's name, and record it as `adopt` does."""
        part, target = self._part(remote), self.folder / remote.name
        sync_file(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        sync_directory(target.parent)
        return self.adopt(remote, wanted, source_bytes)

    def tidy(self, names: Iterable[str]) -> None:
        """Take away files that do not belong to the source any more."""
        kept = {self.folder / name for name in names}
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder).parts[0] != WORK_FOLDER
            if inside and path not in kept and not path.is_dir():
                path.unlink()

    def _fault(self, remote: Remote) -> str | None:
        part = self._part(remote)
        if remote.git_blob is not None and (blob := _git_blob_of(part)) != remote.git_blob:
            return f"git calls its content {blob}, expected {remote.git_blob}"
        return _unexpected(remote, {"bytes": _size(part), "sha256": sha256_of(part)}) if remote.sha256 else None

    def _part(self, remote: Remote) -> Path:
        return self._parts / _key(remote)

    def _record(self, remote: Remote) -> Path:
        return self._records / f"{_key(remote)}.json"

    def _about(self, remote: Remote) -> Path:
        return self._parts / f"{_key(remote)}.json"


def _key(remote: Remote) -> str:
    return hashlib.sha256(remote.name.encode()).hexdigest()[:16]


def _described(remote: Remote, wanted: int | None) -> dict[str, Any]:
    """Where the file is fetched by its own means, nothing more is asked of an address that gave it once."""
    known = {} if remote.fetch else {"n_bytes": remote.n_bytes, "validator": remote.validator}
    return {**known, "origin": remote.origin, "wanted": wanted}


def _unexpected(remote: Remote, entry: dict[str, Any]) -> str | None:
    """What is wrong with a whole file, by what is known of it beforehand."""
    if remote.n_bytes not in (None, entry["bytes"]):
        return f"it has {entry['bytes']:,} bytes, expected {remote.n_bytes:,}"
    if remote.sha256 not in (None, entry["sha256"]):
        return f"its sha256 is {entry['sha256']}, expected {remote.sha256}"
    return None


def _git_blob_of(path: Path) -> str:
    digest = hashlib.sha1(f"blob {_size(path)}\0".encode())
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
