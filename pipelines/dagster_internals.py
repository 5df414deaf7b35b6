"""All that Parakeet uses of Dagster's private modules. A new release of Dagster can break this module alone.

`dagster<1.14` in pyproject.toml stays until tests/pipelines/test_dagster_internals.py passes with the newer release.
"""

import io
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.errors import DagsterPipesExecutionError
from dagster._core.execution.plan.objects import UserFailureData
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._utils.error import SerializableErrorInfo
from dagster_shared.yaml_utils import DagsterYamlLoader

__all__ = [
    "DagsterPipesExecutionError",
    "DagsterYamlLoader",
    "InstanceRef",
    "LocalArtifactStorage",
    "LocalComputeLogManager",
    "NoOpComputeLogManager",
    "SerializableErrorInfo",
    "UserFailureData",
]

INTERRUPTIONS = {"UNEXPECTED_TERMINATION", "START_TIMEOUT", "RUN_WORKER_RESTART", "UNKNOWN"}
"""Values of `FAILURE_REASON_TAG` of a run that did not end by its own doing. UNKNOWN, for which Dagster sets no tag: it
was reported by another process."""
FAILURE_REASON_TAG = "dagster/failure_reason"
WILL_RETRY_TAG = "dagster/will_retry"
"""`true` if Dagster itself starts the run again, which an older dagster.yaml lets it do."""


def sqlite_storage() -> Any:
    """Dagster's storage of runs, events and ticks in SQLite. Its import takes 0.3 s, which definitions do not need."""
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

    return DagsterSqliteStorage


def replace_sqlite_address(address: Callable[[str, str], str], seconds_to_wait: int) -> None:
    """Let Dagster open its database files at `address(folder, name)`, and wait for one that is locked."""
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        module.create_db_conn_string = address  # type: ignore[attr-defined]
    sqlite_event_log.SQLITE_BUSY_TIMEOUT_SECONDS = seconds_to_wait


def silence_event_errors() -> None:
    """Dagster's handler of events prints an error with its SQL before it raises it. It is explained once, by us."""
    from dagster._core.instance import types

    types.sys = SimpleNamespace(stderr=io.StringIO(), exc_info=sys.exc_info)  # type: ignore[assignment]


def is_reconstruction() -> bool:
    """Whether a run's process loads the definitions, and not a code location."""
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION


def remember(name: str, text: str) -> None:
    """Give every run of this code location a text, which its process finds with `remembered`."""
    DefinitionsLoadContext.get().add_to_pending_reconstruction_metadata(name, text)


def remembered(name: str) -> str | None:
    """In a run's process: the text that the code location had when the run was queued."""
    return DefinitionsLoadContext.get().reconstruction_metadata.get(name)


def free_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free the pool slots of a run whose process is gone."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def submit_again(
    instance: dg.DagsterInstance, run: dg.DagsterRun, tags: Mapping[str, str], asset_graph: Any
) -> str | None:
    """Queue a run of the same selection, config and definitions as `run`; its id, or None if runs are not queued.

    The plan is the old run's own, so its recipe is too: Dagster's retries would take the code location's present one.
    """
    if not isinstance(instance.run_coordinator, QueuedRunCoordinator) or run.execution_plan_snapshot_id is None:
        return None
    snapshot = instance.get_job_snapshot(run.job_snapshot_id) if run.job_snapshot_id is not None else None
    new = instance.create_run(
        job_name=run.job_name,
        run_id=None,
        run_config=run.run_config,
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags=tags,
        root_run_id=run.root_run_id or run.run_id,
        parent_run_id=run.run_id,
        step_keys_to_execute=run.step_keys_to_execute,
        execution_plan_snapshot=instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id),
        job_snapshot=snapshot,
        parent_job_snapshot=None,  # It is in the history already.
        asset_selection=run.asset_selection,
        asset_check_selection=run.asset_check_selection,
        resolved_op_selection=run.resolved_op_selection,
        op_selection=run.op_selection,
        remote_job_origin=run.remote_job_origin,
        job_code_origin=run.job_code_origin,
        asset_graph=asset_graph,
    )
    enqueue(instance, new)
    return new.run_id


def enqueue(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Queue a run that was created. Nothing happens if it was queued before."""
    instance.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]


def location_name(run: dg.DagsterRun) -> str | None:
    """The code location that a run was launched from; None for one of `parakeet build`."""
    return run.remote_job_origin.location_name if run.remote_job_origin is not None else None


def location_can_reload(context: dg.SensorEvaluationContext) -> bool:
    """Whether the code location of a sensor has a server of its own, as under `dagster dev`."""
    return isinstance(context.code_location_origin, GrpcServerCodeLocationOrigin)


def reload_location(context: dg.SensorEvaluationContext, seconds: int) -> None:
    """Load the code location of a sensor again, as the page's button does. Ends this process."""
    origin = context.code_location_origin
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    origin.create_client().reload_code(timeout=seconds)
