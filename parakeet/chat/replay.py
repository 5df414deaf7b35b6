"""Every reply of a session file once more, to see whether the same words come out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.events import SPEAKING, Conversation, Event, encodable
from parakeet.chat.session import exchange_ids, open_turn, system_ids
from parakeet.chat.storage import identity, load
from parakeet.errors import ParakeetError
from parakeet.generation.settings import SamplingSettings

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine

SNIPPET = 40
"""Characters of each text that are shown from where they part."""

_LABELS = {
    "model": "the model",
    "model_sha256": "the weights' sha256",
    "tokenizer_sha256": "the tokenizer's sha256",
    "dtype": "the dtype",
    "device": "the device",
    "threads": "the number of threads",
}


def replay(engine: "Engine", path: Path, header: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    """Generate every reply of a session again; whether all came out byte for byte as they are in the file.

    Each is drawn with its recorded settings and seed from the conversation as it was, also those that were
    retried or undone later; one that was interrupted is followed as far as it went. `header` says who speaks
    now: what differs from the file is told first, since it can explain a difference. `say` takes one line at a
    time, which holds text of the file and of the model: sanitise it before it is printed.

    Raises ParakeetError where the file is no session, or holds settings or prompts that the engine refuses.
    """
    loaded = load(path)
    for note in loaded.notes:
        say(note)
    _tell_changes(loaded.header, header, "the session was held", say)
    conversation, number, identical = Conversation(), 0, 0
    for event in loaded.events:
        if event["event"] == "model":
            _tell_changes(event, header, f"reply {number + 1} and what follows were given", say)
        elif event["event"] in SPEAKING:
            number += 1
            difference = _difference(engine, conversation, event, number)
            identical += difference is None
            say(f"Reply {number}: {difference or 'identical'}")
        conversation.apply(event)
    say(_summary(number, identical))
    return identical == number


def _tell_changes(
    recorded: Mapping[str, Any], present: Mapping[str, Any], what: str, say: Callable[[str], None]
) -> None:
    then, now = identity(recorded), identity(present)
    changes = [
        f"{_LABELS[name]} was {then[name]!r} and is {now[name]!r}" for name in _LABELS if then[name] != now[name]
    ]
    if changes:
        say(f"Not as when {what}: {'; '.join(changes)}. Replies may differ for that alone.")


def _summary(number: int, identical: int) -> str:
    if number == 0:
        return "The session holds no reply."
    if identical == number:
        return "The reply is identical." if number == 1 else f"All {number:,} replies are identical."
    return f"{number - identical:,} of {number:,} replies differ."


def _difference(engine: "Engine", conversation: Conversation, event: Event, number: int) -> str | None:
    try:
        text, finish_reason = _generate(engine, conversation, event)
    except ParakeetError as error:
        raise ParakeetError(f"Reply {number} cannot be repeated: {error}") from None
    recorded = encodable(event["reply"])
    if text != recorded:
        return _first_difference(recorded, text)
    if finish_reason != event["finish_reason"]:
        return f"the same text, but it ended with {event['finish_reason']!r} and ends now with {finish_reason!r}"
    return None


def _generate(engine: "Engine", conversation: Conversation, event: Event) -> tuple[str, str]:
    """What the engine says in the place of a recorded reply, and how it ends."""
    text, finish_reason = "", event["finish_reason"]
    interrupted, enough = finish_reason == "interrupted", len(event["reply"]) + SNIPPET
    for step in engine.generate(_prompt(engine, conversation, event), _settings(event)):
        text += step.text
        finish_reason = step.finish_reason or finish_reason
        # A reply that goes another way may never end.
        if len(text) > enough or (interrupted and engine.timing.reply_tokens >= event["tokens"]):
            break
    return text, finish_reason


def _prompt(engine: "Engine", conversation: Conversation, event: Event) -> list[int]:
    tokenizer, exchanges = engine.tokenizer, conversation.exchanges
    if event["event"] == "continue":
        turn = open_turn(tokenizer, exchanges[-1].message, exchanges[-1].reply)
    else:
        turn = open_turn(tokenizer, encodable(event["message"]))
    earlier = exchanges if event["event"] == "reply" else exchanges[:-1]
    # As many as were left out then: by which rule is no matter of the file.
    history = chain.from_iterable(exchange_ids(tokenizer, exchange) for exchange in earlier[event["dropped"] :])
    return [*system_ids(tokenizer, conversation.system), *history, *turn]


def _settings(event: Event) -> SamplingSettings:
    try:
        return replace(SamplingSettings(**event["settings"]), seed=event["seed"])
    except TypeError as error:
        raise ParakeetError(f"its settings are not those of this version of Parakeet ({error}).") from None


def _first_difference(recorded: str, text: str) -> str:
    """Where two texts part, as characters and bytes before that place, and how each goes on there."""
    pairs = enumerate(zip(recorded, text, strict=False))
    place = next((i for i, (old, new) in pairs if old != new), min(len(recorded), len(text)))
    then, now = (repr(t[place : place + SNIPPET]) if t[place:] else "its end" for t in (recorded, text))
    n_bytes = len(recorded[:place].encode())
    return f"differs after {place:,} characters ({n_bytes:,} bytes): there stood {then}, now comes {now}"
