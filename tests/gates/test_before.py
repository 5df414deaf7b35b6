"""No release is promoted that fails a check before the gates, whichever way it comes."""

from typing import Any

import pytest
import torch
from click.testing import CliRunner

from parakeet.artifact import Artifact
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.judgement import build_of, whole_judgement
from parakeet.model.reload import probe_logits
from parakeet.release.history import decisions
from parakeet.release.promotion import incumbent, promote, promote_by_hand
from parakeet.stages import Build

from .conftest import Models, Releases, failed, trained
from .test_checks import checkpoint, tokenised


def build_with(releases: Releases, release: Artifact, **given: Artifact) -> Build:
    """The finished build of a release; stages that nothing is asked of stand for each other."""
    tokenizer = Artifact(releases.prepared.tokenizer_folder, {})
    others = dict.fromkeys(Build(releases.root, releases.recipe).stages, release)
    return Build(releases.root, releases.recipe, {**others, "tokenizer": tokenizer, **given})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("mute", "no prompt with a visible character"),
        ("loss rose", "The loss went from 2.000 to 3.000"),
        ("other logits", "A logit differs by"),
        ("a document is missing", "were counted"),
    ],
)
def test_a_failed_check_before_the_comparison_refuses(
    releases: Releases, models: Models, tmp_path: Any, fault: str, said: str
) -> None:
    tokenizer, model = releases.prepared.tokenizer, models.good
    if fault == "mute":
        ends = torch.full((64, 65), tokenizer.end_of_prompt)
        ends[:, ::2] = torch.randint(tokenizer.rows, (64, 33), generator=torch.Generator().manual_seed(1))
        model = trained(releases.recipe, tokenizer, ends, 40)
    counts = tokenised(releases.prepared, tmp_path / "shards")
    counts["train"]["documents"] += fault == "a document is missing"
    logits = [one + (fault == "other logits") for one in probe_logits(model)]
    losses = {"first_loss": 2.0, "final_loss": 3.0 if fault == "loss rose" else 1.0}
    made = checkpoint(releases.root, model, {"logits": logits, **losses})
    release = releases.release("one", model)
    compared = releases.comparison(release)
    assert failed(compared) == []
    shards = releases.shards(tmp_path / "shards", "whole", counts)
    build = build_with(releases, release, checkpoint=made, token_shards=shards)
    for _ in range(2):
        judgement = whole_judgement(build, compared)
        if not fault:
            assert promote(releases.root, release, judgement).is_promoted
            continue
        with pytest.raises(ParakeetError, match=said):
            promote(releases.root, release, judgement)
        assert incumbent(releases.root, "tiny") is None
    found = decisions(releases.root)[0]
    assert [decision.action for decision in found] == ["refused" if fault else "promoted"]
    if fault:  # by hand it is, and the checks do not take it back
        assert said in found[0].reasons[0]
        promote_by_hand(releases.root, release, "I want it.")
        assert promote(releases.root, release, whole_judgement(build, compared)).is_promoted


def test_the_command_runs_the_checks_too(releases: Releases, models: Models) -> None:
    release = releases.release("one", models.good)
    assert failed(releases.comparison(release)) == []
    found = build_of(releases.root, release)
    assert (found.artifact("release"), found.recipe) == (release, releases.recipe)
    assert found.artifact("token_shards").content == releases.made["token_shards"].content
    run = CliRunner().invoke(main, ["release", "promote", release.path.name], env={"PARAKEET_HOME": str(releases.root)})
    # Its checkpoint is gone.
    assert run.exit_code == 1
    assert "cannot be run again" in run.output
    assert "--force REASON" in run.output
    assert incumbent(releases.root, "tiny") is None
