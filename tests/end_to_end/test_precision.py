"""Held-out bits per byte of a built model, by precision."""

import json
import shutil
from pathlib import Path

import pytest

from parakeet.benchmarks.precision import PRECISIONS, bits_per_byte_by_precision
from parakeet.errors import ParakeetError

pytestmark = pytest.mark.slow


def test_a_built_model_is_measured_in_what_it_goes_into(built: tuple[Path, Path, bytes]) -> None:
    home, _, _ = built
    found = bits_per_byte_by_precision(home)
    bits = {name: quality for name, quality in found.items() if quality is not None}
    assert bits.keys() == PRECISIONS.keys()
    for name, quality in bits.items():
        most = 0.02 if name.startswith("int4") else 0.005
        assert quality.prompts == pytest.approx(bits["fp32"].prompts, rel=most), name
        assert quality.steps == pytest.approx(bits["fp32"].steps, rel=most), name
    evaluation = json.loads((home / "releases" / "latest" / "evaluation.json").read_text(encoding="utf-8"))
    by_source = [source["model"] for source in evaluation["bits_per_byte"].values() if source]
    # The evaluation takes every source by itself, and cuts long documents elsewhere.
    assert len(by_source) == 2
    assert 0.95 * min(by_source) < bits["fp32"].prompts < 1.05 * max(by_source)


def test_a_recipe_whose_source_is_gone_is_one_message(built: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    home, recipe, _ = built
    story = str(recipe.parent / "story.txt")
    active = (home / "recipe.yaml").read_text(encoding="utf-8")
    assert story in active
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    (tmp_path / "home" / "recipe.yaml").write_text(active.replace(story, str(tmp_path / "gone.txt")), encoding="utf-8")
    (tmp_path / "home" / ".last_build.yaml").unlink(missing_ok=True)
    with pytest.raises(ParakeetError, match=r"gone\.txt does not exist"):
        bits_per_byte_by_precision(tmp_path / "home")
