"""What generation hands out: steps of a reply, what it cost, and tokens that may come next. Imports no torch."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Step:
    """One step of a reply.

    `token_id` is None while the prompt is read, and in a last step that drew no token. `text` has only whole
    characters, and nothing that could become a stop string. `finish_reason` is None except in the last step: "stop"
    (the model ended its turn, or a stop string came), "length" (max_tokens) or "context" (the context is full).
    """

    token_id: int | None
    text: str
    finish_reason: str | None
    log_probability: float | None = None
    """ln p of the token by the model, before any sampling setting; None if it was not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place and their ln p, as many as were asked for."""


@dataclass
class Timing:
    """The cost of one reply. Seconds are wall time of computation for it and for those beside it."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    """Tokens of the prompt that were still in the cache from an earlier prompt."""
    reply_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Forward passes after the prefill, with the pieces of other prompts that were read between them; on a GPU also the
    draws after the passes, which wait for them."""
    decoded_tokens: int = 0
    """Tokens whose successor these passes gave. The first token of a reply comes from the prefill."""
    drafted_tokens: int = 0
    """Tokens that were verified in a pass before they were drawn (prompt lookup decoding)."""
    accepted_tokens: int = 0
    """Those that were then drawn, so that each saved a pass."""
    first_token_seconds: float = 0.0
    """Prefill and the first draw."""
    bytes_read: float = 0.0
    """Memory read while decoding: for each pass, all weights, shared by the replies of the pass, and the filled part of
    the reply's cache."""

    @property
    def prefill_rate(self) -> float | None:
        """Tokens a second, not counting the kept ones."""
        return (self.prompt_tokens - self.kept_tokens) / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else None

    @property
    def bandwidth(self) -> float | None:
        """GB a second read from memory while decoding."""
        return self.bytes_read / self.decode_seconds / 1e9 if self.decode_seconds else None


class NextToken(NamedTuple):
    """A token that may come next: its probability by the model, and with the sampling settings applied, or None
    if that is not known."""

    token_id: int
    probability: float
    drawn: float | None
