"""Held-out questions beside the documents, and the proof that no training text holds one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parakeet.data.documents import Document
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

QUESTIONS_FILE = "questions.jsonl"
CHARACTERS_PER_CHUNK = 1 << 20


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
    """Looks for the text of held-out questions in documents that are not held out by their metadata.

    Raises ParakeetError where it finds one: before hours of training whose marks would measure memory.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._prompts = sorted({question.prompt.strip().casefold() for question in questions})
        self._chunk: list[str] = []
        self._size = 0

    def add(self, document: Document) -> None:
        if self._prompts and not document.metadata.get("held_out"):
            self._chunk.append(document.content.casefold())
            self._size += len(self._chunk[-1])
            if self._size >= CHARACTERS_PER_CHUNK:
                self.finish()

    def finish(self) -> None:
        """Search what has been added since the last search; documents are searched many at a time."""
        text = "\n".join(self._chunk)
        self._chunk, self._size = [], 0
        leaked = next((prompt for prompt in self._prompts if prompt in text), None)
        if leaked is not None:
            raise ParakeetError(
                f"The held-out question {sanitise(leaked)!r} stands in a training document: an accuracy on it would "
                "measure memory. Take that text out of the sources, or give the synthetic source another seed."
            )
