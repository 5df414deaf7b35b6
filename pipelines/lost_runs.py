"""Runs that Dagster still calls started although their process is gone."""

import time
from pathlib import Path

import dagster as dg

from assets_defs.home import run_lock
from parakeet.locking import is_held

SECONDS_OF_GRACE = 120
"""A run has no lock file yet while its process imports; that took up to 15 s on two busy cores."""

UNDER_WAY = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)


def fail_lost_runs(instance: dg.DagsterInstance, root: Path) -> list[str]:
    """Report every lost run as failed and free its pool slots; their ids.

    A live run's process holds the run's lock file, and the operating system lets go of it when it dies. A
    run without a lock file is lost if it began more than two minutes ago.
    """
    lost = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNDER_WAY))):
        run = record.dagster_run
        path = run_lock(root, run.run_id)
        began = record.start_time or record.create_timestamp.timestamp()
        alive = is_held(path) if path.exists() else time.time() - began < SECONDS_OF_GRACE
        if not alive:
            instance.report_run_failed(run, "The process of this run is gone; what it had made is kept.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            path.unlink(missing_ok=True)
            lost.append(run.run_id)
    return lost
