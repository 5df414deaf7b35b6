"""Held-out questions beside the documents, and the search for training text that holds one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from parakeet.data.documents import Document

QUESTIONS_FILE = "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """A Human turn that no training document holds, and the exact reply that counts as right."""

    source: str
    task: str
    prompt: str
    answer: str


def write_questions(documents: Path, questions: Iterable[Question]) -> None:
    with (documents / QUESTIONS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)


def read_questions(documents: Path) -> list[Question]:
    """The held-out questions of a documents artefact; none where no source has any."""
    with (documents / QUESTIONS_FILE).open(encoding="utf-8") as file:
        return [Question(**json.loads(line)) for line in file]


class LeakSearch:
    """Looks for the text of held-out questions in documents that their source does not hold out.

    A text can only hold a question if it holds the question's longest word between its first and its last, which no
    other text touches: one look at the words of a document rules out nearly all of 1,200 questions.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_word: dict[str, list[str]] = {}
        for prompt in sorted({question.prompt.strip().casefold() for question in questions}):
            inner = max(prompt.split()[1:-1], key=len, default="")
            self._by_word.setdefault(inner, []).append(prompt)
        self._wordless = self._by_word.pop("", [])

    def find(self, document: Document) -> str:
        """A question that stands in a document, in lower case, or nothing. Its mark would measure memory."""
        if document.held_out or not (self._by_word or self._wordless):
            return ""
        text = document.content.casefold()
        found = self._by_word.keys() & set(text.split())
        prompts = chain(self._wordless, *(self._by_word[word] for word in sorted(found)))
        return next((prompt for prompt in prompts if prompt in text), "")
