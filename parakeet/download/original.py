"""The original checkpoint: the file that the user put there, else from a mirror, else from Google Drive."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import explain_os_error, replace_file
from parakeet.download.fetch import Checks, SourceError, fetch, name_of
from parakeet.download.pages import PAGE_BYTES, fault_of_page
from parakeet.download.transfer import PATIENCE, Patience, drive_address
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, models_folder
from parakeet.locking import exclusive
from parakeet.progress import Progress
from parakeet.recipe import OriginalCheckpoint
from parakeet.torch_archive import Advance, fault_of_archive, fault_of_head

RECORD_FILE = ".checked.json"
FOUND = "found in the folder of models"
MAX_BYTES = 16 << 30
"""Ten times the original: a server that never ends is stopped here."""


@dataclass(frozen=True)
class CheckedFile:
    """A checkpoint file that was found whole, as it was then. `source` says in words where it came from."""

    path: Path
    n_bytes: int
    mtime_ns: int
    sha256: str
    source: str


def obtain_original(
    root: Path,
    settings: OriginalCheckpoint,
    progress: Progress,
    patience: Patience = PATIENCE,
    force: bool = False,
) -> CheckedFile:
    """The file `root/models/<file_name>`, whole and checked; fetched if it is not there.

    A file that is there already is checked and used, and never replaced: if it is bad, ParakeetError says how and
    what to do. Then `settings.mirrors` are tried in order, then Google Drive; if none can give the file,
    ParakeetError lists each with its reason. An interrupted transfer goes on at the next call. Nothing is read again
    while the file's size and time stay as they were, unless `force` says to check it from beginning to end.
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
            source = None if _is_there(path) else _fetch(path, settings, progress, patience)
            return _remember(root, path, source) if source else _check(root, path, settings, progress, FOUND)
    except OSError as error:
        raise explain_os_error(error, f"fetching {path.name}") from None


def known_original(root: Path, settings: OriginalCheckpoint) -> CheckedFile | None:
    """What the record says of this very file, if it is as it was and as the recipe wants it. It is not read."""
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

    It is read from beginning to end, unless it was found whole before and its size and time are as they were.
    """
    if known_original(root, settings) is not None:
        return None
    try:
        return _checks(settings).fault_of(models_folder(root) / settings.file_name, progress)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _checks(settings: OriginalCheckpoint) -> Checks:
    return Checks(settings.n_bytes, settings.sha256, MAX_BYTES, _fault_of_beginning, _fault_of_file)


def _fault_of_beginning(head: bytes) -> str | None:
    return fault_of_page(head) or fault_of_head(head)


def _fault_of_file(path: Path, advance: Advance) -> str | None:
    with path.open("rb") as file:
        page = fault_of_page(file.read(PAGE_BYTES))
    return page or fault_of_archive(path, advance)


def _is_there(path: Path) -> bool:
    """Whether a file stands there; ParakeetError for anything else that does, which must not be written over."""
    if path.is_file():
        return True
    if path.is_symlink() or path.exists():
        what = "a link to nothing" if path.is_symlink() else "no file"
        raise ParakeetError(f"{path} is {what}: move it away, and run the same command again.")
    return False


def _check(root: Path, path: Path, settings: OriginalCheckpoint, progress: Progress, source: str) -> CheckedFile:
    """Look through a file from beginning to end."""
    try:
        fault = _checks(settings).fault_of(path, progress)
        if fault is None:
            return _remember(root, path, source)
    except OSError as error:
        raise explain_os_error(error, f"checking {path.name}") from None
    raise ParakeetError(
        f"{path} cannot be used: {fault}. It was left as it is. If it is still being copied, wait; else move it "
        "away, and run the same command again: it is then fetched anew."
    )


def _fetch(path: Path, settings: OriginalCheckpoint, progress: Progress, patience: Patience) -> str:
    """Try each source; the name of the one that gave the file."""
    places = [*settings.mirrors, *([drive_address(settings.drive_id)] if settings.drive_id else [])]
    failures: list[str] = []
    for number, place in enumerate(places, start=1):
        try:
            fetch(place, path, _checks(settings), progress, patience)
            return name_of(place)
        except SourceError as error:
            failures.append(str(error))
            if number < len(places):
                progress.say(f"{error} Trying {name_of(places[number])} instead.")
    tried = (
        "\n".join(f"  {failure}" for failure in failures) or "  The recipe names no source of it (original.mirrors)."
    )
    where = f"from https://drive.google.com/file/d/{settings.drive_id}/view " if settings.drive_id else ""
    raise ParakeetError(
        f"{path.name} could not be fetched:\n{tried}\n"
        f"Run the same command again later, or get it with a browser {where}and save it as {path}"
    )


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
    """The record beside a file; empty where there is none or it cannot be read."""
    try:
        entries = json.loads((path.parent / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _record(path: Path, entries: dict[str, Any]) -> None:
    replace_file(path.parent / RECORD_FILE, json.dumps(entries, indent=2))
