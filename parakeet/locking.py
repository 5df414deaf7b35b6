"""Locks that end with the process that holds them, however it ends."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from parakeet.progress import Progress

SECONDS_BETWEEN_TRIES = 0.2


class WaitStopped(Exception):
    """Whoever waited for a lock was asked to stop before it had it."""


@contextmanager
def exclusive(path: Path, what: str, progress: Progress, stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the lock file `path`; whoever comes second says who holds it, and waits.

    `stop`, for a process whose signals only raise a flag, is asked at every try: WaitStopped once it says so.

    The operating system releases the lock when its holder dies, so `kill -9` leaves nothing stuck. The
    file beside it only names the holder.
    """
    holder = path.with_suffix(".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"Waiting: {what} by {_read(holder)}.")
        try:
            lock.acquire(poll_interval=SECONDS_BETWEEN_TRIES, cancel_check=stop)
        except Timeout:
            raise WaitStopped from None
    try:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        holder.write_text(f"process {os.getpid()} since {time.strftime('%H:%M:%S')} ({command})", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether any process holds the lock file at this moment."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8")
    except OSError:
        return "another process"
