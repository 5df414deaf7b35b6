"""A conversation that is given as a list of messages, each with its role. Imports no torch."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from parakeet.chat.events import Exchange, encodable
from parakeet.errors import ParakeetError

ROLES = {"system": "System", "user": "Human", "human": "Human", "assistant": "Assistant"}
"""Also in capitals, as Parakeet itself writes them."""
SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class MessageList:
    system: str
    """"" for none."""
    exchanges: list[Exchange]
    last: Exchange
    """The message to reply to; its reply is "", or the beginning of one."""


def read_messages(messages: Iterable[Any]) -> MessageList:
    """Messages as mappings with "role" and "content", or as pairs of these: at most one system message, which comes
    first, then the user's and the assistant's in turn.

    Raises ParakeetError, which names the message, for any other order, role or form.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise ParakeetError(f"A prompt is a text or a list of messages, not {shown(messages)}.")
    given = list(messages)
    system, exchanges = "", list[Exchange]()
    expected = "Human"
    for place, message in enumerate(given):
        where = f"messages[{place}]"
        role, content = _parts(message, where)
        if role == "System":
            if place:
                raise ParakeetError(f"{where} is a system message, which can only be the first one.")
            system = content if content.strip() else ""
            continue
        if role != expected:
            raise ParakeetError(
                f"{where} is {_called(role)}, but {_called(expected)} belongs there: user and assistant take turns, "
                "and the user begins."
            )
        if not content.strip():
            raise ParakeetError(f"{where} is empty.")
        if role == "Human":
            exchanges.append(Exchange(content, "", "stop", 0, 0))
        else:
            exchanges[-1] = replace(exchanges[-1], reply=content)
        expected = "Human" if role == "Assistant" else "Assistant"
    if not exchanges:
        raise ParakeetError("There is no message of the user, so there is nothing to reply to.")
    return MessageList(system, exchanges[:-1], exchanges[-1])


def shown(value: object) -> str:
    """A value of the caller's in a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _parts(message: Any, where: str) -> tuple[str, str]:
    """One of the values of ROLES, and the content."""
    if isinstance(message, Mapping) and {"role", "content"} <= message.keys():
        role, content = message["role"], message["content"]
    elif isinstance(message, tuple | list) and len(message) == 2:
        role, content = message
    else:
        raise ParakeetError(
            f'{where} must be {{"role": …, "content": …}} or a pair of role and content, not {shown(message)}.'
        )
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        close = difflib.get_close_matches(str(role)[:SHOWN_CHARACTERS].lower(), ROLES, n=1)
        hint = f"did you mean {close[0]}? The" if close else "the"
        raise ParakeetError(f"{where} has the role {shown(role)}; {hint} roles are {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise ParakeetError(f"The content of {where} must be text, not {shown(content)}.")
    return known, encodable(content)


def _called(role: str) -> str:
    return "a message of the user" if role == "Human" else "one of the assistant"
