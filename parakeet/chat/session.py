"""A conversation that stays within the model's context."""

from collections.abc import Generator
from dataclasses import dataclass

from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.generation.engine import Engine, Step
from parakeet.generation.sampling import SamplingSettings
from parakeet.template import render_prompt

RESERVE_TOKENS = 256
"""Room that is kept free for a reply, in tokens; in a small context a quarter of it, and never more
than the settings allow a reply."""


@dataclass(frozen=True)
class Exchange:
    """A message and its reply. `finish_reason` is the engine's, or "interrupted"."""

    message: str
    reply: str
    finish_reason: str


class Session:
    """Remembers what was said, as structure: prompts are rendered to ids from it and never parsed back."""

    def __init__(self, engine: Engine, settings: SamplingSettings, system: str = "") -> None:
        self.engine = engine
        self.settings = settings
        self.system = _encodable(system)
        self.exchanges: list[Exchange] = []
        self.dropped = 0
        """Exchanges that the latest call of `reply` dropped, oldest first, to make room."""

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        self.exchanges = []

    def reply(self, message: str) -> Generator[Step, None, None]:
        """Steps of the reply to a message, which is checked and made room for at once.

        Closing the iterator early keeps what was said so far as an interrupted reply. An exchange in which
        the model said nothing is not kept: an empty turn would teach it silence.

        Raises ParakeetError where the message is blank, or does not fit the context even alone.
        """
        message = _encodable(message)
        if not message.strip():
            raise ParakeetError("The message is empty: there is nothing to reply to.")
        return self._stream(message, self._fitting_prompt(message))

    def _stream(self, message: str, prompt: list[int]) -> Generator[Step, None, None]:
        reply, finish_reason = "", "interrupted"
        try:
            for step in self.engine.generate(prompt, self.settings):
                reply += step.text
                finish_reason = step.finish_reason or finish_reason
                yield step
        except Exception:
            reply = ""
            raise
        finally:
            if reply.strip():
                self.exchanges.append(Exchange(message, reply, finish_reason))

    def _fitting_prompt(self, message: str) -> list[int]:
        """Prompt ids, after dropping as many of the oldest exchanges as it takes."""
        context = self.engine.context
        limit = context - min(self.settings.max_tokens, RESERVE_TOKENS, context // 4)
        # Before encoding: a pasted file of 10 MB would take seconds only to be refused.
        least = len(message.encode()) // self.engine.longest_token
        if least > limit:
            raise ParakeetError(self._too_long(message, f"at least {least:,}", limit))
        alone = len(self._prompt([], message))
        if alone > limit:
            raise ParakeetError(self._too_long(message, f"{alone:,}", limit))
        prompt = self._prompt(self.exchanges, message)
        self.dropped = 0
        while len(prompt) > limit:
            self.exchanges.pop(0)
            self.dropped += 1
            prompt = self._prompt(self.exchanges, message)
        return prompt

    def _prompt(self, exchanges: list[Exchange], message: str) -> list[int]:
        turns = [Turn("System", self.system)] if self.system.strip() else []
        for exchange in exchanges:
            turns += [Turn("Human", exchange.message), Turn("Assistant", exchange.reply)]
        return render_prompt(self.engine.tokenizer, [*turns, Turn("Human", message)])

    def _too_long(self, message: str, tokens: str, limit: int) -> str:
        system = ", with the system message," if self.system.strip() else ""
        return (
            f"The message ({len(message):,} characters) makes{system} a prompt of {tokens} tokens, but "
            f"only {limit:,} fit: the model's context is {self.engine.context:,} and a reply needs room too. "
            "Shorten the message."
        )


def _encodable(text: str) -> str:
    """Surrogate pairs joined, lone surrogates (undecodable bytes of a command line) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
