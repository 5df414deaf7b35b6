"""The ids of prompts that leave room for a reply. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from parakeet.chat.events import Exchange
from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.template import render_document, render_prompt, render_text
from parakeet.tokenizer import Tokenizer

RESERVE_TOKENS = 256
"""Tokens of the context that a prompt leaves free for the reply. In a small context it is a quarter of it, and never
more than max_tokens."""


@dataclass(frozen=True)
class PromptBuilder:
    """Builds the prompts of one model for replies of up to `max_tokens`.

    Exchanges that do not fit the context are left out, whole and oldest first. `system` is "" for no system message.
    """

    tokenizer: Tokenizer
    context: int
    longest_token: int
    """Bytes of the longest token. It gives a lower bound that is checked before encoding: encoding a pasted file of
    10 MB takes seconds."""
    max_tokens: int

    @property
    def limit(self) -> int:
        """The most tokens that a prompt may have."""
        return self.context - min(self.max_tokens, RESERVE_TOKENS, self.context // 4)

    def raw(self, text: str) -> list[int]:
        """Ids of a text to continue without the chat template. Raises ParakeetError if it does not fit."""
        least = self._least(text)
        ids = raw_ids(self.tokenizer, text) if least <= self.limit else []
        if not 0 < len(ids) <= self.limit:
            raise self._too_long(text, f"{len(ids):,}" if ids else f"at least {least:,}")
        return ids

    def reply(self, system: str, exchanges: Sequence[Exchange], message: str) -> tuple[list[int], int]:
        """Ids that end where the reply to a message begins, and how many exchanges were left out.

        Raises ParakeetError if the message does not fit even alone.
        """
        least = self._least(message)
        if least > self.limit:
            raise self._too_long(message, f"at least {least:,}", system)
        turn = open_turn(self.tokenizer, message)
        alone = len(system_ids(self.tokenizer, system)) + len(turn)
        if alone > self.limit:
            raise self._too_long(message, f"{alone:,}", system)
        return self.history(system, exchanges, turn)

    def continued(self, system: str, exchanges: Sequence[Exchange], last: Exchange) -> tuple[list[int], int]:
        """The same with the reply of the `last` exchange so far at the end, which may take all but one of the tokens.

        Raises ParakeetError if it fills the context.
        """
        turn = (raw_ids if last.raw else open_turn)(self.tokenizer, last.message, last.reply)
        before = [] if last.raw else system_ids(self.tokenizer, system)
        if len(before) + len(turn) >= self.context:
            raise ParakeetError(
                f"The reply fills the context of {self.context:,} tokens: there is no room to continue."
            )
        return (turn, 0) if last.raw else self.history(system, exchanges, turn)

    def history(self, system: str, exchanges: Sequence[Exchange], turn: Sequence[int] = ()) -> tuple[list[int], int]:
        """Ids of the system message, the latest exchanges that fit, and `turn`; and how many exchanges did not fit."""
        exchanges = in_conversation(exchanges)
        before = system_ids(self.tokenizer, system)
        room = self.limit - len(before) - len(turn)
        kept: list[list[int]] = []
        for exchange in reversed(exchanges):
            # A reply of another model may be far longer than this context.
            if self._least(exchange.message + exchange.reply) > room:
                break
            ids = exchange_ids(self.tokenizer, exchange)
            if len(ids) > room:
                break
            kept.append(ids)
            room -= len(ids)
        return [*before, *chain.from_iterable(reversed(kept)), *turn], len(exchanges) - len(kept)

    def check_system(self, text: str) -> None:
        """Raise ParakeetError if a system message leaves no room for a message."""
        least = self._least(text)
        tokens = least if least > self.limit else len(system_ids(self.tokenizer, text))
        if tokens >= self.limit:
            raise ParakeetError(
                f"The system message ({len(text):,} characters) takes {tokens:,} tokens or more, but a prompt has "
                f"room for {self.limit:,}: the model's context is {self.context:,}. Shorten it."
            )

    def _least(self, text: str) -> int:
        """The fewest tokens that a text can have."""
        return len(text.encode()) // self.longest_token

    def _too_long(self, message: str, tokens: str, system: str = "") -> ParakeetError:
        with_system = ", with the system message," if system else ""
        return ParakeetError(
            f"The message ({len(message):,} characters) makes{with_system} a prompt of {tokens} tokens, but "
            f"only {self.limit:,} fit: the model's context is {self.context:,} and a reply needs room too. "
            "Shorten the message."
        )


def system_ids(tokenizer: Tokenizer, system: str) -> list[int]:
    """Ids of the system message's turn; empty for a blank message."""
    return _turn_ids(tokenizer, Turn("System", system)) if system.strip() else []


def exchange_ids(tokenizer: Tokenizer, exchange: Exchange) -> list[int]:
    """Ids of a message and its reply, both with their end token."""
    return _turn_ids(tokenizer, Turn("Human", exchange.message), Turn("Assistant", exchange.reply))


def open_turn(tokenizer: Tokenizer, message: str, reply: str = "") -> list[int]:
    """Ids of a message and the beginning of its reply, without an end token: the model continues it."""
    return [*render_prompt(tokenizer, [Turn("Human", message)]), *tokenizer.encode(reply)]


def raw_ids(tokenizer: Tokenizer, text: str, reply: str = "") -> list[int]:
    """Ids of a text as the model learns documents, without any role, and of the beginning of its continuation."""
    return [*render_text(tokenizer, text)[0].tolist(), *tokenizer.encode(reply)]


def recorded_prompt(
    tokenizer: Tokenizer,
    system: str,
    earlier: Sequence[Exchange],
    dropped: int,
    message: str,
    reply: str = "",
    raw: bool = False,
) -> list[int]:
    """Ids of the prompt of a recorded reply, or of its continuation after `reply`.

    The file records how many of the `earlier` exchanges were left out, so a change of that rule does not matter.
    """
    if raw:
        return raw_ids(tokenizer, message, reply)
    history = chain.from_iterable(exchange_ids(tokenizer, each) for each in in_conversation(earlier)[dropped:])
    return [*system_ids(tokenizer, system), *history, *open_turn(tokenizer, message, reply)]


def in_conversation(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The exchanges that prompts hold: texts that were continued on their own are no part of the conversation."""
    return [exchange for exchange in exchanges if not exchange.raw]


def _turn_ids(tokenizer: Tokenizer, *turns: Turn) -> list[int]:
    # Nothing merges across the control ids between turns, so they are encoded one by one, and only those that fit.
    return render_document(tokenizer, turns)[0].tolist()
