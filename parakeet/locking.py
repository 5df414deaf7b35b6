"""Locks that are released when the process that holds them ends, even by SIGKILL."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from parakeet.command_line import command_line

if TYPE_CHECKING:
    from parakeet.progress import Progress

SECONDS_BETWEEN_TRIES = 0.2
SECONDS_OF_A_LOOK = 1.0
"""Whoever asks `is_held` holds the lock for an instant."""


class WaitStopped(Exception):
    """The process was asked to stop while it waited for a lock."""


@contextmanager
def exclusive(path: Path, what: str, progress: "Progress", stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the lock file `path`. If another process holds it, print which one, and wait.

    `stop` is for a process whose signals only set a flag: it is called at every try, and WaitStopped is raised when it
    returns True. The operating system releases the lock when its holder dies, so `kill -9` leaves nothing locked. The
    file `.holder` beside it only names the holder.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not path.exists():
            path.touch()  # an OSError where no file can be made: filelock tries that again for ever
        progress.say(f"Waiting: {what} by {named_holder(path)}.")
        try:
            lock.acquire(poll_interval=SECONDS_BETWEEN_TRIES, cancel_check=stop)
        except Timeout:
            raise WaitStopped from None
    try:
        _write_holder(path)
        yield
    finally:
        lock.release()


_claimed: dict[Path, FileLock] = {}


def claim(path: Path) -> str | None:
    """Hold the lock file `path` until this process ends. None, or which other process holds it."""
    if path in _claimed:
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=SECONDS_OF_A_LOOK)
    except Timeout:
        return named_holder(path)
    _claimed[path] = lock
    _write_holder(path)
    return None


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file now."""
    if sys.platform == "win32":
        if not path.exists():
            return False
        try:
            with FileLock(path).acquire(timeout=0):
                return False
        except Timeout:
            return True
    import fcntl

    # What FileLock asks of the system, in 8 µs in place of 430: a home with studies has hundreds of lock files.
    try:
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _write_holder(path: Path) -> None:
    command = " ".join(command_line())[:200]
    text = f"process {os.getpid()} since {time.strftime('%H:%M:%S')} ({command})"
    # An argument may be the name of a file that is not UTF-8.
    path.with_suffix(".holder").write_text(text, encoding="utf-8", errors="backslashreplace")


def named_holder(path: Path) -> str:
    """Which process holds the lock file, as far as it has been noted yet."""
    try:
        return path.with_suffix(".holder").read_text(encoding="utf-8")
    except OSError:
        return "another process"
