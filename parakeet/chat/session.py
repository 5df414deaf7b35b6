"""A conversation that stays within the model's context and is recorded on disk. Imports no torch."""

import secrets
from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.events import REPLY_EVENTS, Conversation, Event, Exchange, encodable, fold
from parakeet.chat.prompt_builder import PromptBuilder, raw_ids
from parakeet.chat.storage import SessionLog, identity, now
from parakeet.errors import ParakeetError, os_reason
from parakeet.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine, Step

SEED_BITS = 32
"""Size of a random seed: short enough for a person to type again."""

_TIMING = ("prompt_tokens", "kept_tokens", "prefill_seconds", "decode_seconds", "first_token_seconds")


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
    ) -> None:
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
        self._events: list[Event] = list(log.events) if log else []
        self._written = len(self._events)
        self._conversation: Conversation = fold(self._events)
        self._unanswered: str | None = None
        if log and log.change:
            self._events.append({"event": "model", **log.change, "time": now()})
        if system.strip():
            self.set_system(system)

    @property
    def system(self) -> str:
        """The system message, "" for none."""
        return self._conversation.system

    @property
    def exchanges(self) -> list[Exchange]:
        """Messages and replies, oldest first."""
        return self._conversation.exchanges

    @property
    def last_message(self) -> str:
        """What `retry` would ask again and `edit` replace. Raises ParakeetError if there is no message."""
        return self._last("There is no message yet.").message if self._unanswered is None else self._unanswered

    @property
    def last_time(self) -> str:
        """When the last event was recorded (ISO 8601), "" if there is none."""
        return str(self._events[-1].get("time", "")) if self._events else ""

    def reply(self, message: str) -> Generator["Step", None, None]:
        """Start the reply to a message, or with `raw` its continuation; returns the steps.

        The message is checked now, not at the first step.

        Closing the iterator early keeps the text so far as an interrupted reply. An exchange with an empty reply is
        not kept: it would teach the model to be silent.

        Raises ParakeetError if the message is blank, or does not fit the context even alone.
        """
        message = _checked(message)
        kind, prompt = self._begin(message)
        self._unanswered = message
        return self._stream(kind, prompt, self._seed(), message)

    def retry(self) -> Generator["Step", None, None]:
        """Start another reply to the last message, with a new seed even if the settings fix one.

        The new reply replaces the old one unless it stays empty. If the last message got no reply, because it was
        stopped before the first word, it is asked again. Raises ParakeetError if there is no message.
        """
        if self._unanswered is not None:
            kind, prompt = self._begin(self._unanswered)
            return self._stream(kind, prompt, secrets.randbits(SEED_BITS), self._unanswered)
        last = self._last("There is no message to retry.")
        prompt = self._again(last, last.message)
        return self._stream("retry", prompt, secrets.randbits(SEED_BITS), last.message)

    def edit(self, message: str) -> Generator["Step", None, None]:
        """Start the reply to a message that replaces the last one. Raises as `reply` does."""
        if self._unanswered is not None:
            return self.reply(message)
        last = self._last("There is no message to edit.")
        message = _checked(message)
        return self._stream("edit", self._again(last, message), self._seed(), message)

    def continue_reply(self) -> Generator["Step", None, None]:
        """Continue the last reply, however it ended. Raises ParakeetError if there is none, or it fills the context."""
        last = self._last("There is no reply to continue.")
        return self._stream("continue", self._continued(last), self._seed())

    def next_ids(self, text: str = "") -> list[int]:
        """Ids of the prompt whose next token would begin the reply to `text`, or without a text continue the last one.

        Raises ParakeetError if there is neither, or it does not fit the context.
        """
        dropped = self.dropped
        try:
            if text.strip():
                return self._begin(_checked(text))[1]
            return self._continued(self._last("There is no reply yet. Give a message: /probs TEXT"))
        finally:
            self.dropped = dropped  # no reply comes of it

    def undo(self) -> Exchange:
        """Remove the last exchange and return it. Raises ParakeetError if there is none."""
        exchange = self._last("There is nothing to undo.")
        self._record({"event": "undo"})
        return exchange

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

    def _stream(
        self, kind: str, prompt: list[int], seed: int, message: str | None = None
    ) -> Generator["Step", None, None]:
        # Not in the generator, which does not run before its first step.
        self.last_seed = seed
        return self._steps({"event": kind} | ({} if message is None else {"message": message}), prompt, seed)

    def _steps(self, event: Event, prompt: list[int], seed: int) -> Generator["Step", None, None]:
        settings, dropped = self.settings, self.dropped
        text, tokens, finish_reason = "", 0, "interrupted"
        try:
            for step in self.engine.generate(prompt, replace(settings, seed=seed)):
                text += step.text
                tokens = self.engine.timing.reply_tokens
                finish_reason = step.finish_reason or finish_reason
                yield step
        except Exception:
            text = ""  # an error in the middle leaves no reply
            raise
        finally:
            if text.strip() or (text and event["event"] == "continue"):
                timing = {name: round(getattr(self.engine.timing, name), 6) for name in _TIMING}
                reply = {"reply": text, "finish_reason": finish_reason, "tokens": tokens}
                how = {"seed": seed, "dropped": dropped, "settings": asdict(settings), "timing": timing}
                self._record(event | reply | how)

    def _seed(self) -> int:
        return secrets.randbits(SEED_BITS) if self.settings.seed is None else self.settings.seed

    def _last(self, otherwise: str) -> Exchange:
        if not self.exchanges:
            raise ParakeetError(otherwise)
        return self.exchanges[-1]

    def _record(self, event: Event) -> None:
        """Apply an event in memory and write it to the file. If the file fails, recording ends, not the chat."""
        event = {**event, "time": now()}
        self._conversation.apply(event)
        self._events.append(event)
        if event["event"] != "system":
            self._unanswered = None
        if self.log is None or not (self.log.begun or event["event"] in REPLY_EVENTS):
            return
        try:
            self.log.append(*self._events[self._written :])
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

    def _begin(self, message: str) -> tuple[str, list[int]]:
        """The kind of event that the reply to a new message is, and the prompt's ids."""
        return ("complete", self._raw_prompt(message)) if self.raw else ("reply", self._prompt(self.exchanges, message))

    def _again(self, last: Exchange, message: str) -> list[int]:
        """Prompt ids for a message in place of that of the last exchange."""
        return self._raw_prompt(message) if last.raw else self._prompt(self.exchanges[:-1], message)

    def _continued(self, last: Exchange) -> list[int]:
        ids, self.dropped = self._prompts.continued(self.system, self.exchanges[:-1], last)
        return ids

    def _raw_prompt(self, text: str) -> list[int]:
        ids, self.dropped = self._prompts.raw(text), 0
        return ids

    def _prompt(self, exchanges: list[Exchange], message: str) -> list[int]:
        ids, self.dropped = self._prompts.reply(self.system, exchanges, message)
        return ids


def _checked(message: str) -> str:
    message = encodable(message)
    if not message.strip():
        raise ParakeetError("The message is empty: there is nothing to reply to.")
    return message
