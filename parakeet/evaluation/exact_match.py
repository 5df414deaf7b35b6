"""Exact-match accuracy on the synthetic source's held-out questions."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.documents import parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.generation.batch import greedy_replies
from parakeet.model.transformer import Parakeet
from parakeet.template import render_prompt
from parakeet.tokenizer import Tokenizer

QUESTIONS_FILE = "questions.jsonl"
MAX_REPLY_TOKENS = 96
CHARACTERS_PER_CHUNK = 8 << 20


@dataclass(frozen=True)
class Question:
    task: str
    prompt: str
    answer: str


def read_questions(documents: Path) -> list[Question]:
    """The held-out questions beside the documents; none where no source has any."""
    with (documents / QUESTIONS_FILE).open(encoding="utf-8") as file:
        values = [json.loads(line) for line in file]
    return [Question(value["task"], value["prompt"], value["answer"]) for value in values]


def refuse_leaks(questions: Sequence[Question], deduplicated: Path) -> None:
    """Raise ParakeetError if the text of a question stands in any training document."""
    prompts = {question.prompt.strip().casefold() for question in questions}

    def search(text: str) -> None:
        leaked = next((prompt for prompt in sorted(prompts) if prompt in text), None)
        if leaked is not None:
            raise ParakeetError(
                f"The held-out question {leaked!r} stands in a training document: an accuracy on it would "
                "measure memory. Take that text out of the sources, or give the synthetic source another seed."
            )

    chunk: list[str] = []
    size = 0
    for document in read_documents(parts(deduplicated)):
        if prompts and not document.metadata["held_out"]:
            chunk.append(document.content.casefold())
            size += len(chunk[-1])
            if size >= CHARACTERS_PER_CHUNK:
                search("\n".join(chunk))
                chunk, size = [], 0
    search("\n".join(chunk))


def replies_to(model: Parakeet, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """The greedy reply to each prompt as a conversation's first turn, at most 96 tokens."""
    return _replies(model, tokenizer, prompts, [MAX_REPLY_TOKENS] * len(prompts))


def answers_to(model: Parakeet, tokenizer: Tokenizer, questions: Sequence[Question]) -> list[str]:
    """The greedy reply to each question, cut one token past the length of the right answer: longer is wrong anyway."""
    limits = [len(tokenizer.encode(question.answer)) + 1 for question in questions]
    return _replies(model, tokenizer, [question.prompt for question in questions], limits)


def _replies(model: Parakeet, tokenizer: Tokenizer, prompts: Sequence[str], limits: Sequence[int]) -> list[str]:
    rendered = [render_prompt(tokenizer, [Turn("Human", prompt)]) for prompt in prompts]
    return [tokenizer.decode(ids).strip() for ids in greedy_replies(model, tokenizer, rendered, limits)]


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
