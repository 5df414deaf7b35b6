"""Everything that Dagster loads. Imports neither torch nor datatrove: every process of Dagster loads it."""

from collections.abc import Mapping

import dagster as dg

from assets_defs.assets import make_assets
from assets_defs.checks import make_checks
from assets_defs.pipes import ObservingTrainer
from assets_defs.promotion import promotion_asset
from assets_defs.resources import RECIPE_METADATA, home_resource
from assets_defs.sources import make_sources
from parakeet.artifact import Artifact
from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.recipe_file import parse_recipe
from parakeet.stages import active_recipe
from pipelines import automation, dagster_internals, jobs, schedules, sensors, tidy
from pipelines.instance import settings_missing
from pipelines.interrupted_runs import interrupted_runs
from pipelines.recipe_in_use import recipe_in_use
from pipelines.studies import study_definitions

TERMINATION_TIMEOUT_SECONDS = 300
"""How long a trainer may take to save when its run is ended. Dagster's 20 s would leave it behind as an orphan."""


def make_definitions(recipe: Recipe, given: Mapping[str, Artifact] | None = None) -> dg.Definitions:
    """Assets, checks, jobs, schedules and sensors for a recipe. Artefacts that are `given` are taken as they are."""
    studies = study_definitions(home())
    return dg.Definitions(
        assets=[*make_assets(recipe), promotion_asset(), *make_sources(recipe), *studies.assets],
        asset_checks=make_checks(recipe),
        jobs=[*jobs.make_jobs(recipe, home()), tidy.tidy, *studies.jobs],
        schedules=[schedules.weekly_retraining, schedules.source_looks, tidy.weekly_tidy],
        sensors=[
            *(sensors.new_source_files, sensors.disk_low, sensors.run_failed),
            *(interrupted_runs, recipe_in_use(recipe)),
            *(automation.source_files_seen, automation.cheap_stages),
        ],
        resources={
            "parakeet_home": home_resource(recipe, given),
            "trainer": ObservingTrainer(dagster_internals.DagsterPipesExecutionError, TERMINATION_TIMEOUT_SECONDS),
        },
        # A stage that needs isolation starts its own processes; one process more per step would cost seconds each.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the recipe in use: read when Dagster loads them, and not when this module is imported.

    A run's process loads those of the recipe that its code location had when the run was queued.
    """
    return make_definitions(_recipe())


def _recipe() -> Recipe:
    if dagster_internals.is_reconstruction():
        text = dagster_internals.remembered(RECIPE_METADATA)
        return parse_recipe(text, "The recipe of the run") if text is not None else active_recipe(home())
    if fault := settings_missing():
        dg.get_dagster_logger().warning(fault)
    recipe = active_recipe(home())
    dagster_internals.remember(RECIPE_METADATA, recipe.to_yaml())
    return recipe
