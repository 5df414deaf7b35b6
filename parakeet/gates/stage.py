"""Stage `comparison`: the new release beside the one that it would replace, and the verdict of every gate."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.formatting import format_time
from parakeet.gates.incumbent import compared_release, standing_promotion
from parakeet.gates.names import CHART_FILE, GATES
from parakeet.home import release_folder
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.release.promotion import Judgement, refuse
from parakeet.stage import Check, Figures, FigureTable, MakeContext, Picture, Stage, Verdict

DECIMALS = 4


class ComparisonStage(Stage):
    name = "comparison"
    group = "release"
    summary = "The new release beside the promoted one, both scored on the same held-out documents."
    detail = "Its checks are the gates: a release that fails one is kept and not promoted."
    kinds = frozenset({"pytorch"})

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        memorisation = ("memorisation",) if recipe.evaluation.trace_index else ()
        return ("release", "evaluation", "token_shards", *memorisation)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The bounds, and how much text is scored."""
        return {
            "recipe": recipe.name,
            "gates": None if recipe.gates is None else settings_of(recipe.gates),
            "max_bytes": recipe.evaluation.max_bytes,
        }

    def settings_of_store(self, recipe: Recipe, root: Path, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
        """The release to compare with."""
        return {"incumbent": compared_release(root, recipe.name, inputs["release"])}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 4 * recipe.evaluation.max_bytes * len(recipe.sources) + (1 << 20)

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.gates.compare import make_comparison

        of_store = self.settings_of_store(context.recipe, context.root, context.inputs)
        return make_comparison(context, of_store["incumbent"])

    def conclude(self, root: Path, artifact: Artifact) -> None:
        """Record a refusal, once: Dagster skips the promotion after a failed check, which says why."""
        judgement = judgement_of(artifact)
        if judgement.reasons:
            refuse(root, Artifact.open(release_folder(root) / judgement.release), judgement)

    def headline(self, counts: Mapping[str, Any]) -> str:
        if refused := [gate["name"] for gate in counts["gates"] if not gate["passed"]]:
            return f"refused: {', '.join(refused)}"
        return f"passes {len(counts['gates'])} gates, compared with {counts['incumbent'] or 'no earlier release'}"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        rows = [(one["name"], "passed" if one["passed"] else "failed", one["reason"]) for one in counts["gates"]]
        chart = artifact.path / CHART_FILE
        return {
            **{name: round(value, DECIMALS) for name, value in counts["figures"].items() if isinstance(value, float)},
            "release": counts["release"],
            "incumbent": counts["incumbent"] or "none",
            "gates": FigureTable(("gate", "verdict", "why"), rows),
            **({"differences": Picture(chart)} if chart.is_file() else {}),
        }

    def checks(self) -> tuple[Check, ...]:
        return tuple(Check(name, asks, partial(_verdict, name), blocking=True) for name, asks in GATES.items())


def judgement_of(comparison: Artifact) -> Judgement:
    """What the gates say of the release that was compared."""
    counts = comparison.counts
    reasons = tuple(str(gate["reason"]) for gate in counts["gates"] if not gate["passed"])
    return Judgement(counts["release"], counts["incumbent"], reasons, counts["figures"])


def _verdict(name: str, artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    """A gate of a release that is promoted all the same, by hand or under other bounds, stops no build."""
    gate = next(gate for gate in artifact.counts["gates"] if gate["name"] == name)
    numbers = {key: round(gate[key], DECIMALS) for key in ("found", "bound") if gate[key] is not None}
    decision = standing_promotion(artifact.path.parents[1], artifact.counts["release"])
    if gate["passed"] or decision is None:
        return Verdict(gate["passed"], gate["reason"], numbers)
    why = f" ({' '.join(decision.reasons)})" if decision.reasons else ""
    return Verdict(
        True, f"Failed, and promoted all the same on {format_time(decision.time)}{why}. {gate['reason']}", numbers
    )
