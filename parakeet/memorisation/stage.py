"""Stage `memorisation`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.stage import Figures, MakeContext, Markdown, Picture, Stage


class MemorisationStage(Stage):
    name = "memorisation"
    group = "model"
    summary = "Learned or memorised: what the model repeats of its training text, and what it predicts beyond it."
    detail = "Held-out text is the floor of every figure. Left out if `evaluation.trace_index` is false."
    kinds = frozenset({"pytorch"})
    follows = ("checkpoint",)
    switch = "evaluation.trace_index"
    version = 1

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("checkpoint", "token_shards", "packing_plan", "tokenizer", "trace_index")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """How text is cut into pieces. It also reads how long training took, but that decides the checkpoint too."""
        return {"packing": settings_of(recipe.packing)}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 1 << 20

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.memorisation.measure import make_memorisation

        return make_memorisation(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        found = headline_figures(counts)
        told = {
            "margin_over_ngrams": "{:+.3f} bits per byte over n-grams",
            "extracted_training": "{:.1%} of training passages extracted",
            "extracted_held_out": "{:.1%} of held-out ones",
        }
        said = [text.format(found[key]) for key, text in told.items() if key in found]
        return f"{counts['verdict']['answer']}: {', '.join(said)}" if said else counts["verdict"]["answer"]

    def figures(self, artifact: Artifact) -> Figures:
        from parakeet.memorisation.sections import charts

        counts = artifact.counts
        return {
            **{key: round(value, 3) for key, value in headline_figures(counts).items()},
            "answer": counts["verdict"]["answer"],
            "verdict": Markdown(counts["verdict"]["text"]),
            **{name: Picture(artifact.path / f"{name}.png") for name in charts(counts)},
        }


def headline_figures(counts: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a person looks for first, of those that could be measured."""
    found: dict[str, float] = {}
    if counts["margin"]:
        found["margin_over_ngrams"] = counts["margin"]["margin"]["value"]
    if k := counts["extraction"]["prefix"]:
        shares = counts["extraction"]["by_prefix"][k]
        found["extracted_training"] = shares["train"]["share"]
        found["extracted_held_out"] = shares["held_out"]["share"]
    if counts["gap"]["all"]:
        found["gap"] = counts["gap"]["all"]["gap"]["value"]
    return found
