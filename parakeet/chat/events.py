"""The events of a conversation, one a line in a session file, and the conversation that they lead to.

The chat, a loaded file and a replay all build the conversation with `Conversation.apply`, so memory and file always
agree. Roles are fields, never text that would have to be parsed. Imports no torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parakeet.errors import ParakeetError

REPLY_EVENTS = ("reply", "complete", "retry", "edit", "continue")
"""Events that hold text of the model."""

BEGUN, SHOWN = "begun", "shown"
"""Events that a server writes before it shows the pieces of a reply: `settled` has what they come to."""

_CHANGES_AN_EXCHANGE = ("retry", "edit", "continue", "undo")
_REPLY = {"reply": str, "seed": int, "tokens": int, "finish_reason": str, "dropped": int, "settings": dict}
_FIELDS: dict[str, dict[str, type]] = {
    "system": {"content": str},
    "reply": {"message": str, **_REPLY},
    "complete": {"message": str, **_REPLY},
    "retry": {"message": str, **_REPLY},
    "edit": {"message": str, **_REPLY},
    "continue": _REPLY,
    "undo": {},
    "clear": {},
    "model": {},
    "switch": {},
    BEGUN: {"kind": str, "seed": int, "dropped": int, "settings": dict},
    SHOWN: {"text": str, "tokens": int},
}
"""The fields that an event of each kind must have. `complete` continues a text without the chat template; a retry, an
edit or a continuation does it as the exchange that it changes. `model`: another model replies from here on. `switch`
makes the exchange `to` the present one, None for none."""

_WORDS: dict[type, str] = {str: "text", int: "a whole number from 0", dict: "an object"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A message and its reply. `finish_reason` is the engine's, or "interrupted"; `tokens` is the reply's length.

    `seed` is that of the reply, or of its latest continuation. If `raw`, the reply continues the message as a text of
    its own, without the chat template, and is no part of the conversation that later prompts hold.
    """

    message: str
    reply: str
    finish_reason: str
    tokens: int
    seed: int
    raw: bool = False


@dataclass(frozen=True)
class Node:
    """An exchange and its place among all that were ever made. `id` counts them, in the order of their events."""

    id: int
    parent: int | None
    """The exchange before it, None for the first of a conversation."""
    exchange: Exchange
    events: tuple[Event, ...]
    """The event that made it, then its continuations."""


@dataclass
class Conversation:
    """The exchanges of the present path, oldest first, and the system message ("" for none).

    Exchanges form a tree: a retry or an edit stands beside the exchange that it replaces in the path, and `undo` and
    `clear` only leave the path. `switch` goes to any of them.
    """

    system: str = ""
    nodes: list[Node] = field(default_factory=list)
    """All exchanges, by id."""
    at: int | None = None
    """The present exchange, with which the path ends. None before the first."""

    # The path is made when it is asked for: a file may have a hundred thousand events that go to and fro on a long one.

    @property
    def path(self) -> list[int]:
        """The ids of `exchanges`."""
        return self.path_to(self.at)

    @property
    def exchanges(self) -> list[Exchange]:
        """Those of the present path, oldest first."""
        return self.along(self.path)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply an event of those that `settled` gives.

        Raises ParakeetError if it changes an exchange and there is none, or goes to one that there is not.
        """
        kind = event["event"]
        if kind in _CHANGES_AN_EXCHANGE:
            if self.at is None:
                raise ParakeetError(f"the event {kind!r} changes an exchange, but there is none.")
            self._change(self.nodes[self.at], event)
        elif kind == "system":
            self.system = encodable(event["content"])
        elif kind == "clear":
            self.at = None
        elif kind == "switch":
            self._check(event["to"])
            self.at = event["to"]
        elif kind in ("reply", "complete"):
            self._add(_exchange(event, raw=kind == "complete"), event)

    def path_to(self, node: int | None) -> list[int]:
        """The ids from the first exchange to this one. Raises ParakeetError if there is no such exchange."""
        self._check(node)
        path: list[int] = []
        while node is not None:
            path.append(node)
            node = self.nodes[node].parent
        return path[::-1]

    def along(self, path: Iterable[int]) -> list[Exchange]:
        """The exchanges of a path."""
        return [self.nodes[node].exchange for node in path]

    def _check(self, node: int | None) -> None:
        if node is not None and not 0 <= node < len(self.nodes):
            raise ParakeetError(f"there is no exchange {node}.")

    def _change(self, present: Node, event: Mapping[str, Any]) -> None:
        if event["event"] == "continue":
            exchange = _continued(present.exchange, event)
            self.nodes[present.id] = replace(present, exchange=exchange, events=(*present.events, dict(event)))
            return
        self.at = present.parent
        if event["event"] != "undo":
            self._add(_exchange(event, present.exchange.raw), event)

    def _add(self, exchange: Exchange, event: Mapping[str, Any]) -> None:
        node = Node(len(self.nodes), self.at, exchange, (dict(event),))
        self.nodes.append(node)
        self.at = node.id


def _exchange(event: Mapping[str, Any], raw: bool) -> Exchange:
    message, reply = encodable(event["message"]), encodable(event["reply"])
    return Exchange(message, reply, event["finish_reason"], event["tokens"], event["seed"], raw)


def _continued(exchange: Exchange, event: Mapping[str, Any]) -> Exchange:
    return replace(
        exchange,
        reply=exchange.reply + encodable(event["reply"]),
        finish_reason=event["finish_reason"],
        tokens=exchange.tokens + event["tokens"],
        seed=event["seed"],
    )


def settled(events: Iterable[Event]) -> Iterator[Event]:
    """The events without `begun` and `shown`.

    A reply that came to its end has an event of its own, whose `begun` is true. One that did not, because the process
    was killed, becomes an interrupted reply of what was shown. Raises ParakeetError for a piece of no reply.
    """
    begun: Event | None = None
    pieces: list[Event] = []
    for event in events:
        if event["event"] == SHOWN:
            if begun is None:
                raise ParakeetError(f"the event {SHOWN!r} is a piece of a reply, but none has begun.")
            pieces.append(event)
            continue
        if begun is not None and not event.get("begun"):
            yield from _interrupted(begun, pieces)
        begun, pieces = (event, []) if event["event"] == BEGUN else (None, [])
        if begun is None:
            yield event
    if begun is not None:
        yield from _interrupted(begun, pieces)


def _interrupted(begun: Event, pieces: list[Event]) -> Iterator[Event]:
    text = "".join(piece["text"] for piece in pieces)
    if is_worth_keeping(begun["kind"], text):
        reply = {"event": begun["kind"], "reply": text, "tokens": pieces[-1]["tokens"], "finish_reason": "interrupted"}
        yield {**{name: value for name, value in begun.items() if name != "kind"}, **reply}


def is_worth_keeping(kind: str, reply: str) -> bool:
    """Whether a reply is kept. An empty one would teach the model to be silent."""
    # Not strip(), which would copy a long reply at each of its tokens.
    return bool(reply) and (kind == "continue" or not reply.isspace())


def fold(events: Iterable[Mapping[str, Any]]) -> Conversation:
    """The conversation that the events of a loaded session lead to. Raises ParakeetError if one cannot be applied."""
    conversation = Conversation()
    for event in events:
        conversation.apply(event)
    return conversation


def check_event(value: Mapping[str, Any]) -> None:
    """Raise ParakeetError unless it is an event with all its fields."""
    kind = value.get("event")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ParakeetError(f"{str(kind)[:40]!r} is not an event of a session.")
    needs = dict(_FIELDS[kind])
    if kind == BEGUN and value.get("kind") != "continue":
        needs["message"] = str
    if kind == "switch" and value.get("to", 0) is not None:
        needs["to"] = int
    for name, needed in needs.items():
        found = value.get(name)
        # type() and not isinstance(): true is an int in Python, but not a number in JSON.
        if type(found) is not needed or (isinstance(found, int) and found < 0):
            raise ParakeetError(f"the event {kind!r} needs {_WORDS[needed]} as {name!r}.")
    if kind == BEGUN and value["kind"] not in REPLY_EVENTS:
        raise ParakeetError(f"the event {kind!r} needs one of {', '.join(REPLY_EVENTS)} as 'kind'.")


def encodable(text: str) -> str:
    """Surrogate pairs joined, lone surrogates (undecodable bytes of a command line) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
