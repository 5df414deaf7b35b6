"""One reply as it grows: drawn ids in, steps of text out."""

import codecs
from collections.abc import Collection

from torch import Tensor

from parakeet.generation.sampling import Sampler
from parakeet.generation.steps import Step
from parakeet.generation.stop_strings import StopStrings
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer


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
