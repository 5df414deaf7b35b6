"""The one downloader: fetches a file in as many attempts as it takes, and checks it before it is used.

Where the bytes come from is the business of a `Read` function: `http`, `hub` and `bucket` each make one.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from parakeet.artifact import SPARE_BYTES, replace_file, sha256_of
from parakeet.download.web_pages import fault_of_page
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, one_line
from parakeet.progress import BYTES, Progress, Task

T = TypeVar("T")

READ_BYTES = 256 << 10
HEAD_BYTES = 64 << 10
"""A file is judged by this many bytes before anything is written: a server may send a web page instead."""
OVERLAP_BYTES = 64 << 10
"""If the server does not identify the version of a file, this many bytes are fetched again and compared."""
CHANGED = "the file changed while it was being downloaded"
ANOTHER = "the file has changed since the download began"


class FetchError(Exception):
    """A source could not give a file. `place` names the source in the message, once `naming` has set it."""

    place = ""


class PermanentError(FetchError):
    """Asking this source again would not help."""


class TransientError(FetchError):
    """The same request may succeed later. `wait` is the delay that the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RestartError(TransientError):
    """The bytes that have arrived cannot be continued: the download has to start again from the beginning."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Let a FetchError that is raised inside name the place, unless it names a more precise one already."""
    try:
        yield
    except FetchError as error:
        error.place = error.place or place
        raise


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a source, in seconds, and how often to ask it again."""

    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    """Longest wait for any byte."""
    stall_timeout: float = 180.0
    """Longest time for 512 KiB: a server that sends a byte now and then never meets the read timeout."""
    attempts: int = 4
    """Attempts in a row that bring nothing new."""
    backoff: float = 1.0
    """Shortest wait after the first failure; it doubles with each further one."""
    max_wait: float = 60.0
    """Longest wait between two attempts, even if the server asks for more."""


class Retries:
    """Waits after each failure, and gives up after too many in a row that brought nothing new.

    A connection that drops now and then is no reason to give up. `begun` is the number of bytes that an earlier call
    left.
    """

    def __init__(self, policy: RetryPolicy, say: Callable[[str], None], begun: int = 0) -> None:
        self._policy = policy
        self._say = say
        self._longest = begun
        self._failures = 0

    def failed(self, error: TransientError, position: int = 0) -> None:
        """Wait, or raise TransientError if it is hopeless. `position` is how far this attempt came, in bytes."""
        self._failures = 1 if position > self._longest else self._failures + 1
        self._longest = max(position, self._longest)
        if self._failures >= self._policy.attempts:
            raise TransientError(f"{error} (asked {self._failures} times)") from None
        # A server that always asks for one second would otherwise use up all attempts within ten.
        wait = max(error.wait or 0.0, self._policy.backoff * 2 ** (self._failures - 1))
        wait = min(wait, self._policy.max_wait)
        self._say(f"{error}. Trying again in {wait:.0f} s")
        time.sleep(wait)


def retrying(ask: Callable[[], T], policy: RetryPolicy, say: Callable[[str], None]) -> T:
    """What `ask` returns; it is called again after each TransientError."""
    retries = Retries(policy, say)
    while True:
        try:
            return ask()
        except TransientError as error:
            retries.failed(error)


class Version(NamedTuple):
    """What distinguishes two versions of a file: its size, and the source's own name for it, such as an ETag."""

    n_bytes: int | None = None
    validator: str | None = None


@dataclass(frozen=True)
class Reading:
    """A source's answer to one request: the file's bytes from `start` on.

    `ranges` says whether reading can start in the middle.
    """

    start: int
    version: Version
    pieces: Iterator[bytes]
    ranges: bool = True
    close: Callable[[], None] = lambda: None


Read = Callable[[int, int | None, str | None], Reading]
"""`read(start, stop, validator)` asks for the bytes from `start` up to `stop` (None: all the others) of that version.

It raises PermanentError, TransientError, or RestartError if it cannot start there. A source that cannot start in the
middle may also answer with the whole file; `Reading.start` is then 0.
"""


@dataclass(frozen=True)
class Checks:
    """The checks of a whole file. The two functions return what is wrong, or None.

    `of_head` sees the first bytes (up to 64 KiB) before anything is written. `of_file` sees the whole file, and calls
    its second argument with the number of bytes it has read.
    """

    n_bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    """Git's hash of the content."""
    max_bytes: int = 1 << 40
    of_head: Callable[[bytes], str | None] = fault_of_page
    of_file: Callable[[Path, Callable[[int], None]], str | None] | None = None

    def fault_of(self, path: Path, progress: Progress, name: str) -> str | None:
        """What is wrong with a finished file, or None. The cheap checks come first."""
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            fault = self.fault_of_size(n_bytes) or self.of_head(file.read(HEAD_BYTES))
        if fault is None and self.of_file is not None:
            with progress.task(f"Checking {name}", n_bytes, BYTES) as task:
                fault = self.of_file(path, task.advance)
        if fault is None and self.git_blob is not None and (blob := _git_blob_of(path)) != self.git_blob:
            fault = f"its git hash is {blob}, expected {self.git_blob}"
        return fault or (self.fault_of_hash(sha256_of(path)) if self.sha256 else None)

    def fault_of_size(self, n_bytes: int) -> str | None:
        if self.n_bytes is not None and n_bytes != self.n_bytes:
            return f"it has {n_bytes:,} bytes, expected {self.n_bytes:,}"
        return f"it has more than {self.max_bytes:,} bytes" if n_bytes > self.max_bytes else None

    def fault_of_hash(self, sha256: str) -> str | None:
        wrong = self.sha256 is not None and sha256 != self.sha256
        return f"its sha256 is {sha256}, expected {self.sha256}" if wrong else None


@dataclass(frozen=True)
class Remote:
    """One file of a source.

    `name` is its path in the source's folder, `origin` names it in messages and manifests. `n_bytes` and `validator`
    come from the source's list of files, if it has one. `key` identifies a file that no source listed: it differs for
    each address and each expected size or hash.
    """

    name: str
    origin: str
    read: Read
    n_bytes: int | None = None
    validator: str | None = None
    checks: Checks = Checks()
    ranges: bool = True
    key: str = ""

    @property
    def listed(self) -> Version | None:
        """The version in the source's list of files."""
        return Version(self.n_bytes, self.validator) if self.validator is not None else None

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Reading:
        """Start reading. PermanentError if the source no longer has the listed version."""
        reading = self.read(start, stop, self.validator or validator)
        if self.validator not in (None, reading.version.validator):
            reading.close()
            raise PermanentError(CHANGED)
        return reading


class PartialFile:
    """An unfinished download: its first bytes in `path`, and a JSON file beside it that identifies the file.

    `kill -9` at any instant leaves the two in a state that the next call continues from. The bytes are continued only
    if they are of the same file: by its size and validator, or where the source has no validator, if the last bytes
    that arrived come again.
    """

    def __init__(
        self, path: Path, remote: Remote, policy: RetryPolicy, progress: Progress, say: Callable[[str], None]
    ) -> None:
        self.path = path
        self._remote = remote
        self._policy = policy
        self._progress = progress
        self._say = say
        self._about = path.with_suffix(".json")
        self._resumed = False
        self._continued = False

    @property
    def n_bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def fetch(self, task: Task) -> None:
        """Download the whole file and check it.

        A download that was continued and fails the checks is repeated once from the beginning.
        """
        self.fill(None, task)
        fault = self._fault()
        if fault and self._continued:
            self._say(f"{fault}. It was put together from several transfers. Starting again from the beginning")
            self._drop(task)
            self.fill(None, task)
            fault = self._fault()
        if fault:
            self.delete()
            raise PermanentError(fault)

    def fill(self, stop: int | None, task: Task) -> None:
        """Download the file's first `stop` bytes (None: all of it), continuing with those that are there."""
        self._resume(task)
        retries = Retries(self._policy, self._say, self.n_bytes)
        while True:
            try:
                self._append(stop, task)
                break
            except RestartError as error:
                self._drop(task)
                retries.failed(error)
            except TransientError as error:
                retries.failed(error, self.n_bytes)
        self.path.touch()

    def _resume(self, task: Task) -> None:
        """Look at what an earlier call left, once."""
        if self._resumed:
            return
        self._resumed = True
        if reason := self._unusable():
            self._say(f"{reason}. Starting again from the beginning")
            self.delete()
        elif self.n_bytes:
            self._continued = True
            self._say(f"continuing after {format_bytes(self.n_bytes)}")
            task.skip(self.n_bytes)

    def _append(self, stop: int | None, task: Task) -> None:
        """Send one request, and write what comes."""
        have, checks = self.n_bytes, self._remote.checks
        known = (self._version() if have else self._remote.listed) or Version()
        end = known.n_bytes if stop is None else stop
        if end is not None and have >= end:
            return
        start = have if known.validator is not None else max(0, have - OVERLAP_BYTES)
        if stop is None and self._remote.listed:
            stop = self._remote.n_bytes  # else None: the size is only what the server last reported
        with closing(self._remote.open(start, stop, known.validator)) as reading:
            n_bytes = reading.version.n_bytes
            if n_bytes is not None and (fault := checks.fault_of_size(n_bytes)):
                raise PermanentError(fault)
            if start and reading.start == start:
                first = self._continuation(reading, known, have - start)
                n_bytes = n_bytes or known.n_bytes
            else:
                first = self._beginning(reading, task)
                have = 0
            self._write(chain([first], reading.pieces), have, n_bytes if stop is None else stop, task)

    def _beginning(self, reading: Reading, task: Task) -> bytes:
        """Prepare to write the file from its beginning; the first bytes, which are checked here."""
        first = _gather(reading.pieces, HEAD_BYTES)
        # If this is, for example, a quota page, what arrived earlier is kept: the download may continue tomorrow.
        if fault := self._remote.checks.of_head(first):
            raise PermanentError(fault)
        if self.n_bytes:
            reason = "the server cannot continue a transfer" if self._version() == reading.version else ANOTHER
            self._say(f"{reason}. Starting again from the beginning")
            self._drop(task)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._about, json.dumps((self._remote.listed or reading.version)._asdict()))
        return first

    def _continuation(self, reading: Reading, known: Version, overlap: int) -> bytes:
        """The first bytes that are new; RestartError if the reading is of another file than the known one."""
        same = all(new is None or old is None or new == old for new, old in zip(reading.version, known, strict=True))
        first = _gather(reading.pieces, overlap)
        with self.path.open("rb") as file:
            file.seek(reading.start)
            if not same or file.read() != first[:overlap]:
                raise RestartError(f"{ANOTHER}. Starting again from the beginning")
        self._continued = True
        return first[overlap:]

    def _write(self, pieces: Iterator[bytes], position: int, end: int | None, task: Task) -> None:
        require_space(self.path.parent, (end or self._remote.checks.n_bytes or 0) - position)
        if task.total is None and end is not None:
            task.total = end
        with self.path.open("ab") as file:
            for piece in pieces:
                file.write(piece)
                position += len(piece)
                task.advance(len(piece))
                if position > self._remote.checks.max_bytes:
                    self.delete()
                    raise PermanentError(f"it sends more than {self._remote.checks.max_bytes:,} bytes")
        if end is not None and position < end:
            raise TransientError("it did not send all that it had announced")

    def _unusable(self) -> str | None:
        """Why the bytes that an earlier call left cannot be continued."""
        known = self._version()
        if not self.n_bytes:
            return None
        if known is None:
            return "the description of the earlier download is missing"
        if self._remote.listed not in (None, known):
            return ANOTHER
        too_long = known.n_bytes is not None and self.n_bytes > known.n_bytes
        return "the earlier download is longer than the file" if too_long else None

    def _version(self) -> Version | None:
        """The version of the file that the bytes are of."""
        about = read_json(self._about)
        known = isinstance(about, dict) and set(about) == set(Version._fields)
        return Version(**about) if known else None

    def _fault(self) -> str | None:
        return self._remote.checks.fault_of(self.path, self._progress, self._remote.name)

    def _drop(self, task: Task) -> None:
        task.advance(-self.n_bytes)
        self.delete()

    def adopt_gdown_part(self, destination: Path) -> None:
        """Take over what Parakeet 0.1.0 left of this download, in the folder that gdown had filled.

        It holds the part as `file` and eight letters and `.part`, or the whole file before its checks as `file`.
        """
        folder = destination.parent / ".download" / destination.name / self._remote.key
        if not self._remote.key or not folder.is_dir():
            return
        known = read_json(folder / "offer.json")
        parts = [*folder.glob("file????????.part"), *folder.glob("file")]
        if self.n_bytes == 0 and len(parts) == 1 and isinstance(known, dict):
            version = Version(known.get("total"), known.get("validator"))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._about, json.dumps(version._asdict()))
            parts[0].chmod(0o644)  # gdown makes files for their owner only
            parts[0].replace(self.path)
        elif parts and self.n_bytes == 0:
            self._say(
                "the download of an earlier version of Parakeet cannot be continued. Starting again from the beginning"
            )
        shutil.rmtree(folder)
        remove_empty_folders(folder.parent, folder.parent.parent)


def remove_empty_folders(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def require_space(folder: Path, n_bytes: int) -> None:
    """ParakeetError unless the folder has room for so many more bytes."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise ParakeetError(
            f"Too little disk space: {format_bytes(n_bytes + SPARE_BYTES)} are needed, and {folder} has "
            f"{format_bytes(free)} free. Free some, or set PARAKEET_HOME to a folder on a larger disk."
        )


def read_json(path: Path) -> Any:
    """The file's content; None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def plain(words: object) -> str:
    """Another program's words on one line."""
    return one_line(str(words))[:200]


def _gather(pieces: Iterator[bytes], n_bytes: int) -> bytes:
    """At least so many bytes, or all that come."""
    gathered = bytearray()
    while len(gathered) < n_bytes and (piece := next(pieces, b"")):
        gathered += piece
    return bytes(gathered)


def _git_blob_of(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
