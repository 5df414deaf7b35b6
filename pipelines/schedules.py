"""Retraining once a week, if anything changed."""

import dagster as dg

from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.stages import Build, active_recipe
from pipelines.jobs import full_build


@dg.schedule(
    job=full_build,
    cron_schedule="0 3 * * 0",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Sundays at 3:00: build again if the recipe or a source file has changed since the last release.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    root = home()
    try:
        release = Build(root, active_recipe(root)).find("release")
    except (ParakeetError, OSError) as error:
        return dg.SkipReason(f"The recipe cannot be built: {error}")
    if release is not None:
        return dg.SkipReason(f"Nothing is new: release {release.path.name} was made of this recipe and these files.")
    return dg.RunRequest()
