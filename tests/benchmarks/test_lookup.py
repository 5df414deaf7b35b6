"""`python -m benchmarks.lookup` on a model of no time."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.lookup import main, repeating, unrelated

from .tiny import tiny_recipe


def test_each_text_is_said_with_and_without_drafts(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    options = ["--recipe", str(recipe), "--dtype", "fp32", "--tokens", "30", "--rounds", "2", "--threads", "1"]
    finished = CliRunner().invoke(main, options, catch_exceptions=False)
    *lines, last = finished.stdout.splitlines()
    result = json.loads(last)
    assert [(row["text"], row["dtype"]) for row in result["rows"]] == [
        ("repeats its prompt", "fp32"),
        ("never repeats", "fp32"),
    ]
    for row in result["rows"]:
        assert min(*row["tokens_per_second"], *row["cpu"]) > 0
        assert 0 <= row["accepted"] <= row["drafted"]
    assert result["rows"][1]["drafted"] == 0
    assert result["seconds_of_lookups"] > 0
    assert any(line.split()[:3] == ["never", "repeats", "fp32"] for line in lines)


def test_what_repeats_and_what_does_not() -> None:
    text = repeating(100)
    assert sum(a == b for a, b in zip(text[:100], text[100:], strict=True)) >= 95
    following: dict[int, int] = {}
    for token_id, after in zip(unrelated(1000), unrelated(1000)[1:], strict=False):
        assert following.get(token_id) != after
        following[token_id] = after
