"""Ids in, a stream of text out: prefill, the cache of keys and values, sampling, whole UTF-8 characters."""

import codecs
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from parakeet.errors import ParakeetError
from parakeet.generation.sampling import Sampler, SamplingSettings
from parakeet.tokenizer import Tokenizer

PREFILL_TOKENS = 256
"""Prompt tokens in one forward pass. The attention bias takes heads · this · context numbers (150 MB for
the 378M model), and an interruption is noticed between two passes."""


class HasContext(Protocol):
    @property
    def context(self) -> int: ...


class LanguageModel(Protocol):
    """What the engine asks of a model; `parakeet.model.transformer.Parakeet` is one."""

    @property
    def config(self) -> HasContext: ...

    def new_cache(self, batch_size: int, capacity: int) -> Any:
        """An empty cache for `capacity` tokens, with the attribute `length`."""

    def decode(self, ids: Tensor, cache: Any) -> Tensor:
        """ids (1, new) int64 join the cache; logits (1, vocabulary rows) of the last of them."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class Step:
    """One step of a reply.

    `token_id` is None while the prompt is read and in a last step that drew no token. `text` holds only
    whole characters, so a token in the middle of one has none. `finish_reason` is None but in the last
    step: "stop" (the model ended its turn), "length" (max_tokens) or "context" (the context is full).
    """

    token_id: int | None
    text: str
    finish_reason: str | None


class Engine:
    """A model and its tokenizer, ready to write."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = model.config.context
        self.parameter_count = sum(parameter.numel() for parameter in model.parameters())
        self.stop_ids = frozenset({tokenizer.end_of_prompt, tokenizer.end_of_text, tokenizer.padding})
        spoken = {i: length for i in tokenizer.defined_ids() if (length := len(tokenizer.token_bytes(i)))}
        self.longest_token = max(spoken.values())
        self._ordinary = torch.zeros(tokenizer.rows, dtype=torch.bool)
        self._ordinary[list(spoken)] = True
        self._device = next(iter(model.parameters())).device
        model.eval()

    def generate(
        self,
        prompt_ids: Sequence[int],
        settings: SamplingSettings,
        stop_ids: Collection[int] | None = None,
    ) -> Iterator[Step]:
        """Continue the prompt until one of `stop_ids` (by default the ends of a turn and of a text).

        Nothing runs before the first `next`; closing the iterator stops between two forward passes.
        Role ids, padding and undefined ids are never drawn. Exactly the last step has a finish_reason.

        Raises ParakeetError where the prompt is empty or beyond the context, or logits are not finite.
        """
        self._check_prompt(prompt_ids)
        stops = self.stop_ids if stop_ids is None else frozenset(stop_ids)
        sampler = Sampler(settings, self._allowed(stops))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        room = self.context - len(prompt_ids)
        cache = self.model.new_cache(1, len(prompt_ids) + min(room, settings.max_tokens))
        new = list(prompt_ids)
        for _ in range(min(room, settings.max_tokens)):
            while len(new) > PREFILL_TOKENS:
                self._decode(new[:PREFILL_TOKENS], cache)
                new = new[PREFILL_TOKENS:]
                yield Step(None, "", None)
            token_id = sampler.choose(self._decode(new, cache))
            if token_id in stops:
                yield Step(token_id, decoder.decode(b"", final=True), "stop")
                return
            yield Step(token_id, decoder.decode(self.tokenizer.token_bytes(token_id)), None)
            new = [token_id]
        reason = "length" if settings.max_tokens <= room else "context"
        yield Step(None, decoder.decode(b"", final=True), reason)

    def _decode(self, ids: Sequence[int], cache: Any) -> Tensor:
        # Not around a yield: a generator would leave inference mode switched on in its consumer.
        with torch.inference_mode():
            return self.model.decode(torch.tensor([ids], dtype=torch.long, device=self._device), cache)[0]

    def _allowed(self, stops: frozenset[int]) -> Tensor:
        """(rows,) bool. Padding may stand among the stops, but was never a target, so it is not drawn."""
        allowed = self._ordinary.clone()
        allowed[[i for i in stops if 0 <= i < len(allowed) and i != self.tokenizer.padding]] = True
        return allowed

    def _check_prompt(self, prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise ParakeetError("The prompt is empty: there is nothing to continue.")
        if len(prompt_ids) > self.context:
            raise ParakeetError(
                f"The prompt has {len(prompt_ids):,} tokens, but the model's context is {self.context:,}: shorten it."
            )
