"""Sessions on disk: one JSON object a line, a header and then the events in order. Imports no torch."""

import datetime
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from parakeet.artifact import sync_directory
from parakeet.chat.events import REPLY_EVENTS, Conversation, Event, Exchange, check_event, encodable, fold, settled
from parakeet.errors import ParakeetError, os_reason
from parakeet.names import find_name

if TYPE_CHECKING:
    from filelock import FileLock

    from parakeet.generation.engine import Engine

SCHEMA = 1
KIND = "parakeet session"
SUFFIX = ".jsonl"
MAX_LINE_BYTES = 64 << 20
"""A longer line is refused: a reply of that length would take days to generate."""

CONDITIONS = ("dtype", "device", "threads", "kernels", "cache_dtype")
IDENTITY = ("model", "model_sha256", "tokenizer_sha256", *CONDITIONS, "kernel_sums")
"""Fields of the header that identify what generates the replies, and under which conditions."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_BEGINNING = b'{"schema"'


class SessionOpen(ParakeetError):
    """Another process has the session open."""


class SessionExists(ParakeetError):
    """The name of a session is taken."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"The session {path} already exists: choose another name.")


def now() -> str:
    """The time in UTC to the second, as session files store it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def session_header(engine: "Engine", model: str, model_sha256: str) -> dict[str, Any]:
    """The header of a session: `model` is the release's name, `model_sha256` the hash of its weights."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "model": model,
        "model_sha256": model_sha256,
        "tokenizer_sha256": engine.tokenizer.sha256,
        "dtype": engine.dtype,
        "device": engine.device,
        "threads": engine.threads,
        "kernels": engine.kernels,
        "kernel_sums": _kernel_sums(engine),
        "cache_dtype": engine.cache_dtype,
        "created": now(),
    }


def _kernel_sums(engine: "Engine") -> int | None:
    if not engine.kernels:
        return None
    if hasattr(engine, "kernel_sums"):  # of a server
        return engine.kernel_sums
    # Here, because it imports torch; who has an engine with kernels has that.
    from parakeet.generation.kernels import SUMS

    return SUMS


def sessions_folder(root: Path) -> Path:
    """The folder of the sessions under a root of artefacts. It need not exist."""
    return root / "sessions"


def session_path(root: Path, name: str) -> Path:
    """The file of the session `name`. Raises ParakeetError unless it is a plain name."""
    if not _NAME.fullmatch(name):
        raise ParakeetError(
            f"{name[:80]!r} is not a session name: use 1 to 64 letters, digits, dots, dashes and underscores, "
            "and no dot at the start."
        )
    return sessions_folder(root) / (name + SUFFIX)


def free_names(root: Path, name: str | None = None) -> Iterator[str]:
    """Names that no session has: `name`, or the time, if need be with a number. Raises ParakeetError for a bad name."""
    first = name or time.strftime("%Y-%m-%d-%H%M%S")
    session_path(root, first)
    for candidate in (first, *(f"{first[:60]}-{number}" for number in range(2, 100))):
        if not os.path.lexists(session_path(root, candidate)):
            yield candidate


@dataclass(frozen=True)
class Loaded:
    """A session file: header, events as `events.settled` gives them, and notes about its state for the user.

    `n_bytes` is the length of its whole lines; a line that was cut off may follow. `ended` is whether the last whole
    line ends with a newline, `mode` the file's permissions.
    """

    header: dict[str, Any]
    events: list[Event]
    notes: list[str]
    n_bytes: int
    ended: bool
    mode: int

    @property
    def identity(self) -> dict[str, Any]:
        """What generated the last reply."""
        return identity([self.header, *(event for event in self.events if event["event"] == "model")][-1])

    def replies(self) -> list[tuple[Exchange, dict[str, Any]]]:
        """The exchanges of the conversation, each with the identity of what wrote its reply, or the end of it."""
        conversation, writer = Conversation(), identity(self.header)
        writers: dict[int, dict[str, Any]] = {}
        for event in self.events:
            if event["event"] == "model":
                writer = identity(event)
            conversation.apply(event)
            if event["event"] in REPLY_EVENTS:
                assert conversation.at is not None
                writers[conversation.at] = writer
        return [(conversation.nodes[node].exchange, writers[node]) for node in conversation.path]


def identity(header: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a header, or of an event `model`, that identify what generates the replies.

    Files of earlier versions name no `kernels`, as there were none, no `cache_dtype` and no `kernel_sums`.
    """
    earlier = {
        "kernels": False,
        "cache_dtype": "fp32" if header.get("dtype") == "fp32" else "bf16",
        "kernel_sums": 1 if header.get("kernels") is True else None,
    }
    return {name: header.get(name, earlier.get(name)) for name in IDENTITY}


def load(path: Path) -> Loaded:
    """Read a session file and leave it as it is.

    If the last line was cut off, for example by a power cut, it is ignored with a note. That line may be the header:
    the session is then empty. Raises ParakeetError with file and line if anything else is wrong.
    """
    try:
        if not path.is_file():
            raise ParakeetError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
        with path.open("rb") as file:
            return _load(path, file)
    except OSError as error:
        raise ParakeetError(f"The session {path} cannot be read: {error.strerror or error}.") from None


def _load(path: Path, file: BinaryIO) -> Loaded:
    header: dict[str, Any] = {}
    notes: list[str] = []
    number, n_bytes, ended = 0, 0, True

    def read() -> Iterator[Event]:
        nonlocal header, number, n_bytes, ended
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ParakeetError(f"it is over {MAX_LINE_BYTES >> 20} MiB long: not a session.")
            whole = line.endswith(b"\n")
            value = _parse(line)
            if value is None and not whole and (number > 1 or _BEGINNING.startswith(line[: len(_BEGINNING)])):
                notes.append(f"The last line of {path} was cut off and is ignored.")
                return
            if number == 1:
                header = _checked_header(value)
            else:
                yield _checked_event(value)
            n_bytes, ended = n_bytes + len(line), whole

    events: list[Event] = []
    conversation = Conversation()
    try:
        for event in settled(read()):
            conversation.apply(event)
            events.append(event)
    except ParakeetError as error:
        raise ParakeetError(f"{path}, line {number}: {error}") from None
    if not header and not notes:
        notes.append(f"{path} is empty.")
    return Loaded(header, events, notes, n_bytes, ended, os.fstat(file.fileno()).st_mode & 0o777)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _checked_header(value: dict[str, Any] | None) -> dict[str, Any]:
    if value is None or value.get("kind") != KIND:
        raise ParakeetError("this is not a session of parakeet chat.")
    if value.get("schema") != SCHEMA:
        raise ParakeetError(
            f"the session has schema {str(value.get('schema'))[:20]}, but this version of Parakeet reads "
            f"schema {SCHEMA}: open it with the version that wrote it."
        )
    return value


def _checked_event(value: dict[str, Any] | None) -> Event:
    if value is None:
        raise ParakeetError(
            "the line is damaged: it is not a JSON object. Keep a copy of the file, then remove the line."
        )
    check_event(value)
    return value


class SessionLog:
    """A session file that is being written. What was appended is on the disk when `append` returns; what was added, in
    the file, which a killed process leaves whole but a power cut may not.

    The file (mode 0600, in a folder of mode 0700) is created with the first event, so that an empty conversation
    leaves none. A second process that opens the same session is refused.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Called by `create` and `open` only, which check the path."""
        self.path = path
        self.header: dict[str, Any] = {"schema": SCHEMA, "kind": KIND, "created": now(), **header}
        self.events: list[Event] = []
        """The events that the file held when it was opened."""
        self.notes: list[str] = []
        self.change: dict[str, Any] | None = None
        """The present identity, if the last reply in the file came from another."""
        self.begun = False
        self._exists = False
        self._durable = False
        self._before = _line(self.header)
        self._n_bytes = 0
        self._descriptor: int | None = None
        self._lock = _acquire(path)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "SessionLog":
        """Start a session. Raises ParakeetError if it exists, or another process is starting it."""
        if os.path.lexists(path):
            raise SessionExists(path)
        return cls(path, header)

    @classmethod
    def open(cls, path: Path, header: Mapping[str, Any]) -> "SessionLog":
        """Continue a session. `notes` are for the user, such as that another model replied before.

        Raises ParakeetError as `load` does, and if another process has the session open.
        """
        if not os.path.exists(path):
            load(path)  # raises, before a lock file is made
        log = cls(path, header)
        try:
            log._continue(load(path))
        except ParakeetError:
            log.close()
            raise
        return log

    def append(self, *events: Mapping[str, Any]) -> None:
        """Write events and wait until the disk has them. On an OSError they are not in the file."""
        self._write(events, synced=True)

    def add(self, *events: Mapping[str, Any]) -> None:
        """The same without the wait."""
        self._write(events, synced=False)

    def rename(self, path: Path) -> None:
        """Go on under another name, which readers see in place of the old one at once.

        Raises SessionOpen if another process is starting a session there, ParakeetError if there is one, or the file
        system refuses.
        """
        if os.path.lexists(path):
            raise SessionExists(path)
        lock = _acquire(path)
        try:
            # Nobody else makes a session there meanwhile: they would need the lock.
            if os.path.lexists(path):
                raise SessionExists(path)
            if self._exists:
                self.path.rename(path)
                sync_directory(path.parent)
        except OSError as error:
            _release(lock)
            raise ParakeetError(f"The session cannot be renamed: {os_reason(error)}.") from None
        except ParakeetError:
            _release(lock)
            raise
        _release(self._lock)
        self.path, self._lock = path, lock

    def close(self) -> None:
        """Let other processes open the session."""
        self._close_file()
        _release(self._lock)
        self._lock = None

    def _write(self, events: Iterable[Mapping[str, Any]], synced: bool) -> None:
        data = self._before + b"".join(map(_line, events))
        descriptor = self._opened()
        try:
            _write_all(descriptor, data)
            if synced:
                os.fsync(descriptor)
                if not self._durable:
                    sync_directory(self.path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, self._n_bytes)
                if not self._exists:
                    self.path.unlink()
            self._close_file()
            raise
        self._n_bytes += len(data)
        self._before, self.begun, self._exists = b"", True, True
        self._durable = self._durable or synced

    def _continue(self, loaded: Loaded) -> None:
        present = identity(self.header)
        self.notes = [*loaded.notes, *_tightened(self.path, loaded.mode)]
        self._exists, self._durable, self._n_bytes = True, True, loaded.n_bytes
        if not loaded.header:
            return
        self.header, self.events, self.begun = loaded.header, loaded.events, True
        self._before = b"" if loaded.ended else b"\n"
        if present != loaded.identity:
            self.change = present
        if present["model_sha256"] != loaded.identity["model_sha256"]:
            earlier = loaded.identity["model"]
            self.notes.append(f"The last reply came from another model, {earlier!r}. Now {present['model']!r} replies.")

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None and self._exists:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            os.ftruncate(self._descriptor, self._n_bytes)  # a line that was cut off
        elif self._descriptor is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        return self._descriptor


def content_of(header: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> bytes:
    """A session file."""
    return b"".join(map(_line, ({"schema": SCHEMA, "kind": KIND, **header}, *events)))


def _line(value: Mapping[str, Any]) -> bytes:
    # In ASCII: lone surrogates can be written, and no tool that prints the file can be made to steer a terminal.
    return json.dumps(value).encode("ascii") + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _acquire(path: Path) -> "FileLock | None":
    """The lock of a session. None if no lock file can be made, since the session cannot be written there either."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o600)
        lock.acquire(timeout=0)
    except Timeout:
        raise SessionOpen(
            f"The session {path} is open in another parakeet chat, or in parakeet serve: leave that chat first, or "
            "choose another name. The server lets go of it half a minute after the last reply."
        ) from None
    except OSError:
        return None
    return lock


def _release(lock: "FileLock | None") -> None:
    if lock is not None:
        # Removed while it is held: a process that locks the removed file retries, as filelock compares inodes.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def _tightened(path: Path, mode: int) -> list[str]:
    """Let only its owner read a session. Returns a note if others could."""
    if os.name != "posix" or not mode & 0o077:
        return []
    try:
        path.chmod(0o600)
    except OSError as error:
        return [f"{path} is readable by others (mode {mode:04o}), and this could not be changed: {error.strerror}."]
    return [f"{path} was readable by others (mode {mode:04o}); now only you can read it."]


@dataclass(frozen=True)
class SessionRow:
    """One line of `/sessions`. `when` is the time of the last event, `problem` why the file is unreadable, or ""."""

    name: str
    exchanges: int
    when: str
    model: str
    first_words: str
    problem: str = ""


def list_sessions(root: Path) -> list[SessionRow]:
    """The sessions under a root of artefacts, the latest first, unreadable ones last."""
    return latest_first(_row(path) for path in session_files(root))


def session_files(root: Path) -> list[Path]:
    """The files that have a session's name, by name."""
    paths = (path for path in sessions_folder(root).glob("*" + SUFFIX) if _NAME.fullmatch(path.stem))
    return sorted(paths, key=lambda path: path.stem)


def latest_first(rows: Iterable[SessionRow]) -> list[SessionRow]:
    return sorted(rows, key=lambda row: row.when, reverse=True)


def find_session(root: Path, name: str) -> Path:
    """The file of the session that is called `name`, or the only one that begins so. Raises ParakeetError if none is,
    or several are.
    """
    names = [path.stem for path in session_files(root)]
    if not names:
        raise ParakeetError("No conversation is recorded yet. Start one with: parakeet chat")
    return session_path(root, find_name(name, names, "session", "parakeet sessions"))


def place_session(source: Path, path: Path) -> bool:
    """Let a file become a session at once. False if another one has the name. OSError if it cannot be moved."""
    try:
        lock = _acquire(path)
    except SessionOpen:
        return False
    try:
        if os.path.lexists(path):
            return False
        source.rename(path)
        sync_directory(path.parent)
        return True
    finally:
        _release(lock)


def remove_session(path: Path) -> None:
    """Delete a session. Raises ParakeetError if a chat has it open, or the file cannot be deleted."""
    try:
        lock = _acquire(path)
    except SessionOpen:
        raise SessionOpen(f"The session {path.stem} is open in a chat: leave that chat first.") from None
    try:
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise ParakeetError(f"{path} cannot be removed: {error.strerror or error}.") from None
    finally:
        _release(lock)


def _row(path: Path) -> SessionRow:
    try:
        return session_row(path.stem, load(path))
    except ParakeetError as error:
        return SessionRow(path.stem, 0, "", "", "", str(error))


def session_row(name: str, loaded: Loaded) -> SessionRow:
    """The line of a session that could be read."""
    times = [loaded.header.get("created", ""), *(event["time"] for event in loaded.events if "time" in event)]
    exchanges = fold(loaded.events).exchanges
    # What was undone or cleared is no part of the conversation any more.
    first = exchanges[0].message if exchanges else ""
    return SessionRow(
        name=name,
        exchanges=len(exchanges),
        when=str(times[-1]),
        model=str(loaded.identity["model"] or ""),
        first_words=" ".join(encodable(first[:200]).split())[:60],
    )
