"""Several replies at once: each step reads the weights once for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parakeet.sampling_settings import SamplingSettings


@dataclass(frozen=True)
class Request:
    """A prompt, and the replies to it that are wanted: one for each of `settings`, which have a seed each.

    With `log_probabilities`, each step has ln p of its token, and the `top` likeliest tokens beside it. With
    `score_prompt`, the prompt's own ids are scored likewise.
    """

    prompt_ids: Sequence[int]
    settings: Sequence[SamplingSettings]
    log_probabilities: bool = False
    top: int = 0
    score_prompt: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids before anything else; −100 and 100 as good as forbid and force a token."""


@dataclass(frozen=True)
class Scored:
    """A token of a prompt: ln p given those before it, and the likeliest in its place with theirs."""

    token_id: int
    log_probability: float | None
    """None for the first, which nothing precedes."""
    top: tuple[tuple[int, float], ...]
