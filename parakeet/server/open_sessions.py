"""Conversations that are open in the server: in memory, each with the lock of its file.

A terminal chat cannot open such a session, and the server cannot open that of a terminal chat. After half a minute in
which nothing happens, a session is put down: only its file is left, and anybody can open it.
"""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from parakeet.artifact import write_synced
from parakeet.chat.events import REPLY_EVENTS, Event, encodable
from parakeet.chat.session import Session
from parakeet.chat.storage import (
    Loaded,
    SessionExists,
    SessionLog,
    SessionOpen,
    SessionRow,
    free_names,
    identity,
    load,
    now,
    place_session,
    remove_session,
    session_header,
    session_path,
    session_row,
    sessions_folder,
)
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingSettings
from parakeet.server.errors import ApiError, without_paths
from parakeet.server.served import Served
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine
    from parakeet.server.session_replies import Reply

IDLE_SECONDS = 30.0
"""Short: who goes from the page to the terminal should not wait for it. Opening again costs one reading of the file."""
MOST_OPEN = 64
"""Sessions that are open at once. Of more, the one that was idle longest is put down."""
PATIENCE_SECONDS = 2.0
"""For which a request waits for the reply before it to end: a page that stops one goes on at once."""


@dataclass(frozen=True)
class PromptLimits:
    """What a session needs of an engine. Not the engine: an idle session would keep it in memory after a promotion."""

    tokenizer: Tokenizer
    context: int
    longest_token: int


class OpenSession:
    """A conversation in memory."""

    def __init__(self, name: str, session: Session, header: dict[str, Any], model: str) -> None:
        self.name, self.session, self.header = name, session, header
        self.model = model
        """Of the latest reply."""
        self.notes: list[str] = []
        """What the user should know of its file. They name no folder."""
        self.reply: Reply | None = None
        """The one that is being generated."""
        self.used_at = time.monotonic()
        self.failed = False
        """Whether it could not be recorded, so that it is in memory alone."""

    def look(self) -> None:
        """Take notice of what the session says of its file."""
        self.failed = self.failed or (self.session.log is None and bool(self.session.notes))
        self.tell(self.session.notes)
        self.session.notes.clear()

    def tell(self, notes: Iterable[str]) -> None:
        self.notes += [each for note in notes if (each := without_paths(note)) not in self.notes]

    @property
    def is_on_disk(self) -> bool:
        """Whether its file has all that was said. There is none before the first reply."""
        log = self.session.log
        return log is not None and log.begun


class OpenSessions:
    """All that are open, by name. Its methods are for one event loop; files are read and written on threads."""

    def __init__(self, root: Path, idle_seconds: float = IDLE_SECONDS) -> None:
        self.root, self.idle_seconds = root, idle_seconds
        self._open: dict[str, OpenSession] = {}
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._known: tuple[weakref.ref[Served], PromptLimits, dict[str, Any]] | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def read(self, name: str, served: Served) -> OpenSession:
        """A session to look at: one that is open, or a copy of its file. Raises ApiError 404 if there is none."""
        found = self._open.get(name)
        if found and found.reply and found.reply.stopped:
            # A page that was loaded again in a reply: it should see what was shown.
            await asyncio.wait({found.reply.task}, timeout=PATIENCE_SECONDS)
        return found if found else await asyncio.to_thread(self._read, name, served)

    @asynccontextmanager
    async def use(self, name: str, served: Served) -> AsyncIterator[OpenSession]:
        """A session to change, which nobody else changes meanwhile.

        Raises ApiError: 404 if there is none, 409 while it replies. Raises SessionOpen if another process has it open.
        """
        async with self._turn(name):
            await self._undisturbed(name)
            self._make_room(name)
            found = await asyncio.to_thread(self._opened, name, served)
            try:
                yield found
            finally:
                found.used_at = time.monotonic()

    async def create(self, name: str | None, served: Served) -> OpenSession:
        """A new one, of which nothing is on disk before its first reply. Without a name it gets one by the time.

        Raises ParakeetError if the name is no session's name, SessionExists if it is taken.
        """
        names = [name] if name is not None else free_names(self.root)
        for candidate in names:
            async with self._turn(candidate):
                try:
                    if candidate in self._open:
                        raise SessionExists(session_path(self.root, candidate))
                    self._make_room(candidate)
                    return await asyncio.to_thread(self._created, candidate, served)
                except (SessionExists, SessionOpen):
                    if name is not None:
                        raise
        raise ApiError(409, "No name is free for a new session: give one.", code="session_exists")

    async def rename(self, found: OpenSession, name: str) -> None:
        """Give a session that is used another name. Raises as `create` does."""
        path = session_path(self.root, name)
        if name == found.name:
            return
        turn = self._turn(name)
        # Nobody waits for two turns: two sessions that swap their names would wait forever.
        if turn.locked() or name in self._open:
            raise SessionExists(path)
        async with turn:
            log = found.session.log
            if log is None:
                raise ApiError(409, "The session is not recorded any more: it cannot be renamed.", code="not_recorded")
            await asyncio.to_thread(log.rename, path)
            del self._open[found.name]
            found.name = name
            self._open[name] = found

    async def remove(self, name: str) -> None:
        """Delete a session with its file, readable or not. Raises as `use` does."""
        path = session_path(self.root, name)
        async with self._turn(name):
            await self._undisturbed(name)
            found = self._open.pop(name, None)
            if found is not None:
                found.session.close()
            if found is None or path.exists():
                await asyncio.to_thread(remove_session, self._existing(name))

    async def take_in(self, name: str | None, content: bytes, served: Served) -> OpenSession:
        """Keep the content of a session's file as a new session. If its name is taken, it gets a number.

        Raises ParakeetError if it is no session, or the name is not one.
        """
        return await asyncio.to_thread(self._take_in, name, content, served)

    async def content(self, name: str, served: Served) -> bytes:
        """The lines of a session's file, of what could not be recorded too. Raises ApiError 404 if nothing was said."""
        found = await self.read(name, served)
        if not found.session.events:
            raise ApiError(404, f"Nothing was said in the session {name!r} yet.", code="session_empty")
        if not found.failed:
            with suppress(FileNotFoundError):  # before the first reply
                return await asyncio.to_thread(session_path(self.root, name).read_bytes)
        return await asyncio.to_thread(found.session.content, found.header)

    def unrecorded(self, search: str) -> list[SessionRow]:
        """Those with a text that have no file, such as on a full disk: nothing else would lead to them."""
        found = []
        for one in self._open.values():
            if not (one.failed and one.session.events) or session_path(self.root, one.name).exists():
                continue
            said = (
                text for node in one.session.conversation.nodes for text in (node.exchange.message, node.exchange.reply)
            )
            if any(search.casefold() in text.casefold() for text in (one.name, *said)):
                loaded = Loaded(one.header, list(one.session.events), [], n_bytes=0, ended=True, mode=0)
                found.append(session_row(one.name, loaded))
        return found

    async def close(self) -> None:
        """Stop all replies, keep what was shown, and let other processes open the sessions."""
        if self._sweeping:
            self._sweeping.cancel()
        replies = [found.reply for found in self._open.values() if found.reply]
        for reply in replies:
            reply.stop()
        if replies:
            await asyncio.wait({reply.task for reply in replies})
        for found in self._open.values():
            found.session.close()
        self._open.clear()

    async def _undisturbed(self, name: str) -> None:
        """Wait a moment for the reply of a session to end. Raises ApiError 409 if it goes on."""
        found = self._open.get(name)
        if found and found.reply:
            await asyncio.wait({found.reply.task}, timeout=PATIENCE_SECONDS)
        if found and found.reply:
            raise ApiError(409, f"The session {name!r} is replying: stop that, or wait.", code="session_busy")

    def _make_room(self, name: str) -> None:
        """For a session that is about to be opened."""
        if name not in self._open and len(self._open) >= MOST_OPEN:
            self._put_down(len(self._open) - MOST_OPEN + 1)
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self.idle_seconds / 4, self._sweep)

    def _sweep(self) -> None:
        """Put down what is idle."""
        self._sweeping = None
        self._put_down(len(self._open) - MOST_OPEN)
        if self._open:
            self._sweep_later()

    def _put_down(self, too_many: int) -> None:
        """Let go of the files that are idle, and of as many others as there are too many."""
        # A copy: threads add to it.
        free = [one for one in list(self._open.values()) if not (one.reply or self._turn(one.name).locked())]
        # What no file holds comes last, and stays as long as there is room.
        free.sort(key=lambda one: (bool(one.session.events) and not one.is_on_disk, one.used_at))
        for number, found in enumerate(free):
            idle = time.monotonic() - found.used_at >= self.idle_seconds
            if not (idle or number < too_many):
                continue
            if found.is_on_disk or number < too_many:
                del self._open[found.name]
            found.session.close()

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    def _opened(self, name: str, served: Served) -> OpenSession:
        limits, header = self._about(served)
        if found := self._open.get(name):
            if identity(header) != identity(found.header):
                found.session.switch(cast("Engine", limits), found.header, header)
                found.header = header
            if found.session.log is None and not found.failed:
                found.session.log = SessionLog.create(session_path(self.root, name), header)
            return found
        path = self._existing(name)
        log = SessionLog.open(path, header)
        session = Session(cast("Engine", limits), _last_settings(log.events, served), log=log)
        return self._keep(OpenSession(name, session, header, _writer(log.header, log.events)))

    def _read(self, name: str, served: Served) -> OpenSession:
        limits, header = self._about(served)
        loaded = load(self._existing(name))
        session = Session(cast("Engine", limits), _last_settings(loaded.events, served), events=loaded.events)
        found = OpenSession(name, session, header, _writer(loaded.header, loaded.events))
        found.tell(loaded.notes)
        return found

    def _created(self, name: str, served: Served) -> OpenSession:
        limits, header = self._about(served)
        log = SessionLog.create(session_path(self.root, name), header)
        session = Session(cast("Engine", limits), served.release.generation, log=log)
        return self._keep(OpenSession(name, session, header, served.name))

    def _take_in(self, name: str | None, content: bytes, served: Served) -> OpenSession:
        folder = sessions_folder(self.root)
        names = free_names(self.root, name)
        arriving = folder / f".import-{time.time_ns()}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            arriving.touch(mode=0o600, exist_ok=False)
            write_synced(arriving, content)
            try:
                header = load(arriving).header
            except ParakeetError as error:
                raise ParakeetError(str(error).replace(str(arriving), "the file")) from None
            if not header:
                raise ParakeetError("The file holds no session.")
            for candidate in names:
                if candidate not in self._open and place_session(arriving, session_path(self.root, candidate)):
                    return self._read(candidate, served)
        except OSError as error:
            # Without the file: it is one of ours that is gone again.
            raise ApiError(
                507, f"The session cannot be saved: {error.strerror or error}.", code="not_recorded"
            ) from None
        finally:
            with suppress(OSError):
                arriving.unlink()
        raise ApiError(409, "No name is free for the session: give another one.", code="session_exists")

    def _existing(self, name: str) -> Path:
        path = session_path(self.root, name)
        if not path.exists():
            raise ApiError(404, f"There is no session {name!r}.", code="session_not_found")
        return path

    def _keep(self, found: OpenSession) -> OpenSession:
        found.look()
        self._open[found.name] = found
        return found

    def _about(self, served: Served) -> tuple[PromptLimits, dict[str, Any]]:
        """What a session needs of a model, and the header of a session with it. It takes a hash of the vocabulary."""
        if self._known is None or self._known[0]() is not served:
            engine = served.worker.engine
            limits = PromptLimits(engine.tokenizer, engine.context, engine.longest_token)
            header = session_header(engine, served.name, served.release.weights_sha256)
            self._known = weakref.ref(served), limits, header
        _, limits, header = self._known
        return limits, {**header, "created": now()}


def _last_settings(events: Iterable[Event], served: Served) -> SamplingSettings:
    """Those of the latest reply, if this version knows them; else the release's."""
    settings = [event["settings"] for event in events if event["event"] in REPLY_EVENTS]
    try:
        return SamplingSettings(**settings[-1]) if settings else served.release.generation
    except (TypeError, ParakeetError):
        return served.release.generation


def _writer(header: Mapping[str, Any], events: Iterable[Event]) -> str:
    """The model of the latest reply."""
    latest = [header, *(event for event in events if event["event"] == "model")][-1]
    return encodable(str(identity(latest)["model"] or ""))
