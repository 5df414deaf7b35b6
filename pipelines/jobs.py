"""One job for each natural span of the graph."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets_defs.resources import HOME_TAG, RECIPE_TAG, RETRAIN
from parakeet.recipe import Recipe

DATA = dg.AssetSelection.groups("sources", "corpus", "tokens")
MODEL = dg.AssetSelection.groups("model", "release")

PREPARE_DATA, TRAIN_MODEL, FULL_BUILD = "prepare_data", "train_model", "full_build"


def make_jobs(recipe: Recipe, root: Path) -> list[Any]:
    """The jobs of a code location that shows `recipe`. Their runs have its name from the moment they are queued.

    A run of assets that were chosen on the page has it from its start only: Dagster makes that job itself.
    """
    tags = {RECIPE_TAG: recipe.name, HOME_TAG: str(root)}
    return [
        dg.define_asset_job(name, selection=selection, description=description, run_tags=tags)
        for name, selection, description in (
            (PREPARE_DATA, DATA, "From the recipe's sources to a packing plan and the data card."),
            (TRAIN_MODEL, MODEL, "From a packing plan to the promotion: train, evaluate, package, compare."),
            (FULL_BUILD, DATA | MODEL, "Everything; what is already made is found, not made again."),
            (
                RETRAIN,
                DATA | MODEL,
                "Everything up to the promotion, by the recipe that `weekly_retraining` derives: the promoted release "
                "is trained on what is new. By hand, run `parakeet retrain`: launched without a recipe, this job ends "
                "with a message.",
            ),
            (
                "import_original",
                dg.AssetSelection.groups("original"),
                "Fetch the published checkpoint and turn it into a release.",
            ),
        )
    ]
