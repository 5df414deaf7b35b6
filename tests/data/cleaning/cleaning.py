"""What the tests of cleaning share: a recipe, documents, and the stage run on them."""

import io
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.cleaning.clean import clean_documents
from parakeet.data.documents import Document
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ..document_parts import write_parts

PROSE = (
    "The lighthouse keeper woke before dawn, as he had for thirty years, and climbed the narrow iron stair to trim "
    "the lamp. Below him the grey sea moved without hurry against the rocks, and a single trawler was coming home "
    "late from the banks with gulls behind it. He wrote the hour in his book, noted the wind, and put the kettle on."
)


def recipe(workers: int = 1, sets: list[dict[str, Any]] | None = None, **clean: Any) -> Recipe:
    """One worker works in this process: only the tests about workers start others."""
    return Recipe.model_validate(
        {
            "name": "test",
            "sources": [{"name": "a", "path": "a.txt"}, {"name": "b", "path": "b.txt"}],
            "clean": clean,
            "decontamination": {"sets": sets or []},
            "executor": {"workers": workers},
            "packing": {"sequence_length": 64},
            "model": {"layers": 2, "heads": 2, "width": 16, "context": 64},
            "training": {"tokens": 1000, "batch_tokens": 64, "learning_rate": 1e-3},
        }
    )


def plain(text: str, source: str = "a", **metadata: Any) -> Document:
    return Document(source, "CC0-1.0", (Turn("text", text),), metadata)


def chat(*contents: str) -> Document:
    roles = ("Human", "Assistant")
    return Document("a", "CC0-1.0", tuple(Turn(roles[n % 2], text) for n, text in enumerate(contents)))


def clean(tmp_path: Path, *groups: list[Document], name: str = "clean", **values: Any) -> tuple[Path, dict[str, Any]]:
    """The folder that the stage wrote from parts of these documents, and its counts."""
    documents = write_parts(tmp_path / f"{name}-input", *groups)
    output = tmp_path / name
    output.mkdir()
    return output, clean_documents(recipe(**values), {"documents": documents}, output, Progress(io.StringIO()))


def written(output: Path) -> dict[str, bytes]:
    """What the stage leaves to the store, without its scratch."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.name != "work"}
