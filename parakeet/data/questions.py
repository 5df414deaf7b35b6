"""Held-out questions, stored with the documents, and the search for training text that contains one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from parakeet.data.documents import Document

QUESTIONS_FILE = "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """A Human turn that occurs in no training document, and the exact reply that counts as right."""

    source: str
    task: str
    prompt: str
    answer: str


def write_questions(documents: Path, questions: Iterable[Question]) -> None:
    with (documents / QUESTIONS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)


def read_questions(documents: Path) -> list[Question]:
    """The held-out questions of a documents artefact, or none if no source has any."""
    with (documents / QUESTIONS_FILE).open(encoding="utf-8") as file:
        return [Question(**json.loads(line)) for line in file]


class LeakSearch:
    """Finds held-out questions in the text of training documents.

    A text that contains a question also contains, as a whole word, the longest of the question's inner words: the first
    and the last may run into the text around them, an inner word cannot. So one look at the words of a document rules
    out nearly all of 1,200 questions.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_word: dict[str, list[str]] = {}
        for prompt in sorted({question.prompt.strip().casefold() for question in questions}):
            inner = max(prompt.split()[1:-1], key=len, default="")
            self._by_word.setdefault(inner, []).append(prompt)
        self._wordless = self._by_word.pop("", [])

    def find(self, document: Document) -> str:
        """A question that the document contains, case-folded, or "". Its score would measure memory, not skill."""
        if document.held_out or not (self._by_word or self._wordless):
            return ""
        text = document.content.casefold()
        found = self._by_word.keys() & set(text.split())
        prompts = chain(self._wordless, *(self._by_word[word] for word in sorted(found)))
        return next((prompt for prompt in prompts if prompt in text), "")
