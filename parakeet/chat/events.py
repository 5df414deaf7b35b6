"""What can happen in a conversation, as the lines of a session file have it, and what it comes to.

What a conversation consists of is decided here alone, by `Conversation.apply`: the chat, a loaded file and a
replay all go through it, so that memory and file cannot tell two stories. Roles stand as fields, never as text
that would have to be parsed. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parakeet.errors import ParakeetError

SPEAKING = ("reply", "retry", "edit", "continue")
"""Events in which the model said something."""

_ON_AN_EXCHANGE = ("retry", "edit", "continue", "undo")
_SPOKEN = {"reply": str, "seed": int, "tokens": int, "finish_reason": str, "dropped": int, "settings": dict}
_FIELDS: dict[str, dict[str, type]] = {
    "system": {"content": str},
    "reply": {"message": str, **_SPOKEN},
    "retry": {"message": str, **_SPOKEN},
    "edit": {"message": str, **_SPOKEN},
    "continue": _SPOKEN,
    "undo": {},
    "clear": {},
    "model": {},
}
"""Fields that an event of each kind must have. `model`: from here on another one speaks."""

_WORDS: dict[type, str] = {str: "a text", int: "a whole number from 0", dict: "an object"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A message and its reply. `finish_reason` is the engine's, or "interrupted"; `tokens` the reply's length.

    `seed` is what the reply, or its latest continuation, was drawn with.
    """

    message: str
    reply: str
    finish_reason: str
    tokens: int
    seed: int


@dataclass
class Conversation:
    """What was said, and the system message above it ("" for none)."""

    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Let an event happen. Raises ParakeetError where it needs an exchange and there is none."""
        kind = event["event"]
        if kind in _ON_AN_EXCHANGE and not self.exchanges:
            raise ParakeetError(f"there is no exchange that the event {kind!r} could change.")
        if kind == "system":
            self.system = encodable(event["content"])
        elif kind == "clear":
            self.exchanges.clear()
        elif kind == "undo":
            self.exchanges.pop()
        elif kind == "reply":
            self.exchanges.append(_exchange(event))
        elif kind in ("retry", "edit"):
            self.exchanges[-1] = _exchange(event)
        elif kind == "continue":
            self.exchanges[-1] = _continued(self.exchanges[-1], event)


def _exchange(event: Mapping[str, Any]) -> Exchange:
    message, reply = encodable(event["message"]), encodable(event["reply"])
    return Exchange(message, reply, event["finish_reason"], event["tokens"], event["seed"])


def _continued(exchange: Exchange, event: Mapping[str, Any]) -> Exchange:
    return replace(
        exchange,
        reply=exchange.reply + encodable(event["reply"]),
        finish_reason=event["finish_reason"],
        tokens=exchange.tokens + event["tokens"],
        seed=event["seed"],
    )


def fold(events: Iterable[Mapping[str, Any]]) -> Conversation:
    """The conversation that the events lead to. Raises ParakeetError where one of them cannot happen."""
    conversation = Conversation()
    for event in events:
        conversation.apply(event)
    return conversation


def check_event(value: Mapping[str, Any]) -> None:
    """Raise ParakeetError unless it is an event with all its fields."""
    kind = value.get("event")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ParakeetError(f"{str(kind)[:40]!r} is no event of a session.")
    for name, needed in _FIELDS[kind].items():
        found = value.get(name)
        # type() and not isinstance(): JSON's true is no number.
        if type(found) is not needed or (isinstance(found, int) and found < 0):
            raise ParakeetError(f"the event {kind!r} needs {_WORDS[needed]} as {name!r}.")


def encodable(text: str) -> str:
    """Surrogate pairs joined, lone surrogates (undecodable bytes of a command line) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
