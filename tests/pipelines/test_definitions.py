"""The graph as Dagster sees it."""

from pathlib import Path

import dagster as dg
import pytest

from parakeet.recipe_file import load_recipe
from parakeet.stages import STAGES, asset_names, use_recipe
from pipelines.definitions import make_definitions
from pipelines.schedules import weekly_retraining
from pipelines.sensors import new_source_files

DEMO = load_recipe("demo")
defs = make_definitions(DEMO)


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_every_stage_is_an_asset_with_all_that_a_reader_needs() -> None:
    graph = defs.get_repository_def().asset_graph
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(asset_names(DEMO))
    for stage in STAGES:
        node = graph.get(dg.AssetKey(stage.name))
        assert node.description
        assert node.group_name == stage.group
        assert node.owners
        assert node.kinds
        assert node.code_version
        assert {parent.to_user_string() for parent in node.parent_keys} == {*stage.inputs(DEMO), *stage.after(DEMO)}


def test_training_is_in_a_pool_of_its_own() -> None:
    pools = {
        key.to_user_string(): asset.op.pool
        for asset in defs.assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
    }
    assert [name for name, pool in pools.items() if pool] == ["checkpoint"]


def test_shards_checkpoint_evaluation_and_release_are_checked() -> None:
    keys = defs.get_repository_def().asset_graph.asset_check_keys
    assert {key.asset_key.to_user_string() for key in keys} == {
        *("token_shards", "checkpoint", "evaluation", "release", "comparison"),
        "original_checkpoint",
    }


def test_jobs_schedule_and_sensors() -> None:
    repository = defs.get_repository_def()
    assert {"prepare_data", "train_model", "full_build", "import_original"} <= set(repository.job_names)
    schedule = repository.get_schedule_def("weekly_retraining")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    for name in ("interrupted_runs", "recipe_in_use"):
        assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING
    assert repository.get_sensor_def("new_source_files").default_status is dg.DefaultSensorStatus.STOPPED


def recipe_of(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(home))
    path = home / "mine.yaml"
    home.mkdir(exist_ok=True)
    path.write_text(f"extends: demo\nname: mine\nsources: [{{name: a, path: {folder}}}]\n", encoding="utf-8")
    use_recipe(home, load_recipe(str(path)))


def test_the_sensor_notices_new_and_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("one", encoding="utf-8")
    recipe_of(folder, tmp_path / "home", monkeypatch)
    first = new_source_files(dg.build_sensor_context())
    assert isinstance(first, dg.SensorResult)
    assert "Watching 1 files" in str(first.skip_reason)
    quiet = new_source_files(dg.build_sensor_context(cursor=first.cursor))
    assert isinstance(quiet, dg.SkipReason)
    (folder / "b.txt").write_text("two", encoding="utf-8")
    noticed = new_source_files(dg.build_sensor_context(cursor=first.cursor))
    assert isinstance(noticed, dg.SensorResult)
    assert len(noticed.run_requests or []) == 1
    (folder / "a.txt").unlink()
    (folder / "b.txt").unlink()
    assert isinstance(new_source_files(dg.build_sensor_context(cursor=noticed.cursor)), dg.SkipReason)


def test_the_schedule_asks_for_a_run_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("one", encoding="utf-8")
    recipe_of(folder, tmp_path / "home", monkeypatch)
    assert isinstance(weekly_retraining(dg.build_schedule_context()), dg.RunRequest)
    (folder / "a.txt").unlink()
    skipped = weekly_retraining(dg.build_schedule_context())
    assert isinstance(skipped, dg.SkipReason)
    assert "cannot be built" in str(skipped.skip_message)
