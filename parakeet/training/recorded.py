"""Runs under their own recorded recipe: which ones another recipe of the same name leaves unfinished, and what one
needs to be finished. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parakeet.artifact import MANIFEST_FILE, Artifact, replace_file
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent
from parakeet.home import runs_folder
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.training.changeable import run_settings
from parakeet.training.job import JOB_FILE, SECTIONS, read_job
from parakeet.training.runs import Run, find_run, list_runs, short_keys

RECIPE_FILE = "recipe.yaml"
"""In a run's folder: the whole recipe, where job.json has not. 0.1 recorded only the sections that a trainer reads."""


@dataclass(frozen=True)
class Begun:
    """An unfinished run with the recipe and the artefacts that it was begun with.

    `artifacts` are the inputs of its training and all that they were made from, by stage. They are taken as they are:
    this version of Parakeet might make another text of the same recipe.
    """

    run: Path
    recipe: Recipe
    artifacts: dict[str, Artifact]


def load_begun(root: Path, prefix: str) -> Begun:
    """The unfinished run whose key begins with `prefix`.

    Raises ParakeetError if there is none, or several; if it is finished or nothing of it was trained; or if its recipe
    is unknown or one of its artefacts was removed.
    """
    run = find_run(runs_folder(root), prefix)
    if run.state == "finished":
        raise ParakeetError(f"Run {run.key} is finished: there is nothing to continue.")
    if not run.saved:
        raise ParakeetError(f"Run {run.key} has no checkpoint to continue from: build its recipe from the beginning.")
    recipe = recorded_recipe(run.path)
    if recipe is None:
        raise ParakeetError(
            f"{run.path / JOB_FILE} does not hold the whole recipe, since an early version of Parakeet wrote it. Build "
            "the recipe file that the run was begun with: it continues the run."
        )
    return Begun(run.path, recipe, _artifacts(root, run.path))


def recorded_recipe(run: Path) -> Recipe | None:
    """The recipe that a run was begun with, with every default of that time; None if it was not recorded whole."""
    try:
        values = read_job(run / JOB_FILE)["recipe"]
        if "name" in values:
            return Recipe(**values)
        path = run / RECIPE_FILE
        return load_recipe(str(path), report_old_keys=False) if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError, ParakeetError):
        return None


def keep_recipe(root: Path, active: Path) -> None:
    """Copy the recipe in use to the runs of 0.1 that were begun with it, before another one is used."""
    for path in runs_folder(root).glob(f"*/{JOB_FILE}"):
        try:
            values = read_job(path)["recipe"]
            if "name" in values or (path.parent / RECIPE_FILE).exists():
                continue
            recipe = load_recipe(str(active), report_old_keys=False)
            if all(_includes(getattr(recipe, name).model_dump(mode="json"), values[name]) for name in SECTIONS):
                replace_file(path.parent / RECIPE_FILE, recipe.to_yaml())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ParakeetError):
            # A folder that cannot be read or written keeps nobody from building another recipe.
            continue


def left_unfinished(root: Path, recipe: Recipe, other_settings: bool = False) -> list[str]:
    """For each unfinished run of a recipe of this name: which, how far, and the command that finishes it.

    With `other_settings`, only for runs that this recipe cannot continue, whatever its text becomes.
    """
    runs = list_runs(runs_folder(root))[0]
    keys = dict(zip((run.path for run in runs), short_keys(runs), strict=True))
    return [
        f"Run {keys[run.path]} of recipe {recipe.name}, begun with other settings or text, is unfinished: step "
        f"{run.step:,} of {run.total_steps:,} ({format_percent(run.step / run.total_steps, 0)}). It is kept. To finish "
        f"it as it was begun: parakeet build --run {keys[run.path]}"
        for run in runs
        if run.state in ("stopped", "failed") and run.saved and _is_of(run, recipe, other_settings)
    ]


def _is_of(run: Run, recipe: Recipe, other_settings: bool) -> bool:
    begun = recorded_recipe(run.path)
    if begun is None or begun.name != recipe.name:
        return False
    return not other_settings or run_settings(begun) != run_settings(recipe)


def _includes(values: dict[str, Any], some: dict[str, Any]) -> bool:
    return all(key in values and values[key] == value for key, value in some.items())


def _artifacts(root: Path, run: Path) -> dict[str, Artifact]:
    """The inputs of a run's training, and by their manifests all that those were made from."""
    job = read_job(run / JOB_FILE)
    # A job has whole paths, and the store may have moved since: the last two parts are stage and fingerprint.
    waiting = [root.joinpath(*Path(job[name]).parts[-2:]) for name in ("tokenizer", "shards", "plan")]
    found: dict[str, Artifact] = {}
    while waiting:
        path = waiting.pop()
        if not (path / MANIFEST_FILE).is_file():
            raise ParakeetError(f"Run {run.name} cannot be finished: {path}, which it was begun with, was removed.")
        artifact = Artifact.open(path)
        if artifact.stage not in found:
            artifact.check()
            found[artifact.stage] = artifact
            waiting += [root / before["path"] for before in artifact.manifest["inputs"].values()]
    return found
