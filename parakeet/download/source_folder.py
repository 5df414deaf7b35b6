"""What all kinds of remote sources share: the list of a source's files, and the folder that they are downloaded to.

The folder holds whole files under their names. `work/parts/<key>` is an unfinished download, described by `<key>.json`
(see `PartialFile`), and `work/records/<key>.json` describes a file that has arrived. After `kill -9` at any instant the
next call continues.
"""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER, Artifact, replace_file, sha256_of, sync_directory, sync_file
from parakeet.download.transfer import PartialFile, Remote, RetryPolicy, read_json
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.recipe_sources import RecordSource

S = TypeVar("S", bound=RecordSource)


class SourceFiles(ABC, Generic[S]):
    """Lists the files of one remote source.

    A new kind of source is a subclass of this, and a class in parakeet/recipe_sources.py that names it as its `lister`.
    """

    duplicate_hint = "Leave one of them out"
    """What a user can do about two files of the same name."""

    def __init__(self, source: S, limit: float, folder: Path, policy: RetryPolicy, say: Callable[[str], None]) -> None:
        self.source = source
        self.limit = limit
        """The share of all bytes that will be fetched."""
        self.folder = folder
        self.policy = policy
        self.say = say
        self.pinned: dict[str, str] = {}
        """What the manifest records of the source besides its files; set by `files`."""

    @abstractmethod
    def files(self) -> list[Remote]:
        """The source's files in a fixed order. FetchError, within `naming`, if they cannot be listed."""


class SourceFolder:
    """The folder of one source. `say` reports to the user what went wrong and how it continues."""

    def __init__(self, folder: Path, policy: RetryPolicy, progress: Progress, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.policy = policy
        self.say = say
        self._progress = progress
        self._parts = folder / WORK_FOLDER / "parts"
        self._records = folder / WORK_FOLDER / "records"
        for needed in (self._parts, self._records):
            needed.mkdir(parents=True, exist_ok=True)

    def arrived(self, remote: Remote, budget: int | None = None) -> dict[str, Any] | None:
        """The manifest's entry for a file that an earlier call fetched; None if it has to be fetched.

        A file that was damaged since, or is no longer what the recipe expects, is deleted.
        """
        path = self.folder / remote.name
        record = read_json(self._record(remote))
        if not path.is_file() or record is None or record["of"] != _described(remote, budget):
            return None
        entry: dict[str, Any] = record["entry"]
        fault = None
        if budget is None:
            fault = remote.checks.fault_of_size(entry["bytes"]) or remote.checks.fault_of_hash(entry["sha256"])
        if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            fault = "it was changed after it had arrived"
        if fault is None:
            return entry
        self.say(f"{remote.name}: {fault}; fetching it again")
        path.unlink()
        return None

    def part(self, remote: Remote) -> PartialFile:
        """The unfinished download, with what earlier calls left of it."""
        part = PartialFile(
            self._parts / _key(remote),
            remote,
            self.policy,
            self._progress,
            lambda text: self.say(f"{remote.name}: {text}"),
        )
        target = self.folder / remote.name
        part.adopt_gdown_part(target)
        if target.is_file():  # killed before it was recorded, or changed since
            target.replace(part.path)
        return part

    def fetch(self, remote: Remote, task: Task) -> dict[str, Any]:
        """Download the whole file; its entry."""
        part = self.part(remote)
        part.fetch(task)
        return self.install(part, remote)

    def install(
        self, part: PartialFile, remote: Remote, budget: int | None = None, source_bytes: int | None = None
    ) -> dict[str, Any]:
        """Move the part to the file's place; its entry. `source_bytes` are the bytes of the remote file that it holds,
        where they are not its own."""
        target = self.folder / remote.name
        sync_file(part.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.path.replace(target)
        sync_directory(target.parent)
        known = {"bytes": target.stat().st_size, "sha256": sha256_of(target)}
        entry = self._remember(remote, budget, known | ({"source_bytes": source_bytes} if source_bytes else {}))
        part.delete()
        return entry

    def take_over(self, remotes: Iterable[Remote]) -> int:
        """Take over whole files from finished artefacts of the same stage; the number of files.

        An edited glob or limit then fetches only what is new. `arrived` checks their content.
        """
        entries = list(self._earlier_entries())
        taken = 0
        for remote in remotes:
            found = next(((path, entry) for path, entry in entries if _is_same(remote, entry) and path.is_file()), None)
            taken += found is not None and not self._record(remote).exists() and self._link(remote, *found)
        return taken

    def _earlier_entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for manifest in sorted(self.folder.parent.glob(f"[!.]*-*/{MANIFEST_FILE}")):
            with suppress(ParakeetError):
                artifact = Artifact.open(manifest.parent)
                yield from ((artifact.path / entry["name"], entry) for entry in artifact.counts.get("entries", []))

    def _link(self, remote: Remote, earlier: Path, entry: dict[str, Any]) -> bool:
        target = self.folder / remote.name
        target.parent.mkdir(parents=True, exist_ok=True)
        # The two will be one file. Without its description, a part is never written to, so neither is the other file.
        (self._parts / f"{_key(remote)}.json").unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(earlier, target)
        except OSError:  # not every file system has links
            with suppress(FileNotFoundError):
                shutil.copyfile(earlier, target)
        if not target.is_file():  # `parakeet clean` deleted it meanwhile
            return False
        self._remember(remote, None, {"bytes": entry["bytes"], "sha256": entry["sha256"]})
        return True

    def _remember(self, remote: Remote, budget: int | None, known: dict[str, Any]) -> dict[str, Any]:
        entry = {"name": remote.name, **known, "origin": remote.origin}
        if remote.validator is not None:
            entry["etag"] = remote.validator
        replace_file(self._record(remote), json.dumps({"of": _described(remote, budget), "entry": entry}))
        return entry

    def tidy(self, names: Iterable[str]) -> None:
        """Delete files that no longer belong to the source."""
        kept = {self.folder / name for name in names}
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder).parts[0] != WORK_FOLDER
            if inside and path not in kept and not path.is_dir():
                path.unlink()
        shutil.rmtree(self.folder / ".download", ignore_errors=True)  # of version 0.1.0

    def _record(self, remote: Remote) -> Path:
        return self._records / f"{_key(remote)}.json"


def _key(remote: Remote) -> str:
    return hashlib.sha256(remote.name.encode()).hexdigest()[:16]


def _described(remote: Remote, budget: int | None) -> dict[str, Any]:
    """The file that a record describes. A file that no server listed is not requested again once it has arrived."""
    return {**(remote.listed._asdict() if remote.listed else {}), "origin": remote.origin, "wanted": budget}


def _is_same(remote: Remote, entry: dict[str, Any]) -> bool:
    """Whether an entry is of the very file, whole: by its hash, or by its origin, size and validator."""
    if "source_bytes" in entry or remote.n_bytes not in (None, entry["bytes"]):
        return False
    if remote.checks.sha256 is not None:
        return remote.checks.sha256 == entry["sha256"]
    offered = (remote.origin, remote.n_bytes, remote.validator)
    return None not in offered and offered == (entry["origin"], entry["bytes"], entry.get("etag"))
