"""Generates every reply of a session file again and compares."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.events import REPLY_EVENTS, Conversation, Event, encodable
from parakeet.chat.prompt_builder import recorded_prompt
from parakeet.chat.storage import CONDITIONS, identity, load
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine

SNIPPET = 40
"""How many characters of each text are shown where they differ."""

Find = Callable[[Mapping[str, Any]], "tuple[Engine, Mapping[str, Any]] | None"]
"""Opens the model that a header or an event `model` identifies, as it ran then, and returns it with the header of a
session with it."""

_LABELS = {
    "model": "the model",
    "model_sha256": "the weights' sha256",
    "tokenizer_sha256": "the tokenizer's sha256",
    "dtype": "the dtype",
    "device": "the device",
    "threads": "the number of threads",
    "kernels": "the use of compiled kernels",
    "kernel_sums": "the order of the kernels' sums",
    "cache_dtype": "the dtype of the cache",
}


def replay(
    engine: "Engine",
    path: Path,
    header: Mapping[str, Any],
    report: Callable[[str], None],
    find: Find = lambda recorded: None,
) -> bool:
    """Generate every reply of a session again; returns whether all are byte for byte as in the file.

    Each uses its recorded settings and seed and the conversation at that time, including replies that were later
    retried or undone, and all other branches. An interrupted reply is compared as far as it went. `header` identifies
    the present model and machine; what differs from the file is reported first, as it may explain other differences.
    `report` receives one line at a time, with text of the file and the model: sanitise it before printing. Where
    another model replied, or the same in another dtype, `find` gives it with its header; if it gives None, the present
    one goes on.

    Raises ParakeetError if the file is not a session, or has settings or prompts that the engine refuses.
    """
    loaded = load(path)
    for note in loaded.notes:
        report(note)
    _report_changes(loaded.header, header, "The session was recorded", report)
    conversation, number, identical = Conversation(), 0, 0
    for event in loaded.events:
        if event["event"] == "model":
            engine, header = _switched(engine, header, event, find)
            _report_changes(event, header, f"Reply {number + 1} and those after it were recorded", report)
        elif event["event"] in REPLY_EVENTS:
            number += 1
            difference = _difference(engine, conversation, event, number)
            identical += difference is None
            report(f"Reply {number}: {difference or 'identical'}")
        conversation.apply(event)
    report(_summary(number, identical))
    return identical == number


def _switched(
    engine: "Engine", header: Mapping[str, Any], recorded: Mapping[str, Any], find: Find
) -> tuple["Engine", Mapping[str, Any]]:
    """The model that replied from here on, in its dtype, if it can be found, else the present one."""
    then, now = identity(recorded), identity(header)
    if all(then[name] == now[name] for name in ("model_sha256", *CONDITIONS)):
        return engine, header
    return find(recorded) or (engine, header)


def _report_changes(
    recorded: Mapping[str, Any], present: Mapping[str, Any], what: str, report: Callable[[str], None]
) -> None:
    then, now = identity(recorded), identity(present)
    changes = [f"{_LABELS[name]} was {then[name]!r}, now {now[name]!r}" for name in _LABELS if then[name] != now[name]]
    if changes:
        report(f"{what} under other conditions: {'; '.join(changes)}. This alone can change replies.")


def _summary(number: int, identical: int) -> str:
    if number == 0:
        return "The session has no replies."
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
        return f"the same text, but it ended with {event['finish_reason']!r} and now ends with {finish_reason!r}"
    return None


def _generate(engine: "Engine", conversation: Conversation, event: Event) -> tuple[str, str]:
    """The text that the engine generates in place of a recorded reply, and its finish reason."""
    text, finish_reason = "", event["finish_reason"]
    interrupted, enough = finish_reason == "interrupted", len(event["reply"]) + SNIPPET
    for step in engine.generate(_prompt(engine, conversation, event), _settings(event)):
        text += step.text
        finish_reason = step.finish_reason or finish_reason
        # A reply that differs may never end.
        if len(text) > enough or (interrupted and engine.timing.reply_tokens >= event["tokens"]):
            break
    return text, finish_reason


def _prompt(engine: "Engine", conversation: Conversation, event: Event) -> list[int]:
    exchanges, kind = conversation.exchanges, event["event"]
    going_on = kind == "continue"
    message = exchanges[-1].message if going_on else encodable(event["message"])
    reply = exchanges[-1].reply if going_on else ""
    raw = kind == "complete" or (kind != "reply" and exchanges[-1].raw)
    earlier = exchanges if kind == "reply" else exchanges[:-1]
    return recorded_prompt(engine.tokenizer, conversation.system, earlier, event["dropped"], message, reply, raw)


def _settings(event: Event) -> SamplingSettings:
    try:
        return replace(SamplingSettings(**event["settings"]), seed=event["seed"])
    except TypeError as error:
        raise ParakeetError(f"its settings do not fit this version of Parakeet ({error}).") from None


def _first_difference(recorded: str, text: str) -> str:
    """Where two texts first differ, in characters and bytes, and how each continues from there."""
    pairs = enumerate(zip(recorded, text, strict=False))
    place = next((i for i, (old, new) in pairs if old != new), min(len(recorded), len(text)))
    then, now = (repr(t[place : place + SNIPPET]) if t[place:] else "the end" for t in (recorded, text))
    n_bytes = len(recorded[:place].encode())
    return f"differs after {place:,} characters ({n_bytes:,} bytes): it was {then}, now it is {now}"
