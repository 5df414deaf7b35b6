"""What a home knows of its studies, and what Dagster shows of them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from assets_defs.studies import planned_run
from parakeet.cli import main
from parakeet.cli.study_settings import chosen_study
from parakeet.errors import ParakeetError
from parakeet.locking import exclusive
from parakeet.progress import Progress
from parakeet.recipe_changes import changed
from parakeet.recipe_file import load_recipe
from parakeet.studies.records import note_study, noted_study, record_file
from parakeet.studies.running import default_workers, run_study
from parakeet.studies.state import claims, lock_file, note_failure, states
from parakeet.studies.status import render_studies, studies_document
from parakeet.studies.study import Study, make_study
from pipelines.studies import study_definitions

OWN = """
title: Does it work?
question: Two widths.
recipe: own-text
measures: [bits_per_byte]
settings: {training.threads: 1}
seeds: [1]
axes: {width: {16: {model.width: 16}, 32: {model.width: 32}}}
arms: {widths: {axes: [width]}}
scales: {smoke: {}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("16:", '"16":').replace("32:", '"32":'), encoding="utf-8")
    return make_study(str(path), "smoke")


def finish(root: Path, study: Study, name: str) -> None:
    """A record as `make_run` writes it."""
    run = study.run_named(name)
    file = record_file(root, study, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    training = {"run": "0", "parameters": 1, "tokens": 1, "final_loss": 2.0, "seconds": 60.0}
    file.write_text(json.dumps({"key": study.key(run), "checkpoint": "c" * 64, "training": training}), encoding="utf-8")


def test_status_tells_finished_running_failed_and_missing_runs(home: Path, study: Study) -> None:
    note_study(home, study)
    assert [one.state for one in states(home, study)] == ["missing", "missing"]
    first, second = study.runs()
    finish(home, study, first.name)
    note_failure(home, study, second, "The disk is full.")
    (document,) = studies_document(home, "own", None)["studies"]
    assert (document["finished"], document["failed"], document["missing"]) == (1, 1, 0)
    shown = CliRunner().invoke(main, ["study", "status"]).output
    assert "1 of 2 runs finished, 1 failed, 1 min of training" in shown
    assert f"failed: {second.name}: The disk is full." in shown
    assert "go on with: parakeet study run own --scale smoke" in shown
    assert "own, scale smoke: 1 of 2 runs finished, 1 failed" in CliRunner().invoke(main, ["status"]).output
    lock = lock_file(home, study, second)
    lock.parent.mkdir(parents=True)
    with exclusive(lock, "", Progress()):
        (document,) = studies_document(home, None, "smoke")["studies"]
        assert (document["running"], document["failed"], document["under_way"]) == (1, 0, [second.name])
    finish(home, study, second.name)
    assert "complete" in CliRunner().invoke(main, ["study", "status", "own"]).output


def test_status_of_a_study_that_was_never_begun_says_how_to_begin_it(home: Path) -> None:
    assert "No study was begun" in CliRunner().invoke(main, ["study", "status"]).output
    result = CliRunner().invoke(main, ["study", "status", "size", "--scale", "cpu"])
    assert result.exit_code == 1
    assert "never begun at scale cpu" in result.output
    assert "parakeet study run size --scale cpu" in result.output


def test_status_of_a_name_that_is_no_study_lists_those_that_are(home: Path, study: Study) -> None:
    note_study(home, study)
    result = CliRunner().invoke(main, ["study", "status", "widht"])
    assert result.exit_code == 1
    assert "There is no study 'widht'. Give a file, or one of: size, " in result.output
    assert result.output.rstrip().endswith(", own.")


def test_status_says_a_reason_once_and_a_run_that_is_tried_again_has_not_failed(home: Path, study: Study) -> None:
    note_study(home, study)
    for run in study.runs():
        note_failure(home, study, run, "No text.")
    assert "  failed: widths.16.s1 and 1 more: No text.\n" in render_studies(studies_document(home, None, None))
    assert run_study(home, study, 1, [sys.executable, "-c", ""], Progress()) == 1
    assert all(state.reason.startswith("Its process ended early") for state in states(home, study))


def test_a_study_that_cannot_be_read_hides_no_other(home: Path, study: Study) -> None:
    note_study(home, study)
    damaged = home / "studies" / "size" / "cpu"
    damaged.mkdir(parents=True)
    for name in ("study.yaml", "recipe.yaml"):
        (damaged / name).write_text("title: [", encoding="utf-8")
    shown = CliRunner().invoke(main, ["study", "status"]).output
    assert "size, scale cpu: " in shown
    assert "0 of 2 runs finished" in shown
    with pytest.raises(ParakeetError, match="cannot be read"):
        claims(home)  # what it needs is not known: nothing may be removed


def test_another_study_or_text_is_refused_while_a_run_is_made(home: Path, study: Study, tmp_path: Path) -> None:
    note_study(home, study)
    lock = lock_file(home, study, study.runs()[0])
    lock.parent.mkdir(parents=True)
    path = tmp_path / "own.yaml"
    command = ["study", "run", str(path), "--scale", "smoke"]
    with exclusive(lock, "", Progress()):
        other_settings = CliRunner().invoke(main, [*command, "--set", "model.layers=2"])
        path.write_text(path.read_text(encoding="utf-8").replace("seeds: [1]", "seeds: [2]"), encoding="utf-8")
        other_file = CliRunner().invoke(main, command)
    for result in (other_settings, other_file):
        assert result.exit_code == 1
        assert "is being run at scale smoke with other text or settings" in result.output
        assert "give the same file, --data and --set" in result.output


def test_a_study_goes_on_with_its_noted_settings_until_it_names_another_recipe(
    home: Path, study: Study, tmp_path: Path
) -> None:
    begun = changed(study.base, ["model.context=512"])
    note_study(home, replace(study, base=begun))
    path = tmp_path / "own.yaml"
    assert chosen_study(str(path), "smoke", (), (), home).base == begun
    path.write_text(path.read_text(encoding="utf-8").replace("own-text", "study"), encoding="utf-8")
    assert chosen_study(str(path), "smoke", (), (), home).base == load_recipe("study")


def test_text_that_is_not_there_is_refused_and_not_noted(home: Path, study: Study, tmp_path: Path) -> None:
    note_study(home, study)
    command = ["study", "run", str(tmp_path / "own.yaml"), "--scale", "smoke", "--data", str(tmp_path / "boks")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "boks does not exist" in result.output
    noted = noted_study(home, "own", "smoke")
    assert noted is not None
    assert noted.base == study.base


def test_as_many_runs_side_by_side_as_cores_hold(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = default_workers(study.runs())
    recipe = changed(study.base, ["training.device=cpu"])
    base = Study(study.name, study.file, study.scale_name, recipe)
    assert default_workers(base.runs()) >= cores >= 1
    free = study.file.model_copy(update={"settings": {}})
    assert default_workers(Study(study.name, free, study.scale_name, load_recipe("own-text")).runs()) == 1


def test_dagster_has_a_job_and_an_asset_for_each_study_and_a_partition_for_each_run(home: Path, study: Study) -> None:
    note_study(home, study)
    found = study_definitions(home)
    names = {spec.key.to_user_string(): spec for spec in found.assets}
    assert {"studies/size", "studies/saturation", "studies/memorisation", "studies/own"} <= names.keys()
    definition = names["studies/own"].partitions_def
    assert definition is not None
    assert definition.get_partition_keys() == ["smoke.widths.16.s1", "smoke.widths.32.s1"]
    jobs = {job.name: job for job in found.jobs}
    assert jobs["study_own"].partitions_def == definition
    assert {node.definition.pool for node in jobs["study_own"].graph.nodes} == {"studies"}  # type: ignore[attr-defined]
    shipped = make_study("size", "smoke")
    assert {f"smoke.{run.name}" for run in shipped.runs()} <= set(
        names["studies/size"].partitions_def.get_partition_keys()  # type: ignore[union-attr]
    )
    # None can be executed by itself: *Materialize all* would ask for partitions.
    graph = dg.Definitions(assets=found.assets).get_repository_def().asset_graph
    assert not graph.materializable_asset_keys


def test_a_run_in_dagster_has_the_recipe_that_the_shell_began_it_with(home: Path) -> None:
    shipped = make_study("size", "smoke")
    assert planned_run(home, "size", f"smoke.{shipped.runs()[0].name}")[0] == shipped
    base = changed(shipped.base, ["model.context=512"])
    note_study(home, make_study("size", "smoke", base))
    study, run = planned_run(home, "size", f"smoke.{shipped.runs()[0].name}")
    assert (study.base, run.recipe.model.context) == (base, 512)
    with pytest.raises(ParakeetError, match="has no run"):
        planned_run(home, "size", "smoke.nothing.s1")
