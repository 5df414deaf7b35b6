"""HTTP/1.1 on a connection: uvicorn's, with deadlines and limits that it lacks, and its errors in OpenAI's form."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from parakeet.server.errors import ApiError
from parakeet.server.guards import CLOSE, HEADERS, too_many
from parakeet.server.limits import Limits

MALFORMED = ApiError(400, "This is no HTTP request that the server can read, or its headers are too long.")
ABANDONED = 4
"""Beyond this many times the limit, connections are closed at once: each answer needs a place in the kernel."""
LEAST_READ = 16 << 10
"""Bytes of an answer that a client must read in `send_seconds`, as long as there are so many."""


class Protocol(H11Protocol):
    """One connection.

    Deadlines run from the first byte of a request to the end of its headers and to that of its body. A connection that
    is silent from its beginning, or after a request, is closed.
    """

    def __init__(
        self,
        limits: Limits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = limits
        self._awaited = "request"
        """What the deadline is for: a `request`, the rest of its `headers`, of its `body`, or "" for nothing."""
        self._deadline: asyncio.TimerHandle | None = None
        self._began = 0.0
        """When the present request began to come."""
        self._unread: asyncio.TimerHandle | None = None
        """Runs while the client has something to read, and nothing is added to it."""
        self._most_unread = 0
        """Bytes of the answer that may be left when it ends."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.limits.connections
        if len(self.connections) > ABANDONED * most:
            transport.abort()
            return
        if len(self.connections) > most:
            self._close_an_idle_one()
            if len(self.connections) > most:
                refusal = too_many(f"{most:,} connections are open").response()
                refusal.headers.update(HEADERS | CLOSE)
                self.app = refusal
        self._await("request", self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        if self._awaited in ("", "request"):
            self._began = self.loop.time()
            self._await("headers", self.limits.header_seconds)
            if not self.transport.get_write_buffer_size():
                self._end_unread()  # the answer before
        super().data_received(data)
        self._await_next()

    def _await_next(self) -> None:
        """Set the deadline by what has come so far."""
        state = self.conn.their_state
        if self.transport.is_closing() or state not in (h11.IDLE, h11.SEND_BODY):
            self._await("", 0)
        elif state is h11.SEND_BODY and self._awaited != "body":
            self._await("body", self._began + self.limits.body_seconds - self.loop.time())
        elif state is h11.IDLE and not self.conn.trailing_data[0]:
            self._await("request", self.limits.keep_alive_seconds)
        elif state is h11.IDLE and self._awaited != "headers":
            self._await("headers", self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await("", 0)
        self._end_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._end_unread()
        super().resume_writing()
        self._await_reader_of_the_rest()

    def on_response_complete(self) -> None:
        if self._awaited == "":
            self._began = self.loop.time()  # of a next request that came during this one
        super().on_response_complete()
        self._await_next()
        self._await_reader_of_the_rest()

    def send_400_response(self, msg: str) -> None:
        self._fail(MALFORMED)

    def _await(self, what: str, seconds: float) -> None:
        """Set the deadline for what must come next."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited = what
        self._deadline = self.loop.call_later(max(0, seconds), self._too_slow) if what else None

    def _too_slow(self) -> None:
        if self._awaited == "request":
            self.transport.close()
        else:
            self._fail(ApiError(408, "The request did not come to its end in time.", code="request_timeout"))

    def _await_reader(self) -> None:
        self._end_unread()
        self._most_unread = max(0, self.transport.get_write_buffer_size() - LEAST_READ)
        self._unread = self.loop.call_later(self.limits.send_seconds, self._abort_if_unread)

    def _await_reader_of_the_rest(self) -> None:
        """After an answer: a transport that closes waits forever for a client that does not read."""
        complete = self.cycle is not None and self.cycle.response_complete
        if complete and self._unread is None and self.transport.get_write_buffer_size():
            self._await_reader()

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _abort_if_unread(self) -> None:
        self._unread = None
        left = self.transport.get_write_buffer_size()
        if left > self._most_unread:
            self.transport.abort()
        elif left:
            self._await_reader()

    def _fail(self, error: ApiError) -> None:
        """Answer with an error if nothing was answered yet, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body()).encode()
            headers = {**HEADERS, **CLOSE, "content-type": "application/json", "content-length": str(len(body))}
            response = h11.Response(status_code=error.status, headers=list(headers.items()), reason=b"")
            if self.conn.our_state is h11.SEND_RESPONSE and self.cycle.scope["method"] == "HEAD":
                body = b""
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._await_reader()

    def _close_an_idle_one(self) -> None:
        """Close a connection that is kept for a next request, so that a new one finds a place."""
        for other in self.connections:
            if not isinstance(other, Protocol) or other._awaited == "headers":
                continue
            if other.cycle is not None and other.cycle.response_complete:
                other.transport.abort()
                self.connections.discard(other)
                return
