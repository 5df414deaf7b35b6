"""The graph follows `parakeet use`."""

import threading
import time

import dagster as dg

from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.stages import active_recipe
from pipelines.dagster_internals import location_can_reload, reload_location

SECONDS_TO_RELOAD = 120
SECONDS_TO_ANSWER = 2
"""The reload ends this process: the tick's answer goes first."""


def recipe_in_use(recipe: Recipe) -> dg.SensorDefinition:
    """A sensor that loads the definitions again when `recipe`, which they were made from, is no longer in use."""

    @dg.sensor(
        name="recipe_in_use",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows another recipe's assets after `parakeet use`. Runs that were launched before keep theirs.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            active = active_recipe(home())
        except ParakeetError as error:
            return dg.SkipReason(f"Recipe {recipe.name} is shown. The one in use cannot be read: {error}")
        if active == recipe:
            return dg.SkipReason(f"Recipe {recipe.name} is in use, and shown.")
        name = active.name if active.name != recipe.name else f"{active.name} (changed)"
        if not location_can_reload(context):
            return dg.SkipReason(
                f"Recipe {name} is in use, and {recipe.name} is shown. Reload the code location parakeet (Deployment)."
            )
        threading.Thread(target=_reload, args=(context,), daemon=True).start()
        return dg.SkipReason(f"Recipe {name} is in use: loading its assets in place of those of {recipe.name}.")

    return sensor


def _reload(context: dg.SensorEvaluationContext) -> None:
    time.sleep(SECONDS_TO_ANSWER)
    reload_location(context, SECONDS_TO_RELOAD)
