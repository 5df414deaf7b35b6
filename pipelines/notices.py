"""Telling whom the recipe in use names that a run of Dagster failed for good."""

from pathlib import Path

import dagster as dg

from assets_defs.resources import RECIPE_TAG
from parakeet.errors import ParakeetError
from parakeet.notify import tell
from parakeet.stages import active_recipe, who_is_told


def tell_failed(root: Path, run: dg.DagsterRun, text: str) -> None:
    """Tell of a failed run, as `tell` does. A recipe that cannot be read names nobody."""
    try:
        settings = who_is_told(root, active_recipe(root))
    except (ParakeetError, OSError):
        return
    tell(settings, "failed", text, {"recipe": run.tags.get(RECIPE_TAG), "run": run.run_id, "job": run.job_name})
