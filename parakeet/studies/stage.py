"""Stage `measurements`: the figures that a study asks of one of its models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.benchmark_files import benchmark_files
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.stage import MakeContext, Stage
from parakeet.studies.measures import versions


class MeasurementsStage(Stage):
    name = "measurements"
    group = "studies"
    summary = "What a study measures of one of its models."
    kinds = frozenset({"pytorch"})

    def __init__(self, measures: Sequence[str]) -> None:
        self.measures = tuple(measures)

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        index = ("trace_index",) if "benchmarks" in self.measures and recipe.evaluation.trace_index else ()
        return ("checkpoint", "token_shards", "packing_plan", "tokenizer", "documents", *index)

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        """The data of the benchmarks."""
        if "benchmarks" not in self.measures:
            return {}
        return {f"benchmark/{file.task}/{file.split}": file.path for file in benchmark_files(recipe)}

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The measures with their versions, and what of the recipe they read."""
        evaluation = settings_of(recipe.evaluation, without={"trace_index", "benchmarks"})
        if recipe.evaluation.benchmarks:
            evaluation["benchmarks"] = settings_of(recipe.evaluation.benchmarks, without={"data"})
        return {
            "measures": versions(self.measures),
            "evaluation": evaluation,
            "packing": settings_of(recipe.packing),
            "shards": settings_of(recipe.shards),
            "sources": [settings_of(source) for source in recipe.sources if source.kind == "random"],
        }

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 1 << 20

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.studies.measuring import make_measurements

        return make_measurements(self.measures, context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return ", ".join(counts)
