"""Exact-match accuracy on the synthetic source's held-out questions."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.questions import Question
from parakeet.generation.engine import Engine, batch_replies
from parakeet.sampling_settings import SamplingSettings
from parakeet.template import render_prompt

MAX_REPLY_TOKENS = 96
GREEDY = SamplingSettings(
    temperature=0.0, top_p=1.0, min_p=0.0, frequency_penalty=0.0, presence_penalty=0.0, max_tokens=MAX_REPLY_TOKENS
)
# The right text may be cut into more tokens than the tokenizer would use.
SPARE_ANSWER_TOKENS = 8


def replies_to(engine: Engine, prompts: Sequence[str]) -> list[str]:
    """The greedy reply to each prompt as a conversation's first turn, at most 96 tokens."""
    return _replies(engine, prompts, [MAX_REPLY_TOKENS] * len(prompts))


def answers_to(engine: Engine, questions: Sequence[Question]) -> list[str]:
    """The greedy reply to each question, cut a few tokens past the length of the right answer."""
    limits = [len(engine.tokenizer.encode(question.answer)) + SPARE_ANSWER_TOKENS for question in questions]
    return _replies(engine, [question.prompt for question in questions], limits)


def _replies(engine: Engine, prompts: Sequence[str], limits: Sequence[int]) -> list[str]:
    rendered = [render_prompt(engine.tokenizer, [Turn("Human", prompt)]) for prompt in prompts]
    settings = [replace(GREEDY, max_tokens=limit) for limit in limits]
    return [engine.tokenizer.decode(ids).strip() for ids in batch_replies(engine, rendered, settings)]


def accuracy(questions: Sequence[Question], replies: Sequence[str]) -> dict[str, Any]:
    """By task: how many were asked, the share answered exactly, its 95 % Wilson interval, and one example."""
    result: dict[str, Any] = {}
    for task in dict.fromkeys(question.task for question in questions):
        pairs = [(q, r) for q, r in zip(questions, replies, strict=True) if q.task == task]
        right = sum(question.answer.strip() == reply for question, reply in pairs)
        low, high = wilson_interval(right, len(pairs))
        example, reply = pairs[0]
        result[task] = {
            "questions": len(pairs),
            "accuracy": right / len(pairs),
            "interval": [low, high],
            "example": {"prompt": example.prompt, "answer": example.answer, "reply": reply},
        }
    return result


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); z = 1.96 gives 95 %."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
