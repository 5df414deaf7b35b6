"""What the job `tidy` would remove, and removes only if it is told to."""

import json
import os
import time
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock

from assets_defs.resources import HOME_TAG, release_run_lock, run_lock
from parakeet.clean import Entry, leftovers, starts, why_keep_model
from parakeet.locking import is_held
from parakeet.recipe_file import load_recipe
from parakeet.release.history import FORCED, PROMOTED, REFUSED, ROLLED_BACK, Decision, record
from parakeet.release.listing import ListedModel
from parakeet.retention import removable
from parakeet.stages import use_recipe
from parakeet.training.job import JOB_FILE
from pipelines.tidy import old_runs, tidy, weekly_tidy

from ..released import add_artifact
from ..training.run_folders import STEPS, Folder
from ..training.run_folders import record as record_of_step

DAY = 24 * 3600


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    use_recipe(tmp_path, load_recipe("demo"))
    return tmp_path


def add_release(home: Path, name: str, action: str | None, recipe: str = "demo") -> Path:
    folder = home / "releases" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"0" * 1000)
    if action is not None:
        record(home, Decision(action, name, "", recipe))
    return folder


def add_training(home: Path, key: str, days: float, start: str = "", finished: bool = True) -> Path:
    folder = Folder(home, key)
    folder.train(*(record_of_step(step) for step in range(1, STEPS + 1 if finished else 3)))
    if finished:
        folder.event("finished", STEPS)
    folder.log.flush()
    job = json.loads((folder.path / JOB_FILE).read_text(encoding="utf-8"))
    job["recipe"]["training"]["start"] = start
    (folder.path / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
    for file in folder.path.iterdir():
        os.utime(file, (time.time() - days * DAY,) * 2)
    return folder.path


def test_the_last_refused_releases_of_each_recipe_stay_and_all_that_were_ever_promoted(home: Path) -> None:
    kept = [add_release(home, f"p{number}-0", action) for number, action in enumerate([PROMOTED, FORCED, ROLLED_BACK])]
    kept += [add_release(home, "undecided-0", None), add_release(home, "other-0", REFUSED, "other")]
    refused = [add_release(home, f"r{number}-0", REFUSED) for number in range(7)]
    # Refused first and promoted by hand later; refused again only because it was built again.
    for action in (PROMOTED, REFUSED):
        record(home, Decision(action, "r0-0", "", "demo"))
    entries = removable(home, 90, 5)
    assert [entry.path for entry in entries] == refused[1:2]
    assert entries[0].n_bytes == 1000
    assert removable(home, 90, 100) == []
    assert [entry.path.name for entry in removable(home, 90, 0)] == [*(f"r{n}-0" for n in range(1, 7)), "other-0"]
    assert all(folder.is_dir() for folder in (*kept, *refused))


def test_the_last_decision_counts_for_the_order(home: Path) -> None:
    first, second = (add_release(home, f"r{number}-0", REFUSED) for number in range(2))
    add_release(home, first.name, REFUSED)
    assert [entry.path for entry in removable(home, 90, 1)] == [second]


def test_the_run_deletes_only_if_it_is_told_to_and_says_what(home: Path) -> None:
    folders = [add_release(home, f"r{number}-0", REFUSED) for number in range(7)]
    with dg.DagsterInstance.ephemeral() as instance:

        def said(**config: object) -> list[str]:
            result = tidy.execute_in_process(run_config={"ops": {"remove_old": {"config": config}}}, instance=instance)
            run = instance.get_run_by_id(result.run_id)
            assert run is not None
            assert run.tags[HOME_TAG] == str(home)
            assert is_held(run_lock(home, result.run_id)), "a run that takes minutes would be called lost"
            release_run_lock(home, result.run_id)
            entries = instance.all_logs(result.run_id)
            return [entry.user_message for entry in entries if "emove" in entry.user_message and entry.level == 20]

        told = said()
        assert told[0] == f"Would remove {folders[0]} (release demo, 1000 B)."
        assert told[-1].startswith("Would remove 0 runs of the history and 2 folders, 2.0 KiB. To remove them, launch")
        assert all(folder.is_dir() for folder in folders)
        assert said(delete=True)[-1] == "Removed 0 runs of the history and 2 folders, 2.0 KiB."
        assert [folder.is_dir() for folder in folders] == [False] * 2 + [True] * 5
        assert said(delete=True)[-1] == "Removed 0 runs of the history and 0 folders, 0 B."
    request = weekly_tidy(dg.build_schedule_context())
    assert isinstance(request, dg.RunRequest)
    assert request.run_config["ops"]["remove_old"]["config"] == {"delete": True}


def test_while_something_is_built_the_tick_is_skipped_in_words(home: Path) -> None:
    (home / ".locks").mkdir(exist_ok=True)
    with FileLock(home / ".locks" / "checkpoint.lock"):
        skipped = weekly_tidy(dg.build_schedule_context())
    assert isinstance(skipped, dg.SkipReason)
    assert "Something is being built (checkpoint)" in (skipped.skip_message or "")


def add_checkpoint(home: Path, run: Path) -> Path:
    checkpoint = home / "checkpoint" / f"{run.name}-0"
    add_artifact(checkpoint, "checkpoint", f"weights {run.name}", {"run": run.name})
    return checkpoint


def test_a_finished_training_without_a_release_is_unfinished_work(home: Path) -> None:
    judged, released, alone, never_collected = [add_training(home, letter * 16, 100) for letter in "abcd"]
    of_judged, of_released, of_alone = (add_checkpoint(home, run) for run in (judged, released, alone))
    add_artifact(home / "evaluation" / "eeee-0", "evaluation", "figures", {}, {"checkpoint": of_judged})
    # Its release was refused, and removed since.
    add_artifact(home / "comparison" / "cccc-0", "comparison", "", {}, {"evaluation": home / "evaluation" / "eeee-0"})
    add_artifact(home / "releases" / "ffff-0", "release", "", {"name": "demo"}, {"checkpoint": of_released})
    found = leftovers(home)
    assert {entry.path for entry in found.unfinished} == {alone, of_alone, never_collected}
    assert {judged, of_judged, released, of_released} <= {entry.path for entry in found.unreferenced}
    assert [entry.path for entry in removable(home, 90, 5)] == [judged, released]
    everything = leftovers(home, with_unfinished=True)
    assert {alone, of_alone} <= {entry.path for entry in everything.unfinished}


def test_a_release_that_the_recipe_in_use_starts_from_stays(home: Path) -> None:
    folders = [add_release(home, f"r{number}-0", REFUSED) for number in range(2)]
    recipe = load_recipe("demo")
    training = recipe.training.model_copy(update={"start": str(folders[0])})
    started = recipe.model_copy(update={"training": training})
    assert starts(home, [started]) == {("releases", "r0-0")}
    add_training(home, "e" * 16, 1, start=str(folders[1]), finished=False)
    assert removable(home, 90, 0) == [Entry(folders[0], 1000, "release", "demo")]
    (home / "recipe.yaml").write_text(started.to_yaml(), encoding="utf-8")
    (reason,) = why_keep_model(home, ListedModel(folders[0], "x", 1, {}, "", False))
    assert "The recipe in use, demo, or an unfinished training run starts from it" in reason


def test_old_training_runs_go_unless_something_starts_from_them(home: Path) -> None:
    old, named = add_training(home, "a" * 16, 100), add_training(home, "b" * 16, 100)
    for run in (old, named):
        name = f"{run.name}-0"
        add_artifact(
            home / "releases" / name, "release", "", {"name": "demo"}, {"checkpoint": add_checkpoint(home, run)}
        )
    add_training(home, "c" * 16, 10)
    add_training(home, "d" * 16, 200, start=str(named / "step-00000100"), finished=False)
    assert [entry.path for entry in removable(home, 90, 5)] == [old]


def test_runs_of_the_history_go_when_they_are_old_and_hold_no_last_materialization(home: Path) -> None:
    @dg.asset
    def note(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        context.add_asset_metadata({"made": context.run.tags["made"] == "yes"})
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:

        def run(made: str, home_name: str = str(home)) -> str:
            tags = {HOME_TAG: home_name, "made": made}
            return dg.materialize([note], instance=instance, tags=tags).run_id

        first, making, found, last = run("yes"), run("yes"), run("no"), run("no")
        assert list(old_runs(instance, str(home), 90)) == []
        assert {old.run_id for old in old_runs(instance, str(home), -1)} == {first, found}
        run("yes", "/elsewhere")

        @dg.op
        def other() -> None: ...

        @dg.job(name="tidy")
        def of_another_project() -> None:
            other()

        of_another_project.execute_in_process(instance=instance)
        instance.delete_run(first)
        assert {old.run_id for old in old_runs(instance, str(home), -1)} == {making, found, last}
        assert instance.get_run_by_id(making) is not None
