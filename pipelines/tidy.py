"""Job `tidy`: removes what months leave behind. It says what it would remove, and removes it only if it is told to."""

import datetime
from collections.abc import Iterator

import dagster as dg

from assets_defs.assets import failures_explained
from assets_defs.resources import HOME_TAG, hold_run_lock, run_lock
from parakeet.clean import refuse_while_building, remove
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_bytes
from parakeet.home import home
from parakeet.retention import removable
from pipelines.schedules import local_time_zone

FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
SEARCHED = 500
"""How many of an asset's last materializations are searched for the one that made its artefact."""


class TidyConfig(dg.Config):
    days: int = 90
    """Age of the runs in Dagster's history, and of training runs, that may go."""
    refused_releases: int = 5
    """How many of each recipe's refused releases stay."""
    delete: bool = False
    """Remove them. Otherwise they are only listed."""


def old_runs(instance: dg.DagsterInstance, home_name: str, days: int) -> Iterator[dg.DagsterRun]:
    """Runs of a home that ended `days` ago, but for those with the last materialization of an asset or its making."""
    keep = set()
    for key in instance.all_asset_keys():
        records = instance.fetch_materializations(key, limit=SEARCHED).records
        makings = [record for record in records if _made(record)]
        keep |= {record.run_id for record in (*records[:1], *makings[:1])}
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    filters = dg.RunsFilter(statuses=list(FINISHED), updated_before=before, tags={HOME_TAG: home_name})
    yield from (run for run in instance.get_runs(filters) if run.run_id not in keep)


def _made(record: dg.EventLogRecord) -> bool:
    materialization = record.asset_materialization
    made = materialization.metadata.get("made") if materialization is not None else None
    return made is None or bool(made.value)


@dg.op(description="Lists old runs, refused releases and finished training runs; `delete` also removes them.")
def remove_old(context: dg.OpExecutionContext, config: TidyConfig) -> None:
    root = home()
    verb = "Removed" if config.delete else "Would remove"
    with failures_explained("tidying", root):
        # Without it, `interrupted_runs` would call a long run lost and start another one beside it.
        hold_run_lock(root, context.run_id)
        context.instance.add_run_tags(context.run_id, {HOME_TAG: str(root)})
        runs = list(old_runs(context.instance, str(root), config.days))
        entries = removable(root, config.days, config.refused_releases, run_lock(root, context.run_id))
        for entry in entries:
            if config.delete:
                remove([entry])
            what = f"{entry.stage} {entry.recipe}".strip()
            context.log.info(f"{verb} {entry.path} ({what}, {format_bytes(entry.n_bytes)}).")
        for run in runs if config.delete else ():
            context.instance.delete_run(run.run_id)
            context.instance.compute_log_manager.delete_logs(prefix=[run.run_id])
    size = format_bytes(sum(entry.n_bytes for entry in entries))
    context.log.info(
        f"{verb} {counted(len(runs), 'run')} of the history and {counted(len(entries), 'folder')}, {size}."
        + ("" if config.delete or not (runs or entries) else " To remove them, launch this job with delete: true.")
    )


@dg.job(description="Removes old runs of the history, refused releases and finished training runs; off by default.")
def tidy() -> None:
    remove_old()


@dg.schedule(
    job=tidy,
    cron_schedule="30 5 * * 1",
    execution_timezone=local_time_zone(),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 5:30: removes what the job `tidy` lists. Promoted releases are never removed.",
)
def weekly_tidy(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    try:
        refuse_while_building(home())
    except ParakeetError as error:
        return dg.SkipReason(f"{error} A training may take weeks, and nothing it needs may go meanwhile.")
    return dg.RunRequest(run_config={"ops": {remove_old.name: {"config": {"delete": True}}}})
