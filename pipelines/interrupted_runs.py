"""Runs that a crash, a power cut or Ctrl-C of `dagster dev` interrupted are started again, with their own recipe."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from assets_defs.assets import CRASHED
from assets_defs.resources import HOME_TAG, RECIPE_TAG, recorded_recipe
from assets_defs.studies import STUDY_TAG, build_of
from parakeet.dagster_history import LOCATION
from parakeet.errors import ParakeetError
from parakeet.formatting import counted
from parakeet.home import home
from parakeet.sanitise import sanitise
from parakeet.stages import Build
from parakeet.training.runs import load_run
from pipelines.dagster_internals import (
    FAILURE_REASON_TAG,
    INTERRUPTIONS,
    WILL_RETRY_TAG,
    enqueue,
    location_name,
    submit_again,
)
from pipelines.lost_runs import INTERRUPTED_TAG, fail_lost_runs
from pipelines.notices import tell_failed

MOST_ATTEMPTS = 3
"""So many attempts in a row without progress, and an interrupted run is not started again."""

ATTEMPTS_TAG = "parakeet/attempts_without_progress"
PROGRESS_TAG = "parakeet/progress"
"""The furthest that the runs which this one resumes had come: `Reached`, as JSON."""
DECISION_TAG = "parakeet/resumed"
"""Tag of an interrupted run: the run that resumes it, or why there is none."""
GIVEN_UP = "no: "
"""How the second begins."""

PARENT_TAG = "dagster/parent_run_id"
PARTITION_TAG = "dagster/partition"
KEPT_TAGS = (
    *("dagster/schedule_name", "dagster/sensor_name", "dagster/priority", "dagster/max_runtime"),
    *(PARTITION_TAG, "dagster/partition_set"),
)
"""Of Dagster's own tags. The others say what became of one run."""

TIME_LOOKED_BACK = timedelta(days=1)
"""At the first tick of a history, and for a run that cannot be resumed now. Other ticks start where the last one ended,
however long ago."""
TIME_OF_OVERLAP = timedelta(minutes=5)
"""Between two ticks: the clock may be set back a little. A run that was decided on has a tag."""


class Reached(NamedTuple):
    """What an attempt finds and does not do again."""

    stages: int = 0
    """Finished ones of the recipe."""
    step: int = 0
    """The last saved one of the training."""
    tasks: int = 0
    """Finished ones of a data stage that is under way."""
    mebibytes: int = 0
    """Fetched of a remote source."""

    def is_beyond(self, best: "Reached") -> bool:
        return any(now > then for now, then in zip(self, best, strict=True))

    def and_best(self, best: "Reached") -> "Reached":
        """The furthest of both. After a finished stage, what counts inside of stages begins again."""
        return self if self.stages > best.stages else Reached(*map(max, self, best))


class Resumption(NamedTuple):
    told: list[str]
    """What was done and why."""
    look_again_from: datetime | None = None
    """When the first run ended that is to be tried again at the next tick."""


def resume_interrupted(
    instance: dg.DagsterInstance, root: Path, since: datetime, asset_graph: object = None
) -> Resumption:
    """Start every interrupted run of this home again that ended after `since`."""
    told: list[str] = []
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    look_again_from = None
    for record in instance.get_run_records(failed, ascending=True):
        run = record.dagster_run
        ours = location_name(run) == LOCATION and run.tags.get(HOME_TAG, str(root)) == str(root)
        if not ours or DECISION_TAG in run.tags or run.tags.get(WILL_RETRY_TAG) == "true":
            continue
        try:
            message = _resume(instance, root, run, asset_graph)
        except Exception as error:  # of the other runs' resumption it says nothing
            message = f"Run {run.run_id[:8]} cannot be resumed now, and is tried again: {error or type(error).__name__}"
            look_again_from = min(look_again_from or record.update_timestamp, record.update_timestamp)
        if message:
            told.append(message)
    return Resumption(told, look_again_from)


def _resume(instance: dg.DagsterInstance, root: Path, run: dg.DagsterRun, asset_graph: object) -> str:
    """Resume a failed run if it was interrupted. Returns what was done and why; empty if nothing was."""
    if not is_interrupted(instance, run):
        return ""
    if children := instance.get_runs(dg.RunsFilter(tags={PARENT_TAG: run.run_id}), limit=1):
        if children[0].status is dg.DagsterRunStatus.NOT_STARTED and PROGRESS_TAG in children[0].tags:
            # This sensor was killed, or the queue failed, between two lines of `submit_again`.
            enqueue(instance, children[0])
        instance.add_run_tags(run.run_id, {DECISION_TAG: children[0].run_id})
        return ""
    reached, advanced = progress_of(instance, run, root), True
    if PROGRESS_TAG in run.tags:
        best = Reached(*json.loads(run.tags[PROGRESS_TAG]))
        reached, advanced = reached.and_best(best), reached.is_beyond(best)
    idle = 0 if advanced else int(run.tags.get(ATTEMPTS_TAG, 0)) + 1
    name = f"Run {run.run_id[:8]}"
    if idle >= MOST_ATTEMPTS:
        why = f"{MOST_ATTEMPTS} attempts made no progress"
        message = (
            f"{name} is not started again: {why}. Look for the cause in its log (not enough memory?), then materialize "
            "the same assets."
        )
        return _give_up(instance, root, run, why, message)
    tags = {
        **{name: value for name, value in run.tags.items() if _is_kept(name)},
        PARENT_TAG: run.run_id,
        "dagster/root_run_id": run.root_run_id or run.run_id,
        PROGRESS_TAG: json.dumps(reached),
        ATTEMPTS_TAG: str(idle),
    }
    new = submit_again(instance, run, tags, asset_graph)
    if new is None:
        message = f"{name} was interrupted. Without Dagster's queue of runs it is not started again."
        return _give_up(instance, root, run, "there is no queue of runs", message)
    instance.add_run_tags(run.run_id, {DECISION_TAG: new})
    message = f"{name} was interrupted: run {new[:8]} resumes it (recipe {tags.get(RECIPE_TAG, '?')})."
    instance.report_engine_event(message, run)
    return message


def _give_up(instance: dg.DagsterInstance, root: Path, run: dg.DagsterRun, why: str, message: str) -> str:
    instance.add_run_tags(run.run_id, {DECISION_TAG: f"{GIVEN_UP}{why}"})
    instance.report_engine_event(message, run)
    tell_failed(root, run, message)
    return message


def is_interrupted(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a failed run was ended from outside, and not by an error that it would meet again.

    One that was told to end was ended on purpose: by a person, or by its limit of time (`dagster/max_runtime`).
    """
    if instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_CANCELING):
        return False
    if INTERRUPTED_TAG in run.tags or run.tags.get(FAILURE_REASON_TAG, "UNKNOWN") in INTERRUPTIONS:
        return True
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    given = [
        entry.dagster_event.step_failure_data.user_failure_data for entry in failures if entry.dagster_event is not None
    ]
    return bool(given) and all(one is not None and CRASHED in one.metadata for one in given)


def progress_of(instance: dg.DagsterInstance, run: dg.DagsterRun, root: Path) -> Reached:
    """How far the recipe of a run has come."""
    made = Reached()
    try:
        if (name := run.tags.get(STUDY_TAG)) is not None:
            return _progress(build_of(root, name, run.tags[PARTITION_TAG]))
        recipe = recorded_recipe(instance, run)
        return _progress(Build(root, recipe)) if recipe is not None else made
    # Sources that cannot be read now: the run itself says so.
    except (ParakeetError, OSError):
        return made


def _progress(build: Build) -> Reached:
    stages = step = tasks = 0
    fetched = 0
    for name, stage in build.stages.items():
        if build.find(name) is not None:
            stages += 1
        elif stage.is_possible(build.recipe, build.store.root) and all(
            build.find(given) is not None for given in stage.inputs(build.recipe)
        ):
            for folder in stage.run_folders(build.recipe, build.inputs(name), build.store.root):
                step = max(step, _saved_step(folder))
            for folder in build.store.begun(build.work(name)) if stage.resumable else ():
                tasks += len(list(folder.rglob("completions/*")))
                fetched += sum(part.stat().st_size for part in folder.rglob("parts/*"))
    return Reached(stages, step, tasks, fetched >> 20)


def _saved_step(run: Path) -> int:
    try:
        return load_run(run).last_saved or 0
    except ParakeetError:
        return 0


def _is_kept(tag: str) -> bool:
    if tag.startswith(("dagster/", ".dagster/")):
        return tag in KEPT_TAGS
    return tag not in (INTERRUPTED_TAG, DECISION_TAG)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone (power cut, kill -9), and starts again what was interrupted, as long "
    "as it goes forward. A run that failed by itself or was terminated is not started again.",
)
def interrupted_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    lost = fail_lost_runs(context.instance, home())
    ended = [f"Ended {counted(len(lost), 'lost run')}: {', '.join(run_id[:8] for run_id in lost)}."] if lost else []
    now = datetime.now(UTC)
    since = datetime.fromisoformat(context.cursor) if context.cursor else now - TIME_LOOKED_BACK
    graph = context.repository_def.asset_graph if context.repository_def is not None else None
    if since > now:  # The clock was set back.
        since = now - TIME_LOOKED_BACK
    told, look_again_from = resume_interrupted(context.instance, home(), since, graph)
    # A run may end while this looks.
    cursor = now - TIME_OF_OVERLAP
    if look_again_from is not None:
        cursor = min(cursor, max(look_again_from - TIME_OF_OVERLAP, now - TIME_LOOKED_BACK))
    said = sanitise(" ".join(ended + told)) or "No run is interrupted."
    return dg.SensorResult(skip_reason=said, cursor=cursor.isoformat())
