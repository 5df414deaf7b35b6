"""Runs that Dagster still shows as started although their process is gone."""

import time
from pathlib import Path

import dagster as dg

from assets_defs.resources import HOME_TAG, run_lock
from parakeet.locking import is_held

SECONDS_OF_GRACE = 120
"""A run has no lock file yet while its process imports; that took up to 15 s on two busy cores."""

LOCATION = "parakeet"
"""The location_name in workspace.yaml."""

UNDER_WAY = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)


def fail_lost_runs(instance: dg.DagsterInstance, root: Path) -> list[str]:
    """Report every lost run of this home as failed and free its pool slots; their ids.

    A live run's process holds the run's lock file, and the operating system lets go of it when it dies. A
    run that died before it had one is known by its code location, and is lost after two minutes. Runs of
    other homes and of other projects in the same history are left alone.
    """
    lost = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNDER_WAY))):
        run = record.dagster_run
        path = run_lock(root, run.run_id)
        if path.exists():
            alive = is_held(path)
        else:
            began = record.start_time or record.create_timestamp.timestamp()
            ours = HOME_TAG not in run.tags and _location(run) == LOCATION
            alive = not ours or time.time() - began < SECONDS_OF_GRACE
        if not alive:
            instance.report_run_failed(run, "The process of this run is gone; what it had made is kept.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            path.unlink(missing_ok=True)
            lost.append(run.run_id)
    return lost


def _location(run: dg.DagsterRun) -> str | None:
    origin = run.remote_job_origin
    return origin.location_name if origin is not None else None
