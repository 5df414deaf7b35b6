"""Server-sent events: an answer that grows, and whether somebody still reads it."""

import asyncio
import json
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parakeet.errors import ParakeetError
from parakeet.server.errors import ApiError, as_api_error, without_paths

T = TypeVar("T")

PING_SECONDS = 15.0
"""Of silence before a comment line is sent: proxies close a connection on which nothing happens."""


class EventStream(Response):
    """Sends JSON values as events, and `[DONE]` at the end.

    An exception of `events` becomes an `{"error": …}` event, since the status is sent already. If the client goes away,
    `events` is closed at once. `stop`, which is called at the end in any case, should end what computes them: the
    `finally` of a generator that never began does not run.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[Mapping[str, Any], None], stop: Callable[[], None] = lambda: None
    ) -> None:
        # Without buffering: nginx would collect the events.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.stop = events, stop
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await until_disconnected(receive, self._write(send))
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.stop()

    async def _write(self, send: Send) -> None:
        pinging = asyncio.ensure_future(self._ping(send))
        try:
            async for event in self.events:
                self._sent += 1
                await _send(send, as_event(event))
        except Exception as error:
            await _send(send, as_event(failure(error).body()))
        finally:
            pinging.cancel()
            await asyncio.wait({pinging})
            await self.events.aclose()
        await _send(send, b"data: [DONE]\n\n")

    async def _ping(self, send: Send) -> None:
        while True:
            before = self._sent
            await asyncio.sleep(PING_SECONDS)
            if self._sent == before:
                await _send(send, b": ping\n\n")


async def until_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled and ClientDisconnect raised, if the client goes away.

    The request's body must be read before.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait({working, gone})


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The same for a route."""
    return await until_disconnected(request.receive, work)


def failure(error: Exception) -> ApiError:
    """An error while a reply is computed: the request was right, so it is the server's. Prints what is not expected."""
    if isinstance(error, ParakeetError):
        return ApiError(500, without_paths(str(error)))
    if not isinstance(error, ApiError):
        traceback.print_exception(error)
    return as_api_error(error)


def as_event(value: Mapping[str, Any]) -> bytes:
    """One event. In ASCII, since some clients end a line at U+2028 or U+0085 too."""
    return b"data: " + json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n\n"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
