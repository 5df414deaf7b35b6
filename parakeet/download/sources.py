"""The stages `source_files/<source>`: downloads a recipe's remote source into a folder, file by file.

What has arrived is kept when something fails, and the next call continues from there.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER
from parakeet.download.slices import Portion, fetch_beginning, portions
from parakeet.download.source_folder import SourceFiles, SourceFolder
from parakeet.download.transfer import FetchError, Remote, RetryPolicy, naming, require_space
from parakeet.errors import ParakeetError
from parakeet.progress import BYTES, Progress, Task
from parakeet.recipe_sources import RemoteSource
from parakeet.sanitise import sanitise

RETRY_POLICY = RetryPolicy(attempts=10, max_wait=300.0)
"""It gives up after eight minutes without progress: large downloads run unattended, and the hub counts requests over
five minutes."""

_UNSAFE = re.compile(r"[^\w .+=,@()\[\]-]")


def fetch_source(
    source: RemoteSource, limit: float, output: Path, progress: Progress, policy: RetryPolicy = RETRY_POLICY
) -> dict[str, Any]:
    """Download the share `limit` of a source's files into `output`; the counts for the manifest.

    Files that cannot be cut are fetched whole: "share" is the share of all bytes that was really fetched. Whole files
    that an earlier artefact beside `output` holds are taken over from there. `output` may hold what an earlier call for
    the same source left. Files of a dataset or a bucket keep their folders.

    Raises ParakeetError if the source cannot give its files, OSError for faults of this machine's disk.
    """

    def say(text: str) -> None:
        progress.say(f"{source.name}: {text}.")

    folder = SourceFolder(output, policy, progress, say)
    module, _, name = source.lister.partition(":")
    lister: type[SourceFiles[Any]] = getattr(import_module(module), name)
    listing = lister(source, limit, output, policy, say)
    try:
        remotes = _named_safely(listing.files(), source.name, listing.duplicate_hint)
        chosen = portions(remotes, limit)
        if taken := folder.take_over(portion.remote for portion in chosen if portion.budget is None):
            say(f"{taken:,} of {len(chosen):,} files are taken over from an earlier download")
        entries = [
            _arrive(folder, portion, task) for portion, task in _with_tasks(chosen, source.name, output, progress)
        ]
    except FetchError as error:
        message = f"Source {source.name}: {error.place}: {error}. "
        message += "What has arrived is kept: run the same command again to continue."
        raise ParakeetError(sanitise(message)) from None
    folder.tidy(entry["name"] for entry in entries)
    sliced = len(chosen) < len(remotes) or any(portion.budget is not None for portion in chosen)
    return {
        "files": len(entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "share": _share(remotes, chosen, entries),
        **({"sliced": True} if sliced else {}),
        **listing.pinned,
        "entries": entries,
    }


def _with_tasks(chosen: list[Portion], name: str, output: Path, progress: Progress) -> Iterator[tuple[Portion, Task]]:
    """Each portion with the task that shows its progress: one for all if their sizes are known, else one for each."""
    sizes = [portion.n_bytes for portion in chosen]
    known = [size for size in sizes if size is not None]
    notes = [f"file {number} of {len(chosen)}" if len(chosen) > 1 else "" for number in range(1, len(chosen) + 1)]
    if len(known) == len(sizes):
        there = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        require_space(output, sum(known) - there)
        with progress.task(f"Fetching {name}", sum(known), BYTES) as task:
            for portion, note in zip(chosen, notes, strict=True):
                task.note = note
                yield portion, task
        return
    for portion, note in zip(chosen, notes, strict=True):
        with progress.task(f"Fetching {portion.remote.name}", None, BYTES) as task:
            task.note = note
            yield portion, task


def _arrive(folder: SourceFolder, portion: Portion, task: Task) -> dict[str, Any]:
    """The entry of a file that is there already, or is fetched."""
    remote = portion.remote
    if entry := folder.arrived(remote, portion.budget):
        task.skip(portion.n_bytes or entry["bytes"])
        return entry
    if task.total is None and task.note:  # the file has a task of its own
        folder.say(f"{task.note}, {remote.name}")
    with naming(remote.origin):
        if portion.budget is not None:
            return fetch_beginning(folder, remote, portion.budget, task)
        return folder.fetch(remote, task)


def _share(remotes: list[Remote], chosen: list[Portion], entries: list[dict[str, Any]]) -> float:
    """The share of the bytes of all files that was fetched. A file of unknown size counts as long as the others."""
    sizes = [remote.n_bytes for remote in remotes]
    for index, (portion, entry) in enumerate(zip(chosen, entries, strict=True)):
        if portion.budget is None:
            sizes[index] = entry["bytes"]
    known = [size for size in sizes if size is not None]
    total = sum(known) * len(sizes) / max(1, len(known))
    taken = sum(entry.get("source_bytes", entry["bytes"]) for entry in entries)
    return min(1.0, taken / total) if total else 1.0


def _named_safely(remotes: list[Remote], source: str, hint: str) -> list[Remote]:
    """The same files under names that lie inside the source's folder; ParakeetError if two have the same name."""
    safe = [replace(remote, name=safe_name(remote.name)) for remote in remotes]
    seen: dict[str, str] = {}
    for remote in safe:
        name = remote.name.lower()  # some file systems take a.txt and A.txt for one file
        problem = f"would have the same name as {seen[name]}" if name in seen else "" if name else "has no name"
        if problem:
            raise ParakeetError(sanitise(f"Source {source}: the file from {remote.origin} {problem}. {hint}."))
        seen[name] = remote.origin
    return safe


def safe_name(name: str) -> str:
    """A relative path made from somebody else's path, with nothing in it that could lead out of a folder.

    Characters that a file system or a terminal could misunderstand become `_`. The names of the artefact's own files
    get a `_` in front.
    """
    steps = [_UNSAFE.sub("_", step) for step in name.replace("\\", "/").split("/") if step.strip(". ")]
    # Hidden files are skipped where folders are read.
    steps = [f"_{step}" if step.startswith(".") else step for step in steps]
    if steps and (steps[0].lower() == WORK_FOLDER or [step.lower() for step in steps] == [MANIFEST_FILE]):
        steps[0] = f"_{steps[0]}"
    return "/".join(steps)
