"""Everything that Dagster loads. Imports neither torch nor datatrove: every process of Dagster loads it."""

from collections.abc import Mapping

import dagster as dg

from assets_defs.assets import make_assets
from assets_defs.checks import make_checks
from assets_defs.pipes import ObservingMessageReader
from assets_defs.promotion import promotion_asset
from assets_defs.resources import home_resource
from parakeet.artifact import Artifact
from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.stages import active_recipe
from pipelines import jobs, schedules, sensors

TERMINATION_TIMEOUT_SECONDS = 300
"""How long a trainer may take to save when its run is ended. Dagster's 20 s would leave it behind as an orphan."""


def make_definitions(recipe: Recipe, given: Mapping[str, Artifact] | None = None) -> dg.Definitions:
    """Assets, checks, jobs, schedules and sensors for a recipe. Artefacts that are `given` are taken as they are."""
    return dg.Definitions(
        assets=[*make_assets(recipe), promotion_asset()],
        asset_checks=make_checks(recipe),
        jobs=[jobs.prepare_data, jobs.train_model, jobs.full_build, jobs.import_original],
        schedules=[schedules.weekly_retraining],
        sensors=[sensors.new_source_files, sensors.lost_runs],
        resources={
            "parakeet_home": home_resource(recipe, given),
            "trainer": dg.PipesSubprocessClient(
                message_reader=ObservingMessageReader(), termination_timeout_seconds=TERMINATION_TIMEOUT_SECONDS
            ),
        },
        # A stage that needs isolation starts its own processes; one process more per step would cost seconds each.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The active recipe's definitions: read when Dagster loads them, and not when this module is imported."""
    return make_definitions(active_recipe(home()))
