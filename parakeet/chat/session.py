"""A conversation that stays within the model's context, and is recorded as it goes. Imports no torch."""

import secrets
from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.events import SPEAKING, Conversation, Event, Exchange, encodable, fold
from parakeet.chat.storage import SessionLog, now
from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.generation.settings import SamplingSettings
from parakeet.template import render_document, render_prompt
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine, Step

RESERVE_TOKENS = 256
"""Room that is kept free for a reply, in tokens; in a small context a quarter of it, and never more
than the settings allow a reply."""

SEED_BITS = 32
"""Of a seed that is drawn here: short enough to be typed again."""

_TIMING = ("prompt_tokens", "kept_tokens", "prefill_seconds", "decode_seconds", "first_token_seconds")


class Session:
    """Remembers what was said, as structure: prompts are rendered to ids from it and never parsed back.

    With a log, every change is on the disk before the next one, and a log that was opened is gone on from. What
    no longer fits the context leaves the prompt, oldest exchanges first and whole, never the record.
    """

    def __init__(
        self,
        engine: "Engine",
        settings: SamplingSettings,
        system: str = "",
        log: SessionLog | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        """How the next reply is drawn."""
        self.log = log
        """Where the conversation is recorded; None where it is not, or not any more."""
        self.notes: list[str] = list(log.notes) if log else []
        """What a person should be told, such as that the disk is full; whoever tells it empties the list."""
        self.dropped = 0
        """Exchanges that the latest reply left out of its prompt, oldest first, to make room."""
        self.last_seed: int | None = None
        """What the latest reply was, or is being, drawn with."""
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
        """What was said, oldest first."""
        return self._conversation.exchanges

    @property
    def last_message(self) -> str:
        """What `retry` would ask again and `edit` replace. Raises ParakeetError where nothing was said."""
        return self._last("Nothing was said yet.").message if self._unanswered is None else self._unanswered

    def reply(self, message: str) -> Generator["Step", None, None]:
        """Steps of the reply to a message, which is checked and made room for at once.

        Closing the iterator early keeps what was said so far as an interrupted reply. An exchange in which
        the model said nothing is not kept: an empty turn would teach it silence.

        Raises ParakeetError where the message is blank, or does not fit the context even alone.
        """
        message = _spoken(message)
        prompt = self._prompt(self.exchanges, message)
        self._unanswered = message
        return self._stream("reply", prompt, self._seed(), message)

    def retry(self) -> Generator["Step", None, None]:
        """Steps of another reply to the last message, drawn with a new seed whatever the settings say.

        The old reply goes when the new one has said something. A message that got no reply at all, as it was
        stopped before the first word, is asked again. Raises ParakeetError where there is no message.
        """
        if self._unanswered is not None:
            prompt = self._prompt(self.exchanges, self._unanswered)
            return self._stream("reply", prompt, secrets.randbits(SEED_BITS), self._unanswered)
        message = self._last("There is no message to reply to again.").message
        prompt = self._prompt(self.exchanges[:-1], message)
        return self._stream("retry", prompt, secrets.randbits(SEED_BITS), message)

    def edit(self, message: str) -> Generator["Step", None, None]:
        """Steps of the reply to a message that takes the place of the last one. Raises as `reply` does."""
        if self._unanswered is not None:
            return self.reply(message)
        self._last("There is no message to edit.")
        message = _spoken(message)
        return self._stream("edit", self._prompt(self.exchanges[:-1], message), self._seed(), message)

    def continue_reply(self) -> Generator["Step", None, None]:
        """Steps that go on in the last reply, however it ended.

        Raises ParakeetError where there is no reply, or it fills the context.
        """
        last = self._last("There is no reply to continue.")
        context = self.engine.context
        turn = open_turn(self.engine.tokenizer, last.message, last.reply)
        if len(system_ids(self.engine.tokenizer, self.system)) + len(turn) >= context:
            raise ParakeetError(f"The reply fills the context of {context:,} tokens: there is no room to go on.")
        return self._stream("continue", self._fitted(self.exchanges[:-1], turn), self._seed())

    def undo(self) -> Exchange:
        """Remove the last exchange, and return it. Raises ParakeetError where there is none."""
        exchange = self._last("There is nothing to undo.")
        self._record({"event": "undo"})
        return exchange

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        if self.exchanges:
            self._record({"event": "clear"})
        self._unanswered = None

    def set_system(self, text: str) -> None:
        """Let `text` be the system message from now on; a blank one is none. ParakeetError where it is too long."""
        text = encodable(text) if text.strip() else ""
        self._check_system(text)
        if text != self.system:
            self._record({"event": "system", "content": text})

    def prompt_ids(self) -> list[int]:
        """Ids of the conversation as the next prompt will begin: the system message and what fits of the rest."""
        return self._with_history(self.exchanges, [])[0]

    def prompt_tokens(self) -> int:
        """Number of `prompt_ids`."""
        return len(self.prompt_ids())

    def save(self, path: Path, header: Mapping[str, Any]) -> None:
        """Record the conversation so far in a new file, and go on there; the old one stays as it is.

        `header` is that of a conversation which had no file yet. Raises ParakeetError where the file exists or
        cannot be written; the conversation is then recorded as before.
        """
        if not self._events:
            raise ParakeetError("There is nothing to save yet.")
        log = SessionLog.create(path, self._header or header)
        try:
            log.append(*self._events)
        except OSError as error:
            log.close()
            raise ParakeetError(f"The session cannot be saved in {path}: {_reason(error)}.") from None
        self.close()
        self.log, self._header, self._written = log, log.header, len(self._events)

    def close(self) -> None:
        """Let another process go on with the recorded conversation."""
        if self.log:
            self.log.close()
            self.log = None

    def _stream(
        self, kind: str, prompt: list[int], seed: int, message: str | None = None
    ) -> Generator["Step", None, None]:
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
            text = ""
            raise
        finally:
            if text.strip() or (text and event["event"] == "continue"):
                timing = {name: round(getattr(self.engine.timing, name), 6) for name in _TIMING}
                said = {"reply": text, "finish_reason": finish_reason, "tokens": tokens}
                how = {"seed": seed, "dropped": dropped, "settings": asdict(settings), "timing": timing}
                self._record(event | said | how)

    def _seed(self) -> int:
        return secrets.randbits(SEED_BITS) if self.settings.seed is None else self.settings.seed

    def _last(self, otherwise: str) -> Exchange:
        if not self.exchanges:
            raise ParakeetError(otherwise)
        return self.exchanges[-1]

    def _record(self, event: Event) -> None:
        """Let an event happen, in memory and in the file; a file that fails ends the recording, not the chat."""
        event = {**event, "time": now()}
        self._conversation.apply(event)
        self._events.append(event)
        if event["event"] != "system":
            self._unanswered = None
        if self.log is None or not (self.log.begun or event["event"] in SPEAKING):
            return
        try:
            self.log.append(*self._events[self._written :])
            self._written = len(self._events)
        except OSError as error:
            self.notes.append(
                f"The conversation is no longer recorded in {self.log.path}: {_reason(error)}. It goes on all the same."
            )
            self.close()

    def _limit(self) -> int:
        """Tokens that a prompt may have."""
        context = self.engine.context
        return context - min(self.settings.max_tokens, RESERVE_TOKENS, context // 4)

    def _prompt(self, exchanges: list[Exchange], message: str) -> list[int]:
        """Prompt ids for a message. Raises ParakeetError where it does not fit, even alone."""
        limit = self._limit()
        # Before encoding: a pasted file of 10 MB would take seconds only to be refused.
        least = len(message.encode()) // self.engine.longest_token
        if least > limit:
            raise ParakeetError(self._too_long(message, f"at least {least:,}", limit))
        turn = open_turn(self.engine.tokenizer, message)
        alone = len(system_ids(self.engine.tokenizer, self.system)) + len(turn)
        if alone > limit:
            raise ParakeetError(self._too_long(message, f"{alone:,}", limit))
        return self._fitted(exchanges, turn)

    def _fitted(self, exchanges: list[Exchange], turn: list[int]) -> list[int]:
        """`turn` after what fits before it; the rest of the exchanges counts as dropped."""
        ids, self.dropped = self._with_history(exchanges, turn)
        return ids

    def _with_history(self, exchanges: list[Exchange], turn: list[int]) -> tuple[list[int], int]:
        """The system message, as many of the latest exchanges as fit, and `turn`; and how many did not fit."""
        tokenizer = self.engine.tokenizer
        system = system_ids(tokenizer, self.system)
        room = self._limit() - len(system) - len(turn)
        kept: list[list[int]] = []
        for exchange in reversed(exchanges):
            # As in `_prompt`: what another model said may be far longer than this one's context.
            if len((exchange.message + exchange.reply).encode()) // self.engine.longest_token > room:
                break
            ids = exchange_ids(tokenizer, exchange)
            if len(ids) > room:
                break
            kept.append(ids)
            room -= len(ids)
        return [*system, *chain.from_iterable(reversed(kept)), *turn], len(exchanges) - len(kept)

    def _too_long(self, message: str, tokens: str, limit: int) -> str:
        system = ", with the system message," if self.system else ""
        return (
            f"The message ({len(message):,} characters) makes{system} a prompt of {tokens} tokens, but "
            f"only {limit:,} fit: the model's context is {self.engine.context:,} and a reply needs room too. "
            "Shorten the message."
        )

    def _check_system(self, text: str) -> None:
        limit = self._limit()
        least = len(text.encode()) // self.engine.longest_token
        tokens = least if least > limit else len(system_ids(self.engine.tokenizer, text))
        if tokens >= limit:
            raise ParakeetError(
                f"The system message ({len(text):,} characters) takes {tokens:,} tokens or more, but a prompt has "
                f"room for {limit:,}: the model's context is {self.engine.context:,}. Shorten it."
            )


def system_ids(tokenizer: Tokenizer, system: str) -> list[int]:
    """Ids of the system message's turn; none for a blank one."""
    return _turn_ids(tokenizer, Turn("System", system)) if system.strip() else []


def exchange_ids(tokenizer: Tokenizer, exchange: Exchange) -> list[int]:
    """Ids of a message and its reply, both ended."""
    return _turn_ids(tokenizer, Turn("Human", exchange.message), Turn("Assistant", exchange.reply))


def open_turn(tokenizer: Tokenizer, message: str, reply: str = "") -> list[int]:
    """Ids of a message and of the reply to it so far, open for its next words."""
    return [*render_prompt(tokenizer, [Turn("Human", message)]), *tokenizer.encode(reply)]


def _turn_ids(tokenizer: Tokenizer, *turns: Turn) -> list[int]:
    # Turn by turn, as nothing merges across the control ids between them: what does not fit is never encoded.
    return render_document(tokenizer, turns)[0].tolist()


def _spoken(message: str) -> str:
    message = encodable(message)
    if not message.strip():
        raise ParakeetError("The message is empty: there is nothing to reply to.")
    return message


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
