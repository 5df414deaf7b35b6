"""The graph as Dagster sees it."""

from pathlib import Path

import dagster as dg
import pytest

from parakeet.recipe_file import load_recipe
from parakeet.stages import STAGES, asset_names, use_recipe
from pipelines.definitions import make_definitions

DEMO = load_recipe("demo")
defs = make_definitions(DEMO)


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_every_stage_is_an_asset_with_all_that_a_reader_needs() -> None:
    graph = defs.get_repository_def().asset_graph
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {key for key in keys if not key.startswith("studies/")} == set(asset_names(DEMO))
    # *Materialize all* makes what can be executed: no study, whose partitions it would ask for.
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(asset_names(DEMO))
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
    for watching in ("interrupted_runs", "recipe_in_use", "disk_low", "run_failed"):
        assert repository.get_sensor_def(watching).default_status is dg.DefaultSensorStatus.RUNNING
    assert repository.get_sensor_def("new_source_files").default_status is dg.DefaultSensorStatus.STOPPED


def recipe_of(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(home))
    path = home / "mine.yaml"
    home.mkdir(exist_ok=True)
    path.write_text(f"extends: demo\nname: mine\nsources: [{{name: a, path: {folder}}}]\n", encoding="utf-8")
    use_recipe(home, load_recipe(str(path)))
