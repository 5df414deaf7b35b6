"""What the data stages lack is reported first."""

from pathlib import Path
from typing import Any

import pytest

from parakeet.data.preflight import refuse_unmet_data
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": [{"name": "a", "path": "nowhere.txt"}]}, "Source a: nowhere.txt does not exist"),
        ({"decontamination": {"sets": [{"name": "t", "path": "nowhere.jsonl"}]}}, "Source t: nowhere.jsonl does not"),
        ({"clean": {"languages": ["english"]}}, "there is no language 'english'"),
        ({"executor": {"kind": "slurm", "slurm": {"partition": "cpu"}}}, "sbatch is not on this machine"),
    ],
)
def test_what_is_missing_is_reported_before_any_download(
    changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ParakeetError, match=words):
        refuse_unmet_data(Recipe.model_validate(load_recipe("demo").model_dump() | changes))


def test_complete_recipes_pass() -> None:
    refuse_unmet_data(load_recipe("demo"))
    refuse_unmet_data(load_recipe("parakeet-50gb"))
