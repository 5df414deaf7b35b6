"""Notices that a run of Dagster failed for good, or a tick of a schedule."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import yaml

from assets_defs.resources import RECIPE_TAG
from parakeet.artifact import replace_file
from parakeet.errors import ParakeetError
from parakeet.notify import tell
from parakeet.recipe import Notify
from parakeet.stages import ACTIVE_RECIPE_FILE, active_recipe, who_is_told

FAILED_TICKS = ".failed_ticks"
"""Folder in the home: for each schedule whose last tick failed, a file with the reason, of which a notice was sent."""
OWN_SETTINGS = re.compile(r"^notify:.*(?:\n(?:[ \t#].*)?)*", re.MULTILINE)
"""The section `notify` of a recipe file, to the next line that is not indented."""


def tell_failed(root: Path, run: dg.DagsterRun, text: str) -> None:
    """Send a notice of a failed run, as `tell` does."""
    facts = {"recipe": run.tags.get(RECIPE_TAG), "run": run.run_id, "job": run.job_name}
    tell(settings_in_use(root), "failed", text, facts)


@contextmanager
def failed_tick_told(root: Path, schedule: str) -> Iterator[None]:
    """Send a notice of a ParakeetError or OSError in the block, once until a tick is no failure or has another reason.

    The error is raised on, so that Dagster shows the tick as failed.
    """
    file = root / FAILED_TICKS / schedule
    try:
        yield
    except (ParakeetError, OSError) as error:
        told = ""
        with suppress(OSError, ValueError):
            told = file.read_text(encoding="utf-8")
        if told != str(error):
            text = f"A tick of {schedule} failed, and nothing was started. {error}"
            tell(settings_in_use(root), "failed", text, {"schedule": schedule})
            with suppress(OSError):  # the notice is sent again then
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(file, str(error))
        raise
    with suppress(OSError):
        file.unlink(missing_ok=True)


def settings_in_use(root: Path) -> Notify | None:
    """`notify` of the recipe in use, also if the rest of its file cannot be read."""
    try:
        return who_is_told(root, active_recipe(root))
    except (ParakeetError, OSError):
        pass
    try:
        found = OWN_SETTINGS.search((root / ACTIVE_RECIPE_FILE).read_text(encoding="utf-8"))
        return Notify.model_validate(yaml.safe_load(found[0])["notify"]) if found is not None else None
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
