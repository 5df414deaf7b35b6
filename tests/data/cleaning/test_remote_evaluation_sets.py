"""Evaluation sets that are fetched: stages of their own, and whole whatever the limit is."""

import json
from pathlib import Path
from typing import Any

import pytest

from parakeet.data.cleaning.decontaminate import build_index
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import stages_of

SET = {"name": "tested", "kind": "hub", "dataset": "me/tested", "files": ["test-*.parquet"]}


def recipe(*sets: dict[str, Any], limit: float = 1.0) -> Recipe:
    values = load_recipe("demo").model_dump() | {"decontamination": {"sets": list(sets)}, "limit": limit}
    return Recipe.model_validate(values)


def test_a_set_is_fetched_by_a_stage_that_cleaning_waits_for() -> None:
    chosen = recipe(SET, limit=0.001)
    stages = {stage.name: stage for stage in stages_of(chosen)}
    assert [name for name in stages if name.startswith("source_files/")] == ["source_files/tested"]
    assert stages["documents"].inputs(chosen) == ()
    assert stages["clean_documents"].inputs(chosen) == ("documents", "source_files/tested")


def test_of_a_set_all_is_looked_for_whatever_the_limit() -> None:
    chosen = recipe(SET, limit=0.001)
    trained = {**SET, "name": "trained"}
    with_source = Recipe.model_validate(chosen.model_dump() | {"sources": [trained]})
    limits = {stage.name: stage.settings(with_source).get("limit") for stage in stages_of(with_source)}
    assert limits["source_files/tested"] == 1.0
    assert limits["source_files/trained"] == 0.001


def test_what_was_fetched_is_looked_for(tmp_path: Path) -> None:
    question = "How many apples does a man have who bought four bags of nine apples each and ate two?"
    (tmp_path / "test-0.jsonl").write_text(json.dumps({"question": question, "answer": "34"}) + "\n", encoding="utf-8")
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    index = build_index(recipe(SET).decontamination, {"source_files/tested": tmp_path}, Progress())
    hits = index.find(f"I heard this one: {question.upper()} Nobody knew.")
    assert hits is not None
    assert list(hits.sets) == ["tested"]
    assert index.find("How many apples does a man have?") is None


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({**SET, "weight": 2}, "evaluation set tested has weight: it is never trained on"),
        ({**SET, "name": "synthetic"}, "evaluation set synthetic has the name of another one or of a source"),
    ],
)
def test_what_means_nothing_is_refused(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(chosen)


def test_an_unknown_key_of_a_set_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: demo\ndecontamination:\n  sets:\n    - name: tested\n      kind: hub\n      dataset: me/tested\n"
        "      files: [a]\n      revison: main\n",
        encoding="utf-8",
    )
    with pytest.raises(
        ParakeetError, match=r"line 8: unknown key decontamination\.sets\.0\.revison: did you mean revision"
    ):
        load_recipe(str(path))
