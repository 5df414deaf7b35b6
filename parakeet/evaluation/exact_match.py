"""Exact-match accuracy on the synthetic source's held-out questions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parakeet.evaluation.base import Metric, Score, Subject
from parakeet.evaluation.replies import replies_to
from parakeet.formatting import format_percent
from parakeet.intervals import wilson_interval

if TYPE_CHECKING:
    from parakeet.data.questions import Question
    from parakeet.pages import Table

NOT_APPLICABLE = "not applicable"
"""The figures of a recipe without held-out questions."""

SPARE_ANSWER_TOKENS = 8
"""The model may use more tokens for the right text than the tokenizer would."""


class ExactMatch(Metric):
    """By task: questions, accuracy (the share answered exactly), its 95 % Wilson interval, and one example."""

    name = "exact_match"
    title = "Exact answers to held-out questions"

    def measure(self, subject: Subject) -> dict[str, Any] | str:
        if not subject.questions:
            return NOT_APPLICABLE
        prompts = [question.prompt for question in subject.questions]
        answers = [question.answer for question in subject.questions]
        limits = [len(subject.tokenizer.encode(answer)) + SPARE_ANSWER_TOKENS for answer in answers]
        return accuracy(subject.questions, replies_to(subject.engine, prompts, limits))

    def render(self, figures: Mapping[str, Any] | str) -> "list[str | Table]":
        from parakeet.pages import Table

        if isinstance(figures, str):
            return ["Not applicable: no source of this recipe has held-out questions."]
        rows = []
        for task, found in figures.items():
            low, high = map(format_percent, found["interval"])
            example = f"{found['example']['prompt']} → {found['example']['reply']}"
            rows.append((task, found["questions"], format_percent(found["accuracy"]), f"{low} to {high}", example))
        return [Table(("task", "questions", "exact", "95% interval", "example"), rows, right=(2,))]

    def scores(self, figures: Mapping[str, Any] | str) -> list[Score]:
        return [
            Score(task, found["accuracy"], found["questions"], "questions", tuple(found["interval"]))
            for task, found in (figures.items() if isinstance(figures, Mapping) else ())
        ]


def accuracy(questions: Sequence["Question"], replies: Sequence[str]) -> dict[str, Any]:
    """The figures of `ExactMatch`."""
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
