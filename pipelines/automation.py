"""What Dagster notices and makes by itself between runs: changes of the local sources, and what is cheap to make."""

import dagster as dg

from assets_defs.sources import changes
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.stages import active_recipe


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Shows what is out of date when a file of a local source is new, changed or gone. It starts nothing.",
)
def source_files_seen(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    try:
        recipe = active_recipe(home())
    except ParakeetError as error:
        return dg.SkipReason(f"The recipe cannot be read: {error}")
    found = list(changes(recipe, context.instance))
    if not found:
        return dg.SkipReason("No local source has changed.")
    names = ", ".join(change.asset_key.path[-1] for change in found)
    return dg.SensorResult(asset_events=found, skip_reason=dg.SkipReason(f"Changed: {names}."))


cheap_stages = dg.AutomationConditionSensorDefinition(
    "cheap_stages",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Makes data card, evaluation, memorisation and report after a new artefact that passed its checks.",
)
"""Every condition is an asset's own. Nothing that trains or promotes has one."""
