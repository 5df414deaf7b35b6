"""What a vocabulary is trained on."""

import random
from pathlib import Path

import pytest

from parakeet.conversation import Turn
from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress

from ...conftest import Prepared


def vocabulary(prepared: Prepared, documents: list[Document], folder: Path) -> bytes:
    folder.mkdir()
    with DocumentWriter(folder / "documents") as writer:
        for document in documents:
            writer.write(document)
    make_tokenizer(prepared.recipe, {"deduplicated_documents": folder / "documents"}, folder, Progress())
    return (folder / "vocabulary.tiktoken").read_bytes()


def test_of_much_text_the_documents_with_the_first_ids_are_read(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    documents = [
        Document("text", "MIT", (Turn("text", "".join(draw.choices("abcdefgh ", k=400))),), split="train")
        for _ in range(200)
    ]
    whole = vocabulary(prepared, documents, tmp_path / "whole")
    monkeypatch.setattr("parakeet.data.tokens.vocabulary.TRAINING_BYTES", 20_000)
    limited = vocabulary(prepared, documents, tmp_path / "limited")
    assert limited != whole


def test_held_out_text_has_no_part_in_it(prepared: Prepared, tmp_path: Path) -> None:
    texts = {"train": "of the one and the other", "held_out": "zzzz zzzz zzzz"}
    documents = [
        Document("text", "MIT", (Turn("text", f"{text} {number}"),), split=split)
        for split, text in texts.items()
        for number in range(50)
    ]
    without = [document for document in documents if document.split == "train"]
    assert vocabulary(prepared, documents, tmp_path / "a") == vocabulary(prepared, without, tmp_path / "b")
