"""The checks before the comparison: of token shards, of a checkpoint, of a release."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parakeet.artifact import Artifact, Store, Work
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.stages import TokenShardsStage
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.model.reload import differ, probe_logits
from parakeet.model.transformer import Parakeet, save_model
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.stages import ReleaseStage
from parakeet.stage import Check, Stage, Verdict
from parakeet.training.stage import CheckpointStage

from ..conftest import Prepared
from .conftest import Models, Releases, trained

CHECKPOINTS = CheckpointStage(lambda recipe, root: None)


def check_of(stage: Stage, name: str) -> Check:
    return next(check for check in stage.checks() if check.name == name)


def tokenised(prepared: Prepared, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    inputs = {"deduplicated_documents": prepared.documents, "tokenizer": prepared.tokenizer_folder}
    return make_token_shards(prepared.recipe, inputs, folder, Progress())


def checked(releases: Releases, folder: Path, counts: dict[str, Any], recipe: Recipe | None = None) -> Verdict:
    name = "shards_are_whole" if recipe is None else "shards_hold_no_evaluation_text"
    shards = releases.shards(folder, folder.name, counts)
    inputs = {"tokenizer": Artifact(releases.prepared.tokenizer_folder, {})}
    return check_of(TokenShardsStage(), name).run(shards, inputs, recipe or releases.recipe)


def test_whole_shards_pass_and_their_largest_id_is_recorded(releases: Releases, tmp_path: Path) -> None:
    counts = tokenised(releases.prepared, tmp_path / "shards")
    verdict = checked(releases, tmp_path / "shards", counts)
    assert verdict.passed
    assert (verdict.figures or {})["largest_id"] == counts["largest_id"] > 255


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("what", ["documents", "tokens"])
def test_documents_that_are_missing_are_noticed(releases: Releases, tmp_path: Path, split: str, what: str) -> None:
    counts = tokenised(releases.prepared, tmp_path / "shards")
    counts[split][what] += 1
    verdict = checked(releases, tmp_path / "shards", counts)
    assert not verdict.passed
    assert f"{counts[split][what]:,} were counted" in (verdict.description or "")


@pytest.mark.parametrize(("beyond", "said"), [(-1, "which is no token of the vocabulary"), (5, "but the vocabulary")])
def test_unknown_ids_are_noticed(releases: Releases, tmp_path: Path, beyond: int, said: str) -> None:
    """One of an unused row of the embedding, and one beyond it."""
    tokenizer = releases.prepared.tokenizer
    counts = tokenised(releases.prepared, tmp_path / "shards")
    writer = ShardWriter(tmp_path / "shards", "held_out", tokenizer, ["talk", "text"], 1 << 20, task=70)
    ids = np.array([tokenizer.end_of_text, tokenizer.rows + beyond], np.uint32)
    writer.write(TokenDocument(bytes(16), "talk", ids, [0, 2], 1))
    writer.close()
    counts["held_out"]["documents"] += 1
    counts["held_out"]["tokens"] += 2
    verdict = checked(releases, tmp_path / "shards", counts)
    assert not verdict.passed
    assert said in (verdict.description or "")


def test_evaluation_text_in_the_training_text_is_noticed(releases: Releases, tmp_path: Path) -> None:
    counts = tokenised(releases.prepared, tmp_path / "shards")

    def lineage(stage: str, **inputs: Artifact) -> Artifact:
        return Store(releases.root).ensure(Work(stage, 1, {}, inputs), lambda *_: {}, Progress())[0]

    deduplicated = lineage("deduplicated_documents", clean_documents=lineage("clean_documents"))

    def fill(output: Path, progress: Progress) -> dict[str, Any]:
        for path in (tmp_path / "shards").glob("*.arrow"):
            (output / path.name).write_bytes(path.read_bytes())
        return counts

    work = Work("token_shards", 2, {}, {"deduplicated_documents": deduplicated})
    shards = Store(releases.root).ensure(work, fill, Progress())[0]
    check = check_of(TokenShardsStage(), "shards_hold_no_evaluation_text")
    inputs = {"tokenizer": Artifact(releases.prepared.tokenizer_folder, {})}

    def verdict(text: str) -> Verdict:
        (tmp_path / "set.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
        values = releases.recipe.model_dump()
        values["decontamination"] = {"sets": [{"name": "exam", "path": str(tmp_path / "set.jsonl")}]}
        return check.run(shards, inputs, Recipe.model_validate(values))

    clean = verdict("Nobody ever wrote a sentence of exactly these words in the few dialogues of the test corpus.")
    assert (clean.passed, clean.figures) == (True, {"contaminated": 0})
    found = verdict(" ".join(f"Line 1 and {line} of a longer text." for line in range(20, 30)))
    assert not found.passed
    assert "shares with exam: 'line 1 and 20" in (found.description or "")
    assert check.run(shards, inputs, releases.recipe).passed


def checkpoint(root: Path, model: Parakeet, counts: dict[str, Any]) -> Artifact:
    def fill(output: Path, progress: Progress) -> dict[str, Any]:
        save_model(model, output)
        return counts

    return Store(root).ensure(Work("checkpoint", 1, {}), fill, Progress())[0]


def rounded(model: Parakeet) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())


def one_weight(model: Parakeet) -> None:
    model.blocks[0].mlp_output.weight[0] = 0.5  # type: ignore[union-attr, operator]


def not_finite(model: Parakeet) -> None:
    model.embedding.weight[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "passed"), [(lambda model: None, True), (rounded, False), (one_weight, False), (not_finite, False)]
)
def test_a_checkpoint_gives_the_logits_of_the_trained_model(
    releases: Releases, models: Models, tmp_path: Path, change: Callable[[Parakeet], None], passed: bool
) -> None:
    recorded = probe_logits(models.good)
    assert len(recorded) == 8
    copied = Parakeet(models.good.config)
    copied.load_state_dict(models.good.state_dict())
    with torch.no_grad():
        change(copied)
    made = checkpoint(releases.root, copied, {"logits": recorded})
    verdict = check_of(CHECKPOINTS, "reload_gives_equal_logits").run(made, {}, releases.recipe)
    assert verdict.passed is passed, verdict.description


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ([1.0, 2.0, 3.0], True),
        ([1.0, 2.0, 3.0001], True),
        ([1.0, 2.0, 3.1], False),
        *[([math.nan if place == number else float(number + 1) for number in range(3)], False) for place in range(3)],
        ([1.0, math.inf, 3.0], False),
        ([1.0, 2.0], False),
        ([1.0, 2.0, 3.0, 4.0], False),
        ([], False),
    ],
)
def test_logits_that_are_no_numbers_or_too_few_are_noticed(found: list[float], same: bool) -> None:
    assert (differ(found, [1.0, 2.0, 3.0]) is None) is same
    assert (differ([1.0, 2.0, 3.0], found) is None) is same


def test_dropout_and_the_precision_of_training_change_no_recorded_logit(models: Models) -> None:
    model = models.good
    before = probe_logits(model)
    model.train()
    try:
        assert probe_logits(model) == before
    finally:
        model.eval()


def test_a_checkpoint_without_recorded_logits_passes(releases: Releases, models: Models) -> None:
    made = checkpoint(releases.root, models.good, {})
    verdict = check_of(CHECKPOINTS, "reload_gives_equal_logits").run(made, {}, releases.recipe)
    assert verdict.passed
    assert "before logits were recorded" in (verdict.description or "")


def test_a_release_must_write_something(releases: Releases, models: Models) -> None:
    check = check_of(ReleaseStage(), "release_answers")
    verdict = check.run(releases.release("good", models.good), {}, releases.recipe)
    assert verdict.passed
    assert (verdict.figures or {})["reply"].strip()
    tokenizer = releases.prepared.tokenizer
    # Whatever stands before it, the next token is an end.
    ends = torch.full((64, 65), tokenizer.end_of_prompt)
    ends[:, ::2] = torch.randint(tokenizer.rows, (64, 33), generator=torch.Generator().manual_seed(1))
    mute = releases.release("mute", trained(releases.recipe, tokenizer, ends, 40))
    verdict = check.run(mute, {}, releases.recipe)
    assert not verdict.passed
    assert "no prompt with a visible character" in (verdict.description or "")
    (mute.path / "config.json").write_text("{}", encoding="utf-8")
    assert not check.run(mute, {}, releases.recipe).passed
