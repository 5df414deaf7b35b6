"""The stages `source_files/<source>`: a recipe's remote source as files in a folder, whole and checked.

Fetched one by one; what has arrived is kept when something fails, and the next try goes on from there.
"""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER, replace_file
from parakeet.download.bucket import bucket_files
from parakeet.download.earlier import take_over
from parakeet.download.fetch import MB, Checks, SourceError, fetch, name_of, require_space
from parakeet.download.hub import hub_files, pin
from parakeet.download.slices import Portion, fetch_beginning, portions
from parakeet.download.source_folder import Advance, SourceFolder
from parakeet.download.streams import Remote, http_offer, http_reader
from parakeet.download.transfer import Broken, Patience, Unfit, drive_address, persistently
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.recipe_sources import BucketSource, DownloadSource, HubSource, RemoteFile, RemoteSource
from parakeet.sanitise import sanitise

PATIENCE = Patience(tries=10, longest_wait=300.0)
"""More than eight minutes without any progress, as nobody sits by; the hub counts requests by windows of five."""
PINNED_FILE = "pinned.json"

T = TypeVar("T")

_UNSAFE = re.compile(r"[^\w .+=,@()\[\]-]")


def fetch_source(
    source: RemoteSource, limit: float, output: Path, progress: Progress, patience: Patience = PATIENCE
) -> dict[str, Any]:
    """Fetch the share `limit` of a source's files into `output`; what to write into the manifest.

    What cannot be cut is fetched whole: "share" says how much of the bytes of all files came.
    Whole files that an earlier artefact beside `output` holds are taken over from there.

    `output` may hold what an earlier try of the same source left. Files of a dataset or a bucket keep their folders.
    Raises ParakeetError where the source cannot give its files, OSError for the disk's own faults.
    """
    try:
        return _Fetching(source, limit, output, progress, patience).fetch()
    except SourceError as error:
        message = f"Source {source.name}: {error} What had arrived is kept: the same command goes on from there."
        raise ParakeetError(sanitise(message)) from None


class _Fetching:
    """One source into one folder."""

    def __init__(
        self, source: RemoteSource, limit: float, output: Path, progress: Progress, patience: Patience
    ) -> None:
        self._source = source
        self._limit = limit
        self._output = output
        self._progress = progress
        self._patience = patience
        self._folder = SourceFolder(output, patience, self._say)

    def fetch(self) -> dict[str, Any]:
        remotes, pinned = _naming(_place(self._source), self._listed)
        remotes = _named_safely(remotes, self._source)
        chosen = portions(remotes, self._limit)
        whole = [portion.remote for portion in chosen if portion.budget is None]
        if taken := take_over(self._folder, whole):
            self._say(f"{taken:,} of {len(chosen):,} files are taken over from an earlier fetch")
        with self._task(chosen) as task:
            entries = [self._arrive(portion, _which(index, chosen), task) for index, portion in enumerate(chosen)]
        self._folder.tidy(entry["name"] for entry in entries)
        sliced = len(chosen) < len(remotes) or any(portion.budget is not None for portion in chosen)
        return {
            "files": len(entries),
            "bytes": sum(entry["bytes"] for entry in entries),
            "share": _share(remotes, chosen, entries),
            **({"sliced": True} if sliced else {}),
            **pinned,
            "entries": entries,
        }

    def _listed(self) -> tuple[list[Remote], dict[str, str]]:
        source = self._source
        if isinstance(source, HubSource):
            pinned = self._pinned(source)
            return self._persistently(lambda: hub_files(source, pinned, self._patience)), pinned
        if isinstance(source, BucketSource):
            return self._persistently(lambda: bucket_files(source, self._patience)), {}
        return [self._downloaded(file) for file in source.files], {}

    def _pinned(self, source: HubSource) -> dict[str, str]:
        """Looked up once: a branch may move between two tries, and the files would be of two commits."""
        path = self._output / WORK_FOLDER / PINNED_FILE
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        pinned = self._persistently(lambda: pin(source, self._patience))
        if pinned["dataset"] != source.dataset:
            self._say(f"{source.dataset} is called {pinned['dataset']} now: correct the recipe")
        replace_file(path, json.dumps(pinned))
        return pinned

    def _downloaded(self, file: RemoteFile) -> Remote:
        address = file.url or drive_address(str(file.drive_id))
        name = file.file_name or unquote(urlsplit(address).path).rpartition("/")[2]
        checks = Checks(n_bytes=file.n_bytes, sha256=file.sha256)
        remote = Remote(
            name=name,
            origin=name_of(address) if file.url else f"Google Drive {file.drive_id}",
            n_bytes=file.n_bytes,
            sha256=file.sha256,
            fetch=lambda path, progress: fetch(address, path, checks, progress, self._patience),
        )
        if self._limit >= 1.0 or file.drive_id:
            return remote
        offer = _naming(address, lambda: self._persistently(lambda: http_offer(address, self._patience)))
        if not offer.ranges or offer.n_bytes is None or checks.fault_of_size(offer.n_bytes):
            return replace(remote, n_bytes=file.n_bytes or offer.n_bytes)
        read = http_reader(address, self._patience, validator=offer.validator)
        return replace(remote, n_bytes=offer.n_bytes, validator=offer.validator, read=read)

    def _task(self, chosen: list[Portion]) -> AbstractContextManager[Task | None]:
        """The whole source's progress. Of downloads the sizes are not known beforehand: each has its own."""
        if isinstance(self._source, DownloadSource):
            return nullcontext()
        total = sum(portion.n_bytes for portion in chosen)
        require_space(self._output, total - sum(p.stat().st_size for p in self._output.rglob("*") if p.is_file()))
        return self._progress.task(f"Fetching {self._source.name}", total / MB, "MB")

    def _arrive(self, portion: Portion, which: str, task: Task | None) -> dict[str, Any]:
        remote = portion.remote
        entry = self._folder.arrived(remote, portion.budget)
        if task is None:
            if entry is None and which:
                self._say(f"{which}, {remote.name}")
            return entry or _naming(remote.origin, lambda: self._transfer(portion, lambda n: None))
        task.skip((portion.n_bytes if entry else self._folder.begun(remote)) / MB)
        task.note = which
        return entry or _naming(remote.origin, lambda: self._transfer(portion, lambda n: task.advance(n / MB)))

    def _transfer(self, portion: Portion, advance: Advance) -> dict[str, Any]:
        remote, path = portion.remote, self._output / portion.remote.name
        if portion.budget is not None:
            return fetch_beginning(self._folder, remote, portion.budget, advance, self._patience, self._say)
        if remote.fetch is None:
            return self._folder.fetch_whole(remote, advance)
        path.unlink(missing_ok=True)
        remote.fetch(path, self._progress)
        return self._folder.adopt(remote)

    def _persistently(self, ask: Callable[[], T]) -> T:
        return persistently(ask, self._patience, self._say)

    def _say(self, text: str) -> None:
        self._progress.say(f"{self._source.name}: {text}.")


def _share(remotes: list[Remote], chosen: list[Portion], entries: list[dict[str, Any]]) -> float:
    """How much of all files' bytes was fetched. A file of unknown size that was not counts as long as the others."""
    sizes = [remote.n_bytes for remote in remotes]
    for index, (portion, entry) in enumerate(zip(chosen, entries, strict=True)):
        if portion.budget is None:
            sizes[index] = entry["bytes"]
    known = [size for size in sizes if size is not None]
    total = sum(known) * len(sizes) / max(1, len(known))
    taken = sum(entry.get("source_bytes", entry["bytes"]) for entry in entries)
    return min(1.0, taken / total) if total else 1.0


def _naming(place: str, ask: Callable[[], T]) -> T:
    """What `ask` returns; what it cannot get is a SourceError that names the place."""
    try:
        return ask()
    except (Unfit, Broken) as error:
        raise SourceError(place, str(error)) from None


def _which(index: int, chosen: list[Portion]) -> str:
    return f"file {index + 1} of {len(chosen)}" if len(chosen) > 1 else ""


def _place(source: RemoteSource) -> str:
    if isinstance(source, HubSource):
        return f"dataset {source.dataset}"
    return source.path if isinstance(source, BucketSource) else "its addresses"


def _named_safely(remotes: list[Remote], source: RemoteSource) -> list[Remote]:
    """The same files under names that lie inside the source's folder; ParakeetError where two have the same."""
    safe = [replace(remote, name=safe_name(remote.name)) for remote in remotes]
    seen: dict[str, str] = {}
    for remote in safe:
        # Some file systems take a.txt and A.txt for one file.
        name = remote.name.lower()
        problem = f"would have the same name as {seen[name]}" if name in seen else "" if name else "has no name"
        if problem:
            message = f"Source {source.name}: the file from {remote.origin} {problem}. "
            mend = (
                "Give it a file_name in the recipe" if isinstance(source, DownloadSource) else "Leave one of them out"
            )
            raise ParakeetError(sanitise(f"{message}{mend}."))
        seen[name] = remote.origin
    return safe


def safe_name(name: str) -> str:
    """A relative path made of a path that others wrote, without anything that could lead out of a folder.

    What a file system or a terminal could misunderstand becomes `_`; the artefact's own names get one in front.
    """
    steps = [_UNSAFE.sub("_", step) for step in name.replace("\\", "/").split("/") if step.strip(". ")]
    # Hidden files are left out where folders are read.
    steps = [f"_{step}" if step.startswith(".") else step for step in steps]
    if steps and (steps[0].lower() == WORK_FOLDER or [step.lower() for step in steps] == [MANIFEST_FILE]):
        steps[0] = f"_{steps[0]}"
    return "/".join(steps)
