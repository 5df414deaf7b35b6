"""The whole judgement on a release before it is promoted: the gates, and every blocking check of the stages before."""

import json
from dataclasses import replace
from pathlib import Path

from parakeet.artifact import Artifact, Store
from parakeet.earlier import with_new_keys
from parakeet.errors import ParakeetError
from parakeet.gates.stage import ComparisonStage, judgement_of
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.release.history import REFUSED, decision_on
from parakeet.release.promotion import Judgement
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.stages import Build, active_recipe, recipe_built_last


def whole_judgement(build: Build, comparison: Artifact) -> Judgement:
    """What the gates say, and after it what each blocking check that fails now says.

    A failed check ends the run of Dagster that it is part of, and no other one, so the checks are run again here. Not
    for a release that was promoted or rolled back: that stands.
    """
    judgement, release = judgement_of(comparison), build.artifact("release")
    decision = decision_on(build.store.root, release.path.name)
    if decision is not None and decision.action != REFUSED:
        return judgement
    faults = []
    for name in build.upstream(ComparisonStage.name):
        for check in build.stage(name).checks():
            if check.blocking:
                verdict = check.run(build.artifact(name), build.inputs(name), build.recipe)
                if not verdict.passed:
                    faults.append(verdict.description or f"The check {check.name} of {name} failed.")
    return replace(judgement, reasons=(*judgement.reasons, *faults))


def judged_by_present_gates(root: Path, comparison: Artifact, name: str) -> bool:
    """Whether a comparison has the bounds of the recipe of this name as it was built last, or else as it is in use.

    True if neither has this name: nothing says then that its bounds have changed. Raises ParakeetError if one of the
    two cannot be read.
    """
    known = (load_recipe(recipe_built_last(root), report_old_keys=False), active_recipe(root))
    present = [ComparisonStage().settings(recipe)["gates"] for recipe in known if recipe.name == name]
    return not present or comparison.manifest["settings"]["gates"] == present[0]


def build_of(root: Path, release: Artifact) -> Build:
    """The build that a release was made by, from its lineage. ParakeetError if that cannot be read."""
    path = release.path / TRAINING_MANIFEST_FILE
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe(**with_new_keys(lineage["recipe"]))
        contents = {name: str(made["content"]) for name, made in lineage["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{path} cannot be read ({error!r}).") from None
    store, given = Store(root), {"release": release}
    for name, content in contents.items():
        if made := store.artifacts(name, content):
            given[name] = made[-1]
    return Build(root, recipe, given)
