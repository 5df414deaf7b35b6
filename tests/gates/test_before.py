"""No release is promoted that fails a check before the gates, whichever way it comes."""

import logging
import threading
from typing import Any

import dagster as dg
import pytest
import torch
from click.testing import CliRunner

from assets_defs.checks import make_checks
from assets_defs.resources import ParakeetHome
from parakeet.artifact import Artifact
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.judgement import build_of, whole_judgement
from parakeet.model.reload import probe_logits
from parakeet.recipe import Notify
from parakeet.release.history import decisions
from parakeet.release.pointers import incumbent
from parakeet.release.promotion import promote, promote_by_hand
from parakeet.stages import Build, note_build

from ..test_notify import Hook
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


def test_the_command_counts_no_judgement_by_other_gates_than_the_present_ones(
    releases: Releases, models: Models
) -> None:
    releases.promoted("one", models.good)
    worse = releases.release("two", models.few_steps)
    loose = releases.recipe.model_copy(update={"gates": None})
    assert failed(releases.comparison(worse, loose)) == []

    def promotion() -> str:
        environment = {"PARAKEET_HOME": str(releases.root)}
        run = CliRunner().invoke(main, ["release", "promote", worse.path.name], env=environment)
        assert run.exit_code == 1
        return run.output

    note_build(releases.root, releases.recipe)
    assert "by the gates that the recipe has now" in promotion()
    note_build(releases.root, loose)
    assert "cannot be run again" in promotion()  # its checkpoint is gone, which is looked for later
    note_build(releases.root, releases.recipe)
    assert failed(releases.comparison(worse)) != []
    assert "cannot be run again" in promotion()


def test_a_refusal_by_a_check_of_a_release_is_told_and_is_in_the_log_of_the_run(
    releases: Releases, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster runs a check after the asset, and then skips what would tell of the refusal."""
    monkeypatch.setenv("PARAKEET_HOME", str(releases.root))
    release = releases.release("one", models.good)
    (release.path / "evaluation.json").write_text("{}", encoding="utf-8")
    hook = Hook()
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    recipe = releases.recipe.model_copy(update={"notify": Notify(url=hook.address("taken"))})
    checks = [check for check in make_checks(recipe) if check.check_key.name == "release_verifies"]
    job = dg.define_asset_job("judge", selection=dg.AssetSelection.all_asset_checks())
    given = dict.fromkeys(Build(releases.root, recipe).stages, release)
    resources = {"parakeet_home": ParakeetHome(recipe, given)}
    defs = dg.Definitions(asset_checks=checks, jobs=[job], resources=resources)
    with dg.DagsterInstance.ephemeral() as instance:
        run = defs.resolve_job_def("judge").execute_in_process(instance=instance, raise_on_error=False)
        said = [entry.user_message for entry in instance.all_logs(run.run_id) if entry.level == logging.ERROR]
    hook.shutdown()
    (decision,) = decisions(releases.root)[0]
    assert [(notice["event"], notice["release"]) for notice in hook.notices] == [("refused", release.path.name)]
    assert decision.reasons[0] in hook.notices[0]["text"]
    assert said[0] == f"release_verifies: {decision.reasons[0]}"
