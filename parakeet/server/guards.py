"""Who may ask, and how much: what every request passes before a route sees it."""

import asyncio
import hmac
import ipaddress
import json
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parakeet.server.errors import ApiError
from parakeet.server.limits import Limits
from parakeet.server.metrics import Metrics

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})
LARGE = {("POST", "/api/sessions/import")}
"""Requests whose body may have `Limits.import_bytes`."""
STATUS_PATHS = ("/health", "/metrics")
"""Answered however busy the server is."""
DISCARDED = 64
"""A body that is too large is read to its end, up to this many times the limit: a client that still sends reads no
answer."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
CLOSE = {"connection": "close"}
CLIENT_GONE = 499
"""nginx's status, for the metrics alone: nobody reads it."""
STOPS = ApiError(503, "The server is stopping.", code="server_stopping", headers=CLOSE)


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    key: bytes | None = None
    """What `Authorization: Bearer` must carry. None asks for no key."""
    names: frozenset[str] = LOOPBACK_NAMES
    """Names under which browsers may reach a server without a key, besides all addresses."""


class Traffic:
    """The requests that are running."""

    def __init__(self) -> None:
        self.running: dict[asyncio.Task[Any], asyncio.Event] = {}
        """Each with the event that it ends."""
        self.stopping = False

    async def finished(self) -> None:
        """Wait until the requests that are running now have ended."""
        for ended in list(self.running.values()):
            await ended.wait()

    def stop(self) -> None:
        """End all requests: each is told that the server stops."""
        self.stopping = True
        for task in self.running:
            task.cancel()


class Guard:
    """Refuses what must not reach a route, and answers what a route fails to answer."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        limits: Limits,
        traffic: Traffic,
        metrics: Metrics,
        public: Iterable[BaseRoute] = (),
    ) -> None:
        """`public` are routes that need neither a key nor a model."""
        self.app, self.access, self.limits, self.traffic, self.metrics = app, access, limits, traffic, metrics
        self.public = list(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        body = _Body(receive, self._body_limit(scope), headers)
        answer = _Answer(send)
        task = asyncio.current_task()
        assert task is not None
        ended = asyncio.Event()
        refusal = self._refusal(scope, headers) or await body.refusal()
        if refusal is None:
            self.traffic.running[task] = ended
        try:
            if refusal is not None:
                await answer.fail(refusal)
                return
            async with asyncio.timeout(self.limits.request_seconds) as deadline:
                await self.app(scope, body, answer)
        except ClientDisconnect:
            answer.status = CLIENT_GONE
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                seconds = self.limits.request_seconds
                await answer.fail(ApiError(503, f"The request took more than {seconds:g} s.", code="timeout"))
            elif isinstance(error, asyncio.CancelledError):
                if not self.traffic.stopping:
                    raise
                await answer.fail(STOPS)
            else:
                traceback.print_exception(error, file=sys.stderr)
                await answer.fail(ApiError(500, "The server failed. Its terminal says more."))
        finally:
            self.traffic.running.pop(task, None)
            ended.set()
            self.metrics.request(_route(scope), scope["method"], answer.status, time.perf_counter() - began)

    def _body_limit(self, scope: Scope) -> int:
        large = (scope["method"], scope["path"]) in LARGE
        return self.limits.import_bytes if large else self.limits.body_bytes

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if self.access.key is None and not self._is_own(host_name(host)):
            return ApiError(
                403,
                "This server has no API key, so it answers only under its own address, not under other names: use "
                "http://127.0.0.1 or the machine's IP address, or start it with --api-key-file.",
                code="host_not_allowed",
            )
        if _is_of_another_site(scope, headers, host):
            return ApiError(403, "Pages of other sites may not use this server.", code="origin_not_allowed")
        public = any(route.matches(scope)[0] is Match.FULL for route in self.public)
        if not (public or self._has_key(headers)):
            return ApiError(
                401,
                "Give the API key of this server as: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if scope["path"] in STATUS_PATHS:
            return None
        if self.traffic.stopping:
            return STOPS
        if scope["app"].state.served is None and not public:  # the page waits for the model itself
            return ApiError(
                503, "The model is still being loaded: try again.", code="loading", headers={"retry-after": "2"}
            )
        if len(self.traffic.running) >= self.limits.requests:
            return too_many(f"{self.limits.requests:,} requests are running")
        return None

    def _is_own(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
            return True  # no name, so no DNS that could lead a browser here
        except ValueError:
            return name in self.access.names

    def _has_key(self, headers: Headers) -> bool:
        if self.access.key is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.access.key)
        return same and scheme.lower() == "bearer"


def too_many(what: str) -> ApiError:
    """The answer to a request beyond a limit."""
    return ApiError(503, f"The server is busy: {what}.", code="server_overloaded", headers={"retry-after": "5"})


def host_name(header: str) -> str:
    """The name in a Host header, without its port: `[::1]:8000` is `::1`."""
    name, _, _ = header.removeprefix("[").partition("]") if header.startswith("[") else header.partition(":")
    return name.lower().removesuffix(".")


def _is_of_another_site(scope: Scope, headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower().partition("://")[2] != host.lower() or not host
    # Without Origin: a picture or a script of another page. A link to the page itself is none.
    fetched_by = headers.get("sec-fetch-site", "none")
    return fetched_by in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate"


def _route(scope: Scope) -> str | None:
    path = getattr(scope.get("route"), "path", None)
    return None if path is None else scope.get("root_path", "") + path


class _Body:
    """`receive`, up to a limit."""

    def __init__(self, receive: Receive, limit: int, headers: Headers) -> None:
        self._receive, self._limit = receive, limit
        declared = headers.get("content-length", "")
        self._declared = int(declared) if declared.isascii() and declared.isdigit() else 0
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._seen = 0

    async def refusal(self) -> ApiError | None:
        """What to answer if the body says itself that it is too large."""
        if self._declared <= self._limit:
            return None
        if not self._waits:
            await self._discard()
        return self._too_large()

    async def __call__(self) -> Message:
        message = await self._next()
        if self._seen > self._limit:
            if message.get("more_body"):
                await self._discard()
            raise self._too_large()
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        return message

    async def _discard(self) -> None:
        while self._seen <= DISCARDED * self._limit:
            if not (await self._next()).get("more_body"):
                return

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"The body has more than the {self._limit:,} bytes that are allowed.", code="too_large", headers=CLOSE
        )


class _Answer:
    """`send`, with headers for safety, and a way to fail at any time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = CLIENT_GONE
        self._begun = self._ended = self._streams_events = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            self._begun = True
            self.status = message["status"]
            self._streams_events = headers.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error. After the headers it is an event, or else the connection ends without an end."""
        if not self._begun:
            response = error.response()
            await self({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await self({"type": "http.response.body", "body": response.body})
        elif not self._ended and self._streams_events:
            event = f"data: {json.dumps(error.body())}\n\n".encode()
            await self({"type": "http.response.body", "body": event})
        # Otherwise uvicorn closes a connection whose answer has no end, and the client sees that something lacks.
