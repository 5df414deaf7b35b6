"""Asset `promotion`: whether the new release replaces the promoted one. It is no artefact but an action."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets_defs.assets import failures_explained
from assets_defs.code import code_references
from assets_defs.keys import OWNER, asset_key
from assets_defs.metadata import metadata_of
from assets_defs.notices import decisions_told, release_of
from assets_defs.resources import ParakeetHome
from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.formatting import format_time, markdown_table
from parakeet.gates.stage import ComparisonStage, judgement_of
from parakeet.home import release_folder
from parakeet.progress import Progress
from parakeet.release.promotion import Outcome, find_incumbent, promote
from parakeet.stages import PROMOTION, recipe_in_use


def promotion_asset() -> dg.AssetsDefinition:
    @dg.asset(
        name=PROMOTION,
        deps=[asset_key(ComparisonStage.name)],
        group_name=ComparisonStage.group,
        description=(
            "The new release becomes the promoted one of its recipe, if no gate refused it.\n\n"
            "It reads the verdicts of `comparison` again, checks every file and loads the model; then one link moves, "
            "and the history says so. A release that was rolled back or refused stays so."
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
                in_use = recipe_in_use(root) == build.recipe.name
                outcome = promote(root, release, judgement_of(comparison), takes_chat=in_use, run=context.run_id)
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
    figures = {name: value for name, value in decision.figures.items() if isinstance(value, int | float | str)}
    return {
        "bits_per_byte": dg.MetadataValue.md(_scores(release, decision.previous)),
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


def _scores(release: Artifact, previous: str | None) -> str:
    """Held-out bits per byte by source, of the release and of the one before it: each on its own held-out text."""
    before = _bits(release_folder(release.path.parents[1]) / previous) if previous else {}
    rows = [(source, _shown(bits), _shown(before.get(source))) for source, bits in _bits(release.path).items()]
    return markdown_table(("source", release.path.name, previous or "no earlier release"), rows, right=(1, 2))


def _bits(release: Path) -> dict[str, float | None]:
    try:
        return dict(Artifact.open(release).counts.get("bits_per_byte", {}))
    except (ParakeetError, OSError):  # it was removed
        return {}


def _shown(bits: float | None) -> str:
    return "–" if bits is None else f"{bits:.3f}"
