"""A conversation that stays within the model's context and is recorded on disk. Imports no torch."""

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.events import (
    BEGUN,
    REPLY_EVENTS,
    SHOWN,
    Conversation,
    Event,
    Exchange,
    Node,
    encodable,
    fold,
    is_worth_keeping,
)
from parakeet.chat.prompt_builder import PromptBuilder, raw_ids
from parakeet.chat.storage import SessionLog, content_of, identity, now
from parakeet.errors import ParakeetError, os_reason
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import END_OF_PROMPT, END_OF_TEXT, PADDING

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine, Step, Timing

SEED_BITS = 32
"""Size of a random seed: short enough for a person to type again."""

PRESENT = -1
"""In place of an exchange's id: the one with which the present path ends."""

_NOTHING_TO = {
    "retry": "There is no message to retry.",
    "edit": "There is no message to edit.",
    "continue": "There is no reply to continue.",
}

_TIMING = ("prompt_tokens", "kept_tokens", "prefill_seconds", "decode_seconds", "first_token_seconds")


class Pending:
    """A reply that is being generated: `prompt_ids` and `settings` are what to generate it from."""

    def __init__(
        self,
        session: "Session",
        event: Event,
        prompt_ids: list[int],
        settings: SamplingSettings,
        exchange: int | None = PRESENT,
        shared: bool = False,
    ) -> None:
        """Called by `Session.begin`. `event` has all that is known before the first step."""
        self.prompt_ids, self.settings = prompt_ids, settings
        self.event, self.exchange = event, exchange
        self.text = ""
        self.tokens = 0
        """Of the reply so far."""
        self._session, self._shared = session, shared
        self._begun = False
        self._unrecorded = ""
        self._finish_reason = "interrupted"
        controls = session.engine.tokenizer.controls
        self._ends = {controls[name] for name in (END_OF_PROMPT, END_OF_TEXT, PADDING)}

    def add(self, step: "Step") -> None:
        """Take a step of the reply. If pieces are recorded, it is in the file when this returns."""
        self.text += step.text
        self.tokens += step.token_id is not None and step.token_id not in self._ends
        self._finish_reason = step.finish_reason or self._finish_reason
        self._unrecorded += step.text
        if self._shared and self._unrecorded and is_worth_keeping(self.event["event"], self.text):
            self._session._show(*self._begin(), {"event": SHOWN, "text": self._unrecorded, "tokens": self.tokens})
            self._unrecorded = ""

    def finish(self, timing: "Timing") -> Node | None:
        """The reply has come to its end, or is interrupted here. None if there is nothing to keep."""
        if not is_worth_keeping(self.event["event"], self.text):
            return None
        reply = {"reply": self.text, "finish_reason": self._finish_reason, "tokens": self.tokens}
        took = {"timing": {name: round(getattr(timing, name), 6) for name in _TIMING}}
        self._session._record(*self._switch(), self.event | reply | took | ({"begun": True} if self._begun else {}))
        conversation = self._session.conversation
        return conversation.nodes[conversation.path[-1]]

    def _begin(self) -> list[Event]:
        """The events that come before the first piece."""
        if self._begun:
            return []
        self._begun = True
        for event in self._switch():
            self._session._record(event, written=False)
        return [self.event | {"event": BEGUN, "kind": self.event["event"], "time": now()}]

    def _switch(self) -> list[Event]:
        if self.exchange in (PRESENT, self._session.conversation.at):
            return []
        return [{"event": "switch", "to": self.exchange}]


class Session:
    """A conversation: messages, replies and the system message, as structure that is never parsed back from text.

    With a log, every change is on the disk before the next one. A log of an earlier conversation is continued.
    Exchanges that no longer fit the context are left out of the prompt, whole and oldest first; they stay recorded.
    """

    def __init__(
        self,
        engine: "Engine",
        settings: SamplingSettings,
        system: str = "",
        log: SessionLog | None = None,
        raw: bool = False,
        events: Sequence[Event] = (),
    ) -> None:
        """`events` are those of an earlier conversation that is not recorded on: one with a log continues the log's."""
        self.engine = engine
        self.raw = raw
        """Whether a message is a text to continue, without the chat template. Each stands alone then."""
        self.settings = settings
        """Of the next reply."""
        self.log = log
        """Where the conversation is recorded. None if it is not, or no longer."""
        self.notes: list[str] = list(log.notes) if log else []
        """Messages for the user, such as that the disk is full. Whoever prints them clears the list."""
        self.dropped = 0
        """Number of oldest exchanges that were left out of the latest prompt."""
        self.last_seed: int | None = None
        """Of the latest reply, which may still be running."""
        self._header = log.header if log else None
        self._events: list[Event] = list(log.events if log else events)
        self._written = len(self._events)
        self.conversation: Conversation = fold(self._events)
        """The present path and all other branches. Change it by the methods here only."""
        self._unanswered: str | None = None
        if log and log.change:
            self._events.append({"event": "model", **log.change, "time": now()})
        if system.strip():
            self.set_system(system)

    @property
    def system(self) -> str:
        """The system message, "" for none."""
        return self.conversation.system

    @property
    def exchanges(self) -> list[Exchange]:
        """Messages and replies, oldest first."""
        return self.conversation.exchanges

    @property
    def last_message(self) -> str:
        """What `retry` would ask again and `edit` replace. Raises ParakeetError if there is no message."""
        return self._last("There is no message yet.").message if self._unanswered is None else self._unanswered

    @property
    def last_time(self) -> str:
        """When the last event was recorded (ISO 8601), "" if there is none."""
        return str(self._events[-1].get("time", "")) if self._events else ""

    def begin(
        self,
        kind: str,
        message: str = "",
        exchange: int | None = PRESENT,
        seed: int | None = None,
        shared: bool = False,
    ) -> Pending:
        """Prepare a reply; nothing changes before its first text.

        "reply" answers a message that follows an exchange, or with None begins the conversation anew. "retry" answers
        the exchange's own message again, "edit" another one in its place; both stand beside the old exchange.
        "continue" goes on with its reply. `seed` is that of the settings, or a random one. If `shared`, each piece of
        the reply is in the file before `Pending.add` returns.

        Raises ParakeetError if the message is blank or does not fit the context even alone, there is no such exchange,
        or its reply fills the context.
        """
        path = self.conversation.path if exchange == PRESENT else self.conversation.path_to(exchange)
        exchanges = self.exchanges if exchange == PRESENT else self.conversation.along(path)
        if kind in ("reply", "edit"):
            message = _checked(message)
        if kind == "reply":
            kind, prompt = self._begin(message, exchanges)
        elif not exchanges:
            raise ParakeetError(_NOTHING_TO[kind])
        elif kind == "continue":
            prompt = self._continued(exchanges)
        else:
            message = message if kind == "edit" else exchanges[-1].message
            prompt = self._again(exchanges, message)
        seed = self._seed() if seed is None else seed
        # Not at the first step: whoever asks for it may do so before.
        self.last_seed = seed
        event: Event = {"event": kind} | ({} if kind == "continue" else {"message": message})
        event |= {"seed": seed, "dropped": self.dropped, "settings": asdict(self.settings)}
        return Pending(self, event, prompt, replace(self.settings, seed=seed), exchange, shared)

    @property
    def events(self) -> Sequence[Event]:
        """All that happened, recorded or not."""
        return self._events

    def content(self, header: Mapping[str, Any]) -> bytes:
        """What the file would hold. `header` is used if there is no file."""
        return content_of(self._header or header, self._events)

    def reply(self, message: str) -> Generator["Step", None, None]:
        """Start the reply to a message, or with `raw` its continuation; returns the steps.

        The message is checked now, not at the first step.

        Closing the iterator early keeps the text so far as an interrupted reply. An exchange with an empty reply is
        not kept: it would teach the model to be silent.

        Raises ParakeetError if the message is blank, or does not fit the context even alone.
        """
        pending = self.begin("reply", message)
        self._unanswered = _checked(message)
        return self._steps(pending)

    def retry(self) -> Generator["Step", None, None]:
        """Start another reply to the last message, with a new seed even if the settings fix one.

        The new reply replaces the old one unless it stays empty. If the last message got no reply, because it was
        stopped before the first word, it is asked again. Raises ParakeetError if there is no message.
        """
        seed = secrets.randbits(SEED_BITS)
        if self._unanswered is not None:
            return self._steps(self.begin("reply", self._unanswered, seed=seed))
        return self._steps(self.begin("retry", seed=seed))

    def edit(self, message: str) -> Generator["Step", None, None]:
        """Start the reply to a message that replaces the last one. Raises as `reply` does."""
        if self._unanswered is not None:
            return self.reply(message)
        return self._steps(self.begin("edit", message))

    def continue_reply(self) -> Generator["Step", None, None]:
        """Continue the last reply, however it ended. Raises ParakeetError if there is none, or it fills the context."""
        return self._steps(self.begin("continue"))

    def next_ids(self, text: str = "") -> list[int]:
        """Ids of the prompt whose next token would begin the reply to `text`, or without a text continue the last one.

        Raises ParakeetError if there is neither, or it does not fit the context.
        """
        dropped = self.dropped
        try:
            if text.strip():
                return self._begin(_checked(text), self.exchanges)[1]
            self._last("There is no reply yet. Give a message: /probs TEXT")
            return self._continued(self.exchanges)
        finally:
            self.dropped = dropped  # no reply comes of it

    def undo(self) -> Exchange:
        """Remove the last exchange and return it. Raises ParakeetError if there is none."""
        exchange = self._last("There is nothing to undo.")
        self._record({"event": "undo"})
        return exchange

    def go_to(self, exchange: int | None) -> None:
        """Make an exchange the present one, None for none. Raises ParakeetError if there is no such exchange."""
        self.conversation.path_to(exchange)
        if exchange != self.conversation.at:
            self._record({"event": "switch", "to": exchange})

    def clear(self) -> None:
        """Forget the conversation. The system message stays."""
        if self.exchanges:
            self._record({"event": "clear"})
        self._unanswered = None

    def set_system(self, text: str) -> None:
        """Set the system message; a blank text removes it. Raises ParakeetError if it is too long."""
        text = encodable(text) if text.strip() else ""
        self._prompts.check_system(text)
        if text != self.system:
            self._record({"event": "system", "content": text})

    def prompt_ids(self) -> list[int]:
        """The ids with which the next prompt will begin: the system message and the exchanges that fit."""
        return raw_ids(self.engine.tokenizer, "") if self.raw else self._prompts.history(self.system, self.exchanges)[0]

    def switch(self, engine: "Engine", before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Let another model reply from here on. `before` and `after` are the headers of the two."""
        self.engine = engine
        self._header = self._header or dict(before)
        if identity(before) != identity(after):
            self._events.append({"event": "model", **identity(after), "time": now()})

    def save(self, path: Path, header: Mapping[str, Any]) -> None:
        """Write the conversation so far to a new file and continue there. The old file stays as it is.

        `header` is used if there is no old file. Raises ParakeetError if the new file exists or cannot be written; the
        conversation is then recorded as before.
        """
        if not self._events:
            raise ParakeetError("There is nothing to save yet.")
        log = SessionLog.create(path, self._header or header)
        try:
            log.append(*self._events)
        except OSError as error:
            log.close()
            raise ParakeetError(f"The session cannot be saved in {path}: {os_reason(error)}.") from None
        self.close()
        self.log, self._header, self._written = log, log.header, len(self._events)

    def close(self) -> None:
        """Stop recording and let another process open the file."""
        if self.log:
            self.log.close()
            self.log = None

    def _steps(self, pending: Pending) -> Generator["Step", None, None]:
        failed = False
        try:
            for step in self.engine.generate(pending.prompt_ids, pending.settings):
                pending.add(step)
                yield step
        except Exception:
            failed = True  # an error in the middle leaves no reply
            raise
        finally:
            if not failed:
                pending.finish(self.engine.timing)

    def _seed(self) -> int:
        return secrets.randbits(SEED_BITS) if self.settings.seed is None else self.settings.seed

    def _last(self, otherwise: str) -> Exchange:
        if not self.exchanges:
            raise ParakeetError(otherwise)
        return self.exchanges[-1]

    def _record(self, *events: Event, written: bool = True) -> None:
        """Apply events in memory and write them to the file. If the file fails, recording ends, not the chat."""
        for event in events:
            event = {**event, "time": now()}
            self.conversation.apply(event)
            self._events.append(event)
            if event["event"] != "system":
                self._unanswered = None
        if written and self.log and (self.log.begun or any(event["event"] in REPLY_EVENTS for event in events)):
            self._write(self.log.append)

    def _show(self, *events: Event) -> None:
        """Write pieces of a reply, with what is not in the file yet."""
        if self.log:
            self._write(self.log.add, events)

    def _write(self, write: Callable[..., None], more: Sequence[Event] = ()) -> None:
        assert self.log
        try:
            write(*self._events[self._written :], *more)
            self._written = len(self._events)
        except OSError as error:
            self.notes.append(
                f"The conversation continues but is no longer recorded in {self.log.path}: {os_reason(error)}."
            )
            self.close()

    @property
    def _prompts(self) -> PromptBuilder:
        engine = self.engine
        return PromptBuilder(engine.tokenizer, engine.context, engine.longest_token, self.settings.max_tokens)

    def _begin(self, message: str, exchanges: Sequence[Exchange]) -> tuple[str, list[int]]:
        """The kind of event that the reply to a new message after `exchanges` is, and the prompt's ids."""
        return ("complete", self._raw_prompt(message)) if self.raw else ("reply", self._prompt(exchanges, message))

    def _again(self, exchanges: Sequence[Exchange], message: str) -> list[int]:
        """Prompt ids for a message in place of that of the last exchange."""
        return self._raw_prompt(message) if exchanges[-1].raw else self._prompt(exchanges[:-1], message)

    def _continued(self, exchanges: Sequence[Exchange]) -> list[int]:
        """Prompt ids that end with the last exchange's reply."""
        ids, self.dropped = self._prompts.continued(self.system, exchanges[:-1], exchanges[-1])
        return ids

    def _raw_prompt(self, text: str) -> list[int]:
        ids, self.dropped = self._prompts.raw(text), 0
        return ids

    def _prompt(self, exchanges: Sequence[Exchange], message: str) -> list[int]:
        ids, self.dropped = self._prompts.reply(self.system, exchanges, message)
        return ids


def _checked(message: str) -> str:
    message = encodable(message)
    if not message.strip():
        raise ParakeetError("The message is empty: there is nothing to reply to.")
    return message
