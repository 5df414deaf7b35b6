"""The original checkpoint: a file that the user put there, else downloaded from a mirror or from Google Drive."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import explain_os_error, replace_file, sync_directory, sync_file
from parakeet.download.http import drive_address, http_remote, is_address, name_of, part_key
from parakeet.download.transfer import (
    READ_BYTES,
    Checks,
    FetchError,
    PartialFile,
    PermanentError,
    Reading,
    Remote,
    RetryPolicy,
    Version,
    read_json,
    remove_empty_folders,
)
from parakeet.download.web_pages import fault_of_page
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, models_folder
from parakeet.locking import exclusive
from parakeet.progress import BYTES, Progress
from parakeet.recipe import OriginalCheckpoint
from parakeet.torch_archive import fault_of_archive, fault_of_head

RECORD_FILE = ".checked.json"
PARTS_FOLDER = ".download"
FOUND = "found in the folder of models"
RETRY_POLICY = RetryPolicy()
MAX_BYTES = 16 << 30
"""Ten times the original: a server that never stops sending is cut off here."""


@dataclass(frozen=True)
class CheckedFile:
    """A checkpoint file as it was when it passed all checks. `source` describes where it came from."""

    path: Path
    n_bytes: int
    mtime_ns: int
    sha256: str
    source: str


def obtain_original(
    root: Path,
    settings: OriginalCheckpoint,
    progress: Progress,
    policy: RetryPolicy = RETRY_POLICY,
    force: bool = False,
) -> CheckedFile:
    """The file `root/models/<file_name>`, whole and checked; fetched if it is not there.

    An existing file is checked and used, and never replaced: if it is bad, ParakeetError explains why and what to do.
    Otherwise `settings.mirrors` are tried in order, then Google Drive; if none can give the file,
    ParakeetError lists each with its reason. The next call continues an interrupted download. The file is not read
    again while its size and time stay the same, unless `force` asks for a check from beginning to end.
    """
    path = models_folder(root) / settings.file_name
    known = known_original(root, settings)
    if known is not None and not force:
        return known
    if _is_there(path):
        if force:
            _forget(root, path)
        return _check(root, path, settings, progress, known.source if known else FOUND)
    lock = root / ".locks" / "original_checkpoint.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock, f"{path.name} is being fetched", progress):
            known = known_original(root, settings)  # whoever held the lock may have fetched it
            if known is not None:
                return known
            source = None if _is_there(path) else _fetch(path, settings, progress, policy)
            return _remember(root, path, source) if source else _check(root, path, settings, progress, FOUND)
    except OSError as error:
        raise explain_os_error(error, f"fetching {path.name}") from None


def known_original(root: Path, settings: OriginalCheckpoint) -> CheckedFile | None:
    """The record of this file if its size and time are unchanged and it is what the recipe wants. It is not read."""
    path = models_folder(root) / settings.file_name
    try:
        known = CheckedFile(**{**_entries(path)[path.name], "path": path})
        status = path.stat()
    except (OSError, KeyError, TypeError):
        return None
    wanted = (settings.n_bytes or known.n_bytes, settings.sha256 or known.sha256)
    unchanged = (status.st_size, status.st_mtime_ns) == (known.n_bytes, known.mtime_ns)
    return known if unchanged and wanted == (known.n_bytes, known.sha256) else None


def fault_of_original(root: Path, settings: OriginalCheckpoint, progress: Progress) -> str | None:
    """What is wrong with the file `root/models/<file_name>`, or None.

    It is read from beginning to end, unless it passed the checks before and its size and time are the same.
    """
    if known_original(root, settings) is not None:
        return None
    try:
        return _checks(settings).fault_of(models_folder(root) / settings.file_name, progress, settings.file_name)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _checks(settings: OriginalCheckpoint) -> Checks:
    def fault_of_beginning(head: bytes) -> str | None:
        return fault_of_page(head) or fault_of_head(head)

    return Checks(
        settings.n_bytes,
        settings.sha256,
        max_bytes=MAX_BYTES,
        of_head=fault_of_beginning,
        of_file=fault_of_archive,
    )


def _is_there(path: Path) -> bool:
    """Whether there is a file; ParakeetError for anything else, which must not be overwritten."""
    if path.is_file():
        return True
    if path.is_symlink() or path.exists():
        what = "a broken link" if path.is_symlink() else "not a file"
        raise ParakeetError(f"{path} is {what}. Move it away and run the same command again.")
    return False


def _check(root: Path, path: Path, settings: OriginalCheckpoint, progress: Progress, source: str) -> CheckedFile:
    """Check a file from beginning to end."""
    try:
        fault = _checks(settings).fault_of(path, progress, path.name)
        if fault is None:
            return _remember(root, path, source)
    except OSError as error:
        raise explain_os_error(error, f"checking {path.name}") from None
    raise ParakeetError(
        f"{path} cannot be used: {fault}. It was not changed. If it is still being copied, wait. Otherwise move it "
        "away and run the same command again, which downloads it."
    )


def _fetch(path: Path, settings: OriginalCheckpoint, progress: Progress, policy: RetryPolicy) -> str:
    """Try each source in turn; the name of the one that gave the file."""
    places = [*settings.mirrors, *([drive_address(settings.drive_id)] if settings.drive_id else [])]
    failures: list[str] = []
    for number, place in enumerate(places, start=1):
        try:
            _fetch_from(place, path, _checks(settings), progress, policy)
            return name_of(place)
        except FetchError as error:
            failures.append(f"{name_of(place)}: {error}.")
            if number < len(places):
                progress.say(f"{failures[-1]} Trying {name_of(places[number])} instead.")
    tried = (
        "\n".join(f"  {failure}" for failure in failures) or "  The recipe names no source of it (original.mirrors)."
    )
    where = f"from https://drive.google.com/file/d/{settings.drive_id}/view " if settings.drive_id else ""
    raise ParakeetError(
        f"{path.name} could not be downloaded:\n{tried}\n"
        f"Run the same command again later, or get it with a browser {where}and save it as {path}"
    )


def _fetch_from(place: str, path: Path, checks: Checks, progress: Progress, policy: RetryPolicy) -> None:
    """Download or copy the file of one source. If this fails, what has arrived is kept for the next call.

    It is kept in `.download/<name>/`, under a name that depends on the source and on the expected size and hash.
    """
    remote = http_remote(place, path.name, checks, policy) if is_address(place) else _local_remote(place, path, checks)
    folder = path.parent / PARTS_FOLDER / path.name
    part = PartialFile(
        folder / f"{remote.key}.part", remote, policy, progress, lambda text: progress.say(f"{name_of(place)}: {text}.")
    )
    part.adopt_gdown_part(path)
    try:
        with progress.task(f"Fetching {path.name}", None, BYTES) as task:
            part.fetch(task)
        sync_file(part.path)
        if os.path.lexists(path):
            shutil.rmtree(folder)
            raise ParakeetError(f"{path} was put there while it was being downloaded. Run the same command again.")
        part.path.rename(path)
        sync_directory(path.parent)
        shutil.rmtree(folder)
    finally:
        if part.n_bytes == 0:
            part.delete()
        remove_empty_folders(folder, folder.parent)


def _local_remote(place: str, path: Path, checks: Checks) -> Remote:
    """A file on this machine as a source."""
    if "://" in place:
        raise PermanentError("it is neither an http(s) address nor a path")

    def read(start: int, stop: int | None, validator: str | None) -> Reading:
        try:
            source = Path(place).expanduser()
            if not source.is_file():
                raise PermanentError("it is not a file" if source.exists() else "there is no such file")
            status = source.stat()
        except (OSError, RuntimeError) as error:
            raise PermanentError(f"it cannot be read ({error})") from None
        return Reading(start, Version(status.st_size, str(status.st_mtime_ns)), _blocks(source, start))

    return Remote(path.name, place, read, checks=checks, key=part_key(place, checks))


def _blocks(source: Path, start: int) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            file.seek(start)
            while block := file.read(READ_BYTES):
                yield block
    except OSError as error:
        raise PermanentError(f"it cannot be read ({error.strerror})") from None


def _remember(root: Path, path: Path, source: str) -> CheckedFile:
    digest = HashCache(hashes_file(root)).sha256([path])[path]
    status = path.stat()
    checked = CheckedFile(path, status.st_size, status.st_mtime_ns, digest, source)
    _record(path, {**_entries(path), path.name: {**asdict(checked), "path": path.name}})
    return checked


def _forget(root: Path, path: Path) -> None:
    try:
        HashCache(hashes_file(root)).forget(path)
        entries = _entries(path)
        if entries.pop(path.name, None) is not None:
            _record(path, entries)
    except OSError as error:
        raise explain_os_error(error, f"checking {path.name}") from None


def _entries(path: Path) -> dict[str, Any]:
    """The records beside a file; empty if there are none or they cannot be read."""
    entries = read_json(path.parent / RECORD_FILE)
    return entries if isinstance(entries, dict) else {}


def _record(path: Path, entries: dict[str, Any]) -> None:
    replace_file(path.parent / RECORD_FILE, json.dumps(entries, indent=2))
