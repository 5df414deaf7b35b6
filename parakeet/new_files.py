"""Files and folders at a place that a user names: they appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parakeet.artifact import PARTIAL_PREFIX, explain_os_error, sync_directory, sync_file
from parakeet.errors import ParakeetError
from parakeet.locking import exclusive
from parakeet.progress import Progress


@contextmanager
def new_folder(target: Path, action: str, progress: Progress) -> Iterator[Path]:
    """An empty folder, which becomes `target` at the end of a `with` block without an error.

    `action` says what is being done ("importing my.pth"), for messages. Raises ParakeetError if the target exists or
    cannot be written.
    """
    target = target.absolute()
    with _explained(action), _beside(target, progress) as partial:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                sync_file(path)
        sync_directory(partial)
        _rename(partial, target)


@contextmanager
def new_file(target: Path, action: str, progress: Progress) -> Iterator[Path]:
    """The same for one file: where to write it. It has its final name from the beginning, in a folder of its own."""
    target = target.absolute()
    with _explained(action), _beside(target, progress) as partial:
        yield partial / target.name
        sync_file(partial / target.name)
        _rename(partial / target.name, target)


def refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ParakeetError(f"{path} already exists: remove it, or choose another place.")


def _rename(made: Path, target: Path) -> None:
    refuse_existing(target)
    made.rename(target)
    sync_directory(target.parent)


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, action) from error


@contextmanager
def _beside(target: Path, progress: Progress) -> Iterator[Path]:
    """An empty folder to make `target` in, removed at the end.

    A second process with the same target waits, then finds what the first made. Leftovers of a killed process are
    removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
    lock = target.with_name(f".{target.name}.lock")
    with exclusive(lock, f"{target} is being made", progress):
        try:
            refuse_existing(target)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            # While the lock is held: a process that waits for it notices that the file is gone, and makes a new one.
            for file in (lock.with_suffix(".holder"), lock):
                file.unlink(missing_ok=True)
