"""One reply as it grows: drawn ids in, steps of text out."""

import codecs
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from parakeet.generation.sampling import Sampler
from parakeet.generation.stop_strings import StopStrings
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer


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


class Reply:
    """The state of one reply: its sampler, the bytes of an unfinished character, text that may become a stop string."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        sampler: Sampler,
        room: int,
        log_probabilities: bool = False,
        top: int = 0,
    ) -> None:
        """`room`: tokens that the context still holds after the prompt. With `log_probabilities` each step has that of
        its token, and the `top` likeliest."""
        self.sampler = sampler
        settings: SamplingSettings = sampler.settings
        self.limit = settings.max_tokens if settings.rolling else min(room, settings.max_tokens)
        """The most tokens that it may have."""
        self.tokens = 0
        self.finished = False
        self._limited_by = "length" if self.limit == settings.max_tokens else "context"
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._stops = StopStrings(settings.stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._log_probabilities, self._top = log_probabilities, top

    def add(self, token_id: int, logits: Tensor) -> Step:
        """The step of an id that was drawn from logits (vocabulary rows,). If it ends the reply, it is not counted."""
        known: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if self._log_probabilities:
            known, top = log_probabilities(logits, token_id, self._top)
        if token_id in self._stop_ids:
            self.finished = True
            shown, _ = self._stops.feed(self._decoder.decode(b"", final=True))
            return Step(token_id, shown + self._stops.finish(), "stop", known, top)
        self.tokens += 1
        shown, self.finished = self._stops.feed(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return Step(token_id, shown, "stop" if self.finished else None, known, top)

    def cut(self) -> Step | None:
        """The last step of a reply that has as many tokens as it may have; None if it may go on."""
        if self.finished or self.tokens < self.limit:
            return None
        self.finished = True
        shown = self._stops.feed(self._decoder.decode(b"", final=True))[0] + self._stops.finish()
        return Step(None, shown, "stop" if self._stops.stopped else self._limited_by)


def log_probabilities(logits: Tensor, token_id: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """ln p of an id, and the `top` likeliest ids with theirs, by logits (vocabulary rows,)."""
    total = logits.logsumexp(0)
    best = logits.topk(min(top, len(logits)))
    pairs = zip(best.indices.tolist(), (best.values - total).tolist(), strict=True)
    return float(logits[token_id] - total), tuple(pairs)
