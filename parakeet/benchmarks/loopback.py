"""Requests over HTTP/1.1 to a server on this machine, and when each event of a streamed answer came.

Written for little CPU time: the client shares the cores with the server that it measures.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

HOST = "127.0.0.1"
DONE = b"[DONE]"


class Exchange:
    """One request and its answer, on a connection of its own. Use it in an `async with` statement.

    Leaving the statement closes the connection, also in the middle of the answer.
    """

    def __init__(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A body that is not bytes is sent as JSON."""
        self.port = port
        self.status = 0
        self.headers: dict[str, str] = {}
        """Of the answer, by their names in lower case."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Host": f"{HOST}:{port}", "Connection": "close", "Content-Length": str(len(content))}
        lines |= {} if body is None else {"Content-Type": "application/json"}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
        self._request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(HOST, self.port, limit=1 << 24)
        try:
            self._writer.write(self._request)
            await self._writer.drain()
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except BaseException:
            self._writer.close()
            raise
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        return self

    async def __aexit__(self, *_: object) -> None:
        # What was not read is thrown away, so that the server learns at once that nobody reads any more.
        self._writer.transport.abort()

    async def read(self) -> bytes:
        """The whole answer."""
        return b"".join([piece async for piece in self._pieces()])

    async def events(self) -> AsyncIterator[Any]:
        """The JSON of each event up to [DONE]. Raises EOFError if the answer ends without one."""
        held = b""
        async for piece in self._pieces():
            held += piece.replace(b"\r\n", b"\n")
            *whole, held = held.split(b"\n\n")
            for event in whole:
                data = b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
                if data == DONE:
                    return
                if data:
                    yield json.loads(data)
        raise EOFError("the stream ended before its [DONE]")

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
        elif "content-length" in self.headers:
            yield await self._reader.readexactly(int(self.headers["content-length"]))
        else:
            while piece := await self._reader.read(1 << 16):
                yield piece


@dataclass
class Streamed:
    """A reply as it came. Times are of `time.perf_counter`."""

    began: float = field(default_factory=time.perf_counter)
    """When the request was sent."""
    arrivals: list[float] = field(default_factory=list)
    """Of each event with text."""
    text: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def first_token_seconds(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one."""
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    def gaps(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds between each two events, if some of them are in this time."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs if later > since and earlier < until]

    def take(self, event: Mapping[str, Any]) -> None:
        """Note an event of OpenAI's chat completions, of its completions, or of llama.cpp's own `/completion`."""
        choice = (event.get("choices") or [{}])[0]
        text = choice.get("delta", {}).get("content") or choice.get("text") or event.get("content") or ""
        if text:
            self.arrivals.append(time.perf_counter())
            self.text += text
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self.usage = event.get("usage") or self.usage


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server answered {status}: {body[:500].decode(errors='replace')}")
        self.status, self.body = status, body


async def stream(port: int, path: str, body: Mapping[str, Any], reply: Streamed | None = None) -> Streamed:
    """Ask for a streamed reply and read it to its end. `reply` is filled while it grows.

    Raises Refused for an answer other than 200, EOFError if the stream breaks, and RuntimeError for an error in it.
    """
    reply = Streamed() if reply is None else reply
    reply.began = time.perf_counter()
    async with Exchange(port, "POST", path, body) as exchange:
        if exchange.status != 200:
            raise Refused(exchange.status, await exchange.read())
        async for event in exchange.events():
            if "error" in event:
                raise RuntimeError(f"the server reported in the stream: {str(event['error'])[:500]}")
            reply.take(event)
    return reply
