"""A user's own small text: what a build says, and that what it says is enough. Only the data stages are made."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from parakeet.artifact import Artifact
from parakeet.cli.settings import chosen_recipe
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build


def make(root: Path, recipe: Recipe, *stages: str) -> Artifact:
    build = Build(root, recipe)
    for stage in stages:
        artifact, _ = build.ensure(stage, Progress(), launch=_no_training)
    return artifact


def _no_training(command: Sequence[str]) -> str:
    raise AssertionError("nothing is trained here")


ALONE = ["executor.workers=1", "clean.repetition=null"]
DATA = ("documents", "clean_documents", "deduplicated_documents", "tokenizer", "token_shards")


def long_text(n_bytes: int) -> str:
    return "".join(f"The year {n} brought {n * 7919 % 997} ships and {n * n % 991} birds.\n\n" for n in range(999))[
        :n_bytes
    ]


def dialogues(number: int) -> str:
    pairs = [(f"What is {n} times {n + 3}?", f"It is {n * (n + 3)}, as always.") for n in range(number)]
    return "".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in pairs)


@pytest.mark.parametrize(
    ("name", "text"), [("notes.txt", long_text(20_000)), ("talks.jsonl", dialogues(60)), ("page.md", long_text(2500))]
)
def test_a_build_says_which_share_is_enough(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")

    def with_share(share: float | None) -> Artifact:
        return make(tmp_path, chosen_recipe("demo", [str(tmp_path / name)], ALONE, share, None), *DATA)

    with pytest.raises(ParakeetError, match="too little to measure a model") as refusal:
        with_share(None)
    said = [int(share) for share in re.findall(r"--held-out (\d+)", str(refusal.value))]
    *enough, nothing = said
    assert nothing == 0
    assert with_share(0.0).counts["held_out"]["documents"] == 0
    if name == "page.md":
        assert enough == []  # one document cannot be both
        return
    (share,) = enough
    counts = with_share(share / 100).counts
    assert counts["held_out"]["bytes"] >= 1000
    assert counts["train"]["documents"] > 0


def test_text_that_is_held_out_whole_is_one_message(tmp_path: Path) -> None:
    # At least one of these texts has an id in the lower half.
    for number in range(20):
        (tmp_path / "page.txt").write_text(f"Page {number} has these words and no others. " * 50, encoding="utf-8")
        recipe = chosen_recipe("demo", [str(tmp_path / "page.txt")], ALONE, 0.5, None)
        documents = make(tmp_path, recipe, *DATA[:3])
        if documents.counts["held_out"]:
            break
    with pytest.raises(ParakeetError, match="All of the text is held out, and none is left to train on"):
        make(tmp_path, recipe, *DATA[3:])


def test_the_store_of_an_earlier_parakeet_keeps_its_name(tmp_path: Path) -> None:
    """It called every model of --data after the shipped recipe. A new name would make data card and release again."""
    data = tmp_path / "talks.jsonl"
    data.write_text(dialogues(700), encoding="utf-8")
    chosen = chosen_recipe("demo", [str(data)], ALONE, 0.05, None, tmp_path)
    assert chosen.name == "talks"
    shipped = load_recipe("demo")
    earlier = chosen.model_copy(update={"name": shipped.name, "description": shipped.description})
    make(tmp_path, earlier, *DATA, "packing_plan", "data_card")
    assert chosen_recipe("demo", [str(data)], ALONE, 0.05, None, tmp_path) == earlier
    # A change makes another corpus, and that has the new name.
    assert chosen_recipe("demo", [str(data)], ALONE, 0.05, 0.5, tmp_path).name == "talks"
    data.write_text(dialogues(701), encoding="utf-8")
    assert chosen_recipe("demo", [str(data)], ALONE, 0.05, None, tmp_path).name == "talks"
    # A plan does not look: it would have to read all the text.
    data.write_text(dialogues(700), encoding="utf-8")
    assert chosen_recipe("demo", [str(data)], ALONE, 0.05, None).name == "talks"
