"""What the tests of the stage `documents` share: a recipe, the stage run on it, and what it wrote."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parakeet.data.documents import Document, parts, read_documents
from parakeet.data.reading.collect import collect_documents
from parakeet.progress import Progress
from parakeet.recipe import Evaluation, Executor, ModelSettings, Recipe, Training
from parakeet.recipe_sources import Source


def recipe_of(*sources: Source, limit: float = 1.0, workers: int = 1) -> Recipe:
    return Recipe(
        name="test",
        sources=list(sources),
        limit=limit,
        model=ModelSettings(layers=2, heads=2, width=16, context=256),
        training=Training(tokens=1, batch_tokens=256, learning_rate=0.1),
        evaluation=Evaluation(questions_per_task=3),
        executor=Executor(workers=workers),
    )


def collect(
    output: Path, recipe: Recipe, inputs: dict[str, Path] | None = None, said: io.StringIO | None = None
) -> dict[str, Any]:
    output.mkdir(exist_ok=True)
    return collect_documents(recipe, inputs or {}, output, Progress(said or io.StringIO()))


def documents(output: Path) -> list[Document]:
    return list(read_documents(parts(output)))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def jsonl(path: Path, records: Sequence[Any]) -> str:
    """Write a file of these records, a string as {"text": …}, and return its path."""
    lines = ({"text": record} if isinstance(record, str) else record for record in records)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)
