"""Runs that Dagster still shows as started although their process is gone."""

import time
from pathlib import Path

import dagster as dg

from assets_defs.resources import HOME_TAG, RUN_LOCKS, run_lock
from parakeet.dagster_history import LOCATION
from parakeet.locking import is_held
from pipelines.dagster_internals import free_slots, location_name

SECONDS_OF_GRACE = 120
"""A run has no lock file yet while its process imports; that took up to 15 s on two busy cores."""

INTERRUPTED_TAG = "parakeet/interrupted"
"""Tag of a run that was ended here: `interrupted_runs` starts it again."""

UNDER_WAY = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)


def fail_lost_runs(instance: dg.DagsterInstance, root: Path) -> list[str]:
    """Report every lost run of this home as failed, or canceled if that was asked for, and free its pool slots; their
    ids. Removes the lock files of runs that have ended.

    A live run's process holds the run's lock file, and the operating system lets go of it when it dies. A run without
    one is lost two minutes after its process was launched: it died before it had one, or somebody removed the file.
    Runs of other homes and of other projects in the same history are left alone.
    """
    lost = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNDER_WAY))):
        run_id = record.dagster_run.run_id
        path = run_lock(root, run_id)
        if is_held(path) or not (path.exists() or _is_overdue(instance, record, root)):
            continue
        # Its end may have been recorded since: the lock is free after that.
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        message = "The process of this run is gone; what it had made is kept."
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.add_run_tags(run_id, {INTERRUPTED_TAG: "its process is gone"})
            instance.report_run_failed(run, message)
        free_slots(instance, run_id)
        lost.append(run_id)
    _remove_locks(instance, root)
    return lost


def _is_overdue(instance: dg.DagsterInstance, record: dg.RunRecord, root: Path) -> bool:
    """Whether a run of this home should have had a lock file by now."""
    run = record.dagster_run
    home = run.tags.get(HOME_TAG)
    if home != str(root) if home is not None else location_name(run) != LOCATION:
        return False
    # Not the time of its creation: a run may have waited in the queue for days.
    launched = record.start_time or instance.get_run_stats(run.run_id).launch_time
    return launched is not None and time.time() - launched > SECONDS_OF_GRACE


def _remove_locks(instance: dg.DagsterInstance, root: Path) -> None:
    for path in (root / RUN_LOCKS).glob("*.lock"):
        run = instance.get_run_by_id(path.stem)
        if run is not None and run.is_finished and not is_held(path):
            path.unlink(missing_ok=True)
