"""One job for each natural span of the graph."""

import dagster as dg

from assets_defs.resources import RETRAIN

DATA = dg.AssetSelection.groups("sources", "corpus", "tokens")
MODEL = dg.AssetSelection.groups("model", "release")

prepare_data = dg.define_asset_job(
    "prepare_data", selection=DATA, description="From the recipe's sources to a packing plan."
)
train_model = dg.define_asset_job(
    "train_model", selection=MODEL, description="From a packing plan to a release: train, evaluate, package."
)
full_build = dg.define_asset_job(
    "full_build", selection=DATA | MODEL, description="Everything; what is already made is found, not made again."
)
retrain = dg.define_asset_job(
    RETRAIN,
    selection=DATA | MODEL,
    description="Everything up to the promotion, by the recipe that `weekly_retraining` derives: the released model is "
    "trained on what is new. By hand, run `parakeet retrain`: launched without a recipe, this job ends with a message.",
)
import_original = dg.define_asset_job(
    "import_original",
    selection=dg.AssetSelection.groups("original"),
    description="Fetch the published checkpoint and turn it into a release.",
)
