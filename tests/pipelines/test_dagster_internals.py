"""Everything that Parakeet takes from Dagster's private modules is where it was, and is called as it was."""

import inspect
import re
from pathlib import Path

import dagster as dg

from pipelines import dagster_internals

ROOT = Path(__file__).parents[2]


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_no_other_module_reaches_into_dagster() -> None:
    private = re.compile(r"^\s*(from|import) dagster\w*\._|\bdagster\._|IMPLICIT_ASSET_JOB|handler\._context", re.M)
    files = [
        *(ROOT / "pipelines").glob("*.py"),
        *(ROOT / "assets_defs").glob("*.py"),
        *(ROOT / "parakeet").rglob("*.py"),
    ]
    found = [file.name for file in files if private.search(file.read_text(encoding="utf-8"))]
    assert set(found) == {"dagster_internals.py"}
    assert "dagster._" not in (ROOT / "dagster.yaml").read_text(encoding="utf-8")


def test_the_functions_take_what_they_are_given() -> None:
    from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
    from dagster._core.instance import DagsterInstance, types
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
    from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._grpc.client import DagsterGrpcClient

    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        assert hasattr(module, "create_db_conn_string")
    assert hasattr(sqlite_event_log, "SQLITE_BUSY_TIMEOUT_SECONDS")
    assert "sys" in vars(types)
    assert {"key", "metadata"} <= parameters(DefinitionsLoadContext.add_to_pending_reconstruction_metadata)
    assert {"base_dir", "config_dir", "overrides"} <= parameters(dagster_internals.InstanceRef.from_dir)
    assert {"timeout"} <= parameters(DagsterGrpcClient.reload_code)
    assert callable(GrpcServerCodeLocationOrigin.create_client)
    assert parameters(QueuedRunCoordinator.submit_run) == {"self", "context"}
    create_run = parameters(DagsterInstance.create_run)
    assert {"execution_plan_snapshot", "job_snapshot", "asset_graph", "remote_job_origin", "root_run_id"} <= create_run
    for storage in (dagster_internals.LocalArtifactStorage, dagster_internals.LocalComputeLogManager):
        assert set(storage.config_type()) >= {"base_dir"}  # type: ignore[arg-type]
    assert dagster_internals.sqlite_storage().__name__ == "DagsterSqliteStorage"


def test_slots_are_freed_and_locations_are_named() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(dg.GraphDefinition("empty").to_job())
        dagster_internals.free_slots(instance, run.run_id)
        assert dagster_internals.location_name(run) is None
        assert dagster_internals.submit_again(instance, run, {}, None) is None


def test_the_reasons_of_failures_have_the_names_that_are_looked_for() -> None:
    from dagster._core.events import RunFailureReason
    from dagster._core.storage import tags

    assert {reason.value for reason in RunFailureReason} >= dagster_internals.INTERRUPTIONS
    assert tags.RUN_FAILURE_REASON_TAG == dagster_internals.FAILURE_REASON_TAG
    assert tags.WILL_RETRY_TAG == dagster_internals.WILL_RETRY_TAG


def test_pyproject_keeps_dagster_below_the_next_release() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"dagster>=1\.13,<1\.14"', text)
