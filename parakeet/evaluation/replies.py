"""Greedy replies to the recipe's prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from parakeet.conversation import Turn
from parakeet.evaluation.base import Metric, Subject
from parakeet.sampling_settings import SamplingSettings
from parakeet.template import render_prompt

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine
    from parakeet.pages import Table

GREEDY = SamplingSettings(
    temperature=0.0, top_p=1.0, min_p=0.0, frequency_penalty=0.0, presence_penalty=0.0, max_tokens=96
)


class Replies(Metric):
    """A list of {"prompt", "reply"}."""

    name = "replies"
    title = "Replies"
    introduction = "Greedy, to the recipe's prompts."

    def measure(self, subject: Subject) -> list[dict[str, str]]:
        prompts = subject.recipe.evaluation.prompts
        replies = replies_to(subject.engine, prompts)
        return [{"prompt": prompt, "reply": reply} for prompt, reply in zip(prompts, replies, strict=True)]

    def render(self, figures: Sequence[dict[str, str]]) -> "list[str | Table]":
        from parakeet.pages import Table

        return [Table(("prompt", "reply"), [(pair["prompt"], pair["reply"]) for pair in figures])]


def replies_to(engine: "Engine", prompts: Sequence[str], limits: Sequence[int] | None = None) -> list[str]:
    """The greedy reply to each prompt as a conversation's first turn, of at most 96 tokens, or of `limits`."""
    from parakeet.generation.engine import batch_replies

    rendered = [render_prompt(engine.tokenizer, [Turn("Human", prompt)]) for prompt in prompts]
    settings = [replace(GREEDY, max_tokens=limit) for limit in limits or [GREEDY.max_tokens] * len(prompts)]
    return [engine.tokenizer.decode(ids).strip() for ids in batch_replies(engine, rendered, settings)]
