"""Held-out questions beside the documents, and the proof that no training text holds one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parakeet.data.documents import parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

QUESTIONS_FILE = "questions.jsonl"
CHARACTERS_PER_CHUNK = 8 << 20


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


def refuse_leaks(documents: Path, questions: Sequence[Question]) -> None:
    """Raise ParakeetError if the text of a question stands in a document that is not held out by its metadata.

    Said here, before hours of training whose marks would measure memory.
    """
    prompts = sorted({question.prompt.strip().casefold() for question in questions})
    chunk: list[str] = []
    size = 0
    for document in read_documents(parts(documents)) if prompts else ():
        if not document.metadata.get("held_out"):
            chunk.append(document.content.casefold())
            size += len(chunk[-1])
            if size >= CHARACTERS_PER_CHUNK:
                _search("\n".join(chunk), prompts)
                chunk, size = [], 0
    _search("\n".join(chunk), prompts)


def _search(text: str, prompts: Sequence[str]) -> None:
    leaked = next((prompt for prompt in prompts if prompt in text), None)
    if leaked is not None:
        raise ParakeetError(
            f"The held-out question {sanitise(leaked)!r} stands in a training document: an accuracy on it would "
            "measure memory. Take that text out of the sources, or give the synthetic source another seed."
        )
