"""Replies in a session while they grow: generated, recorded, then shown."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from parakeet.chat.events import Event, Node
from parakeet.chat.session import Pending
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingSettings
from parakeet.server.event_stream import EventStream
from parakeet.server.open_sessions import OpenSession
from parakeet.server.worker import Stream

_SHOWN_TIMING = ("prompt_tokens", "kept_tokens", "prefill_seconds", "decode_seconds", "first_token_seconds")


class Reply:
    """A reply on its way. It is recorded to its end, or to where it was stopped, whether or not anybody reads it."""

    def __init__(self, found: OpenSession, pending: Pending, stream: Stream, model: str, again: Event | None) -> None:
        """`again` is the event that is generated once more, None for a reply of its own."""
        self.found, self.pending, self.stream, self.model, self.again = found, pending, stream, model, again
        self._events: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self._generating = False
        self.stopped = False
        """Whether it is to end: what was shown of it is about to be recorded."""
        # Now: the exchange may be complete before the client reads its first event.
        self._begun = self._start()
        found.reply = self
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End it after the present step. What was shown stays as an interrupted reply."""
        self.stopped = True
        self.stream.cancel()
        if self._generating:
            self.task.cancel()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """What the page shows of it, from `start` to `end`. Raises what ended it in the middle."""
        yield {"type": "start", "exchange": self._begun}
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def _run(self) -> None:
        try:
            try:
                await self._generate()
            except Exception as error:
                await asyncio.to_thread(self._finish)
                self._events.put_nowait(error)
            else:
                self._events.put_nowait(await asyncio.to_thread(self._finish))
        finally:
            self.found.reply = None
            self._events.put_nowait(None)

    async def _generate(self) -> None:
        if self.stopped:
            return
        self._generating = True
        try:
            async for _, step in self.stream:
                self.pending.add(step)
                if step.text:
                    self._events.put_nowait({"type": "text", "text": step.text, "tokens": self.pending.tokens})
        except asyncio.CancelledError:
            pass  # stopped
        finally:
            self._generating = False
            self.stream.cancel()

    def _finish(self) -> dict[str, Any]:
        node = self.pending.finish(self.stream.timings[0])
        found = self.found
        if node is not None:
            found.model = self.model
        found.look()
        exchange = exchange_object(node) if node else dict(self._begun)
        if node is None and self.pending.event["event"] != "continue":
            exchange["id"] = None
        end: dict[str, Any] = {"type": "end", "exchange": exchange}
        end |= {"context": context_object(found), "notes": found.notes}
        if self.again is not None:
            end["same"] = _is_same(self.again, self.pending.text)
        return end

    def _start(self) -> dict[str, Any]:
        """The exchange before its first text."""
        event, conversation = self.pending.event, self.found.session.conversation
        kind = event["event"]
        before = conversation.path_to(self.pending.exchange)
        if kind == "continue":
            return exchange_object(conversation.nodes[before[-1]])
        parents = before[:-1] if kind in ("retry", "edit") else before
        raw = kind == "complete" or (kind != "reply" and conversation.nodes[before[-1]].exchange.raw)
        return {
            "id": len(conversation.nodes),
            "parent": parents[-1] if parents else None,
            "message": event["message"],
            "reply": "",
            "finish_reason": None,
            "tokens": 0,
            "seed": event["seed"],
            "raw": raw,
            "time": "",
            "settings": event["settings"],
            "dropped": event["dropped"],
            "timing": {},
        }


class ReplyStream(EventStream):
    """Shows a reply, and stops it when its reader goes away."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.events())
        self.reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Here as well as in the generator, which may not have begun.
            self.reply.stop()


def exchange_object(node: Node) -> dict[str, Any]:
    """An exchange as the page has it."""
    exchange, latest = node.exchange, node.events[-1]
    return {
        "id": node.id,
        "parent": node.parent,
        "message": exchange.message,
        "reply": exchange.reply,
        "finish_reason": exchange.finish_reason,
        "tokens": exchange.tokens,
        "seed": exchange.seed,
        "raw": exchange.raw,
        "time": str(latest.get("time", "")),
        "settings": _settings(latest),
        "dropped": latest["dropped"],
        "timing": _timing(latest),
    }


def context_object(found: OpenSession) -> dict[str, int]:
    session = found.session
    return {"used": len(session.prompt_ids()), "limit": session.engine.context, "dropped": session.dropped}


def _settings(event: Event) -> dict[str, Any]:
    """An imported file can hold anything there."""
    try:
        SamplingSettings(**event["settings"])
    except (TypeError, ParakeetError):
        return {}
    return dict(event["settings"])


def _timing(event: Event) -> dict[str, float]:
    given = event.get("timing")
    given = given if isinstance(given, Mapping) else {}
    timing: dict[str, float] = {name: value for name in _SHOWN_TIMING if _is_sane(value := given.get(name, -1))}
    if timing.get("decode_seconds") and _is_sane(event["tokens"]):
        rate = event["tokens"] / timing["decode_seconds"]
        timing |= {"decode_rate": round(rate, 3)} if _is_sane(rate) else {}
    return timing


def _is_sane(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1 << 53  # type: ignore[operator]


def _is_same(recorded: Event, text: str) -> bool:
    """Whether a reply came out as it did before. One that was interrupted is compared as far as it went."""
    if recorded["finish_reason"] == "interrupted":
        return text.startswith(recorded["reply"])
    return text == recorded["reply"]
