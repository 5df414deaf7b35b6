"""Asset `promotion`: whether the new release replaces the promoted one. It is no artefact but an action."""

from functools import partial
from typing import Any

import dagster as dg

from assets_defs.assets import failures_explained
from assets_defs.code import code_references
from assets_defs.keys import OWNER, asset_key
from assets_defs.metadata import metadata_of
from assets_defs.notices import decisions_told, release_of
from assets_defs.resources import ParakeetHome
from parakeet.artifact import Artifact
from parakeet.formatting import format_time
from parakeet.gates.stage import ComparisonStage
from parakeet.judgement import whole_judgement
from parakeet.progress import Progress
from parakeet.release.pointers import find_incumbent
from parakeet.release.promotion import Outcome, promote
from parakeet.release.stages import beside
from parakeet.stages import PROMOTION, chosen_recipe_name


def promotion_asset() -> dg.AssetsDefinition:
    @dg.asset(
        name=PROMOTION,
        deps=[asset_key(ComparisonStage.name)],
        group_name=ComparisonStage.group,
        description=(
            "The new release becomes the promoted one of its recipe, if no gate refused it.\n\n"
            "It reads the verdicts of `comparison` again, runs every blocking check before it again, checks every file "
            "and loads the model; then one link moves, and the history says so. A release that was rolled back or "
            "refused stays so."
        ),
        owners=[OWNER],
        kinds={"link"},
        code_version="1",
        metadata={"dagster/code_references": code_references(promote)},
    )
    def promotion(
        context: dg.AssetExecutionContext, parakeet_home: dg.ResourceParam[ParakeetHome]
    ) -> dg.MaterializeResult:
        progress, root = Progress(), parakeet_home.root
        with failures_explained("promoting the release", root):
            build = parakeet_home.build()
            with decisions_told(root, build.recipe, partial(release_of, build), context.run_id):
                release, comparison = build.artifact("release"), build.artifact(ComparisonStage.name)
                comparison.check(thorough=True)
                in_use = chosen_recipe_name(root) == build.recipe.name
                judgement = whole_judgement(build, comparison)
                if warning := judgement.figures.get("warning"):
                    progress.say(f"Warning: {warning}")
                outcome = promote(root, release, judgement, takes_chat=in_use, run=context.run_id)
                promoted, messages = find_incumbent(root, build.recipe.name)
                for message in (*messages, *outcome.messages):
                    progress.say(message)
                how = "promoted" if outcome.is_promoted else "not promoted"
                progress.say(f"{PROMOTION:<24}{how:<18}{release.path.name}")
                content = Artifact.open(promoted).content if promoted is not None else "none"
                return dg.MaterializeResult(metadata=_metadata(outcome, release), data_version=dg.DataVersion(content))

    return promotion


def _metadata(outcome: Outcome, release: Artifact) -> dict[str, Any]:
    decision = outcome.decision
    before = None if decision.previous is None else release.path.with_name(decision.previous)
    figures = {name: value for name, value in decision.figures.items() if isinstance(value, int | float | str)}
    return {
        **metadata_of({"bits_per_byte": beside(release.path, before)}, decision.recipe),
        "promoted": outcome.is_promoted,
        "decision": f"{decision.action.replace('_', ' ')} on {format_time(decision.time)}",
        "release": decision.release,
        "previous": decision.previous or "none",
        "recipe": decision.recipe,
        **({"reasons": " ".join(decision.reasons)} if decision.reasons else {}),
        **({"note": " ".join(outcome.messages)} if outcome.messages else {}),
        **metadata_of(figures, decision.recipe),
        "path": dg.MetadataValue.path(str(release.path)),
    }
