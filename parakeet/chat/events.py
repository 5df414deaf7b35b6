"""The events of a conversation, one a line in a session file, and the conversation that they lead to.

The chat, a loaded file and a replay all build the conversation with `Conversation.apply`, so memory and file always
agree. Roles are fields, never text that would have to be parsed. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parakeet.errors import ParakeetError

REPLY_EVENTS = ("reply", "complete", "retry", "edit", "continue")
"""Events that hold text of the model."""

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
}
"""The fields that an event of each kind must have. `complete` continues a text without the chat template; a retry, an
edit or a continuation does it as the exchange that it changes. `model`: another model replies from here on."""

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


@dataclass
class Conversation:
    """The exchanges, and the system message ("" for none)."""

    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply an event. Raises ParakeetError if it changes an exchange and there is none."""
        kind = event["event"]
        if kind in _CHANGES_AN_EXCHANGE and not self.exchanges:
            raise ParakeetError(f"the event {kind!r} changes an exchange, but there is none.")
        if kind == "system":
            self.system = encodable(event["content"])
        elif kind == "clear":
            self.exchanges.clear()
        elif kind == "undo":
            self.exchanges.pop()
        elif kind in ("reply", "complete"):
            self.exchanges.append(_exchange(event, raw=kind == "complete"))
        elif kind in ("retry", "edit"):
            self.exchanges[-1] = _exchange(event, self.exchanges[-1].raw)
        elif kind == "continue":
            self.exchanges[-1] = _continued(self.exchanges[-1], event)


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


def fold(events: Iterable[Mapping[str, Any]]) -> Conversation:
    """The conversation that the events lead to. Raises ParakeetError if one cannot be applied."""
    conversation = Conversation()
    for event in events:
        conversation.apply(event)
    return conversation


def check_event(value: Mapping[str, Any]) -> None:
    """Raise ParakeetError unless it is an event with all its fields."""
    kind = value.get("event")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ParakeetError(f"{str(kind)[:40]!r} is not an event of a session.")
    for name, needed in _FIELDS[kind].items():
        found = value.get(name)
        # type() and not isinstance(): true is an int in Python, but not a number in JSON.
        if type(found) is not needed or (isinstance(found, int) and found < 0):
            raise ParakeetError(f"the event {kind!r} needs {_WORDS[needed]} as {name!r}.")


def encodable(text: str) -> str:
    """Surrogate pairs joined, lone surrogates (undecodable bytes of a command line) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
