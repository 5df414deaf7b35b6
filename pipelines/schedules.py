"""Retraining once a week on what is new, and looks at sources that may have changed on their servers."""

import os
import time
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from assets_defs.keys import asset_key
from assets_defs.resources import HOME_TAG, RECIPE_TAG, RETRAIN, run_config
from parakeet.artifact import explain_os_error
from parakeet.dagster_history import IN_FLIGHT, LOCATION
from parakeet.home import home
from parakeet.recipe_sources import remote_sources, source_stage
from parakeet.retraining import RetrainingPlan, due_sources, plan_retraining, training_now
from parakeet.stages import active_recipe
from pipelines.dagster_internals import location_name
from pipelines.jobs import FULL_BUILD, TRAIN_MODEL
from pipelines.notices import failed_tick_told

TRAINING_JOBS = {TRAIN_MODEL, FULL_BUILD, RETRAIN}
TRAINED = asset_key("checkpoint")
SECONDS_TO_QUEUE = 600
"""A run that was created so long ago and was not queued is no longer waited for."""


def local_time_zone() -> str:
    """The machine's time zone by its name in the IANA database; UTC if it has none."""
    named = [os.environ.get("TZ", "").removeprefix(":")]
    link = os.path.realpath("/etc/localtime")
    if "zoneinfo/" in link:
        named.append(link.rpartition("zoneinfo/")[2])
    with suppress(OSError, ValueError):
        named.append(Path("/etc/timezone").read_text(encoding="utf-8").strip())
    for name in filter(None, named):
        with suppress(OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            return ZoneInfo(name).key
    return "UTC"


@dg.schedule(
    job_name=RETRAIN,
    cron_schedule="0 3 * * 0",
    execution_timezone=local_time_zone(),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Sundays at 3:00: train the promoted release of the recipe in use on what is new, if that is enough "
    "and no training is in flight. Otherwise the tick says why not, with the numbers.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Raises ParakeetError, a failed tick, for what cannot be built: a skipped tick would go unnoticed."""
    root = home()
    with failed_tick_told(root, "weekly_retraining"):
        recipe = active_recipe(root)
        if busy := _in_flight(context.instance, root):
            return dg.SkipReason(f"A training or a fetch is in flight, so nothing else is started: {busy}.")
        try:
            planned = plan_retraining(root, recipe)
        except OSError as error:
            raise explain_os_error(error, "looking for new text") from None
        return _request(context, root, planned)


@dg.schedule(
    job_name=RETRAIN,
    cron_schedule="0 2 * * *",
    execution_timezone=local_time_zone(),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Daily at 2:00: fetch the downloaded sources of the recipe in use again where the last look is "
    "retraining.check_sources_days ago. The next weekly retraining counts what is new in them.",
)
def source_looks(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    root = home()
    today = context.scheduled_execution_time.date()
    with failed_tick_told(root, "source_looks"):
        planned = due_sources(root, active_recipe(root), today)
    if planned.recipe is None:
        return dg.SkipReason(planned.reason)
    looked = [source for source in remote_sources(planned.recipe.sources) if source.as_of == today.isoformat()]
    return _request(context, root, planned, [asset_key(source_stage(source)) for source in looked])


def _request(
    context: dg.ScheduleEvaluationContext, root: Path, planned: RetrainingPlan, only: list[dg.AssetKey] | None = None
) -> dg.RunRequest | dg.SkipReason:
    if planned.recipe is None:
        return dg.SkipReason(planned.reason)
    context.log.info(planned.reason)
    return dg.RunRequest(
        # The tick's own time, in UTC: evaluated twice, also across a change of the clock, it is one run.
        run_key=f"{planned.recipe.name}-{context.scheduled_execution_time.timestamp():.0f}",
        run_config=run_config(planned.recipe),
        tags={RECIPE_TAG: planned.recipe.name, HOME_TAG: str(root), "parakeet/why": planned.reason},
        asset_selection=only,
    )


def _in_flight(instance: dg.DagsterInstance, root: Path) -> str:
    """What trains in this home, looks at sources for a training, or waits to: Dagster's runs, and processes of
    `parakeet build`. Empty if nothing.
    """
    runs = []
    for record in instance.get_run_records(filters=dg.RunsFilter(statuses=[*map(dg.DagsterRunStatus, IN_FLIGHT)])):
        run = record.dagster_run
        if run.tags.get(HOME_TAG, str(root)) != str(root) or location_name(run) not in (None, LOCATION):
            continue
        created = time.time() - record.create_timestamp.timestamp()
        if run.status is dg.DagsterRunStatus.NOT_STARTED and created > SECONDS_TO_QUEUE:
            continue
        # `source_looks` launches this job for the sources alone, and the next retraining counts what it finds.
        chosen = TRAINED in run.asset_selection if run.asset_selection else run.job_name in TRAINING_JOBS
        if chosen or run.job_name == RETRAIN:
            runs.append(f"run {run.run_id[:8]} ({run.job_name}, {run.status.value.lower()})")
    return ", ".join([*runs, *(f"training run {key[:8]}" for key in training_now(root))])
