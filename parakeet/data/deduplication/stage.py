"""Stage `deduplicated_documents`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.recipe import Recipe
from parakeet.recipe_sources import CopySettings, settings_of
from parakeet.stage import Figures, MakeContext, Stage, dropped_table


class DeduplicatedDocumentsStage(Stage):
    name = "deduplicated_documents"
    group = "corpus"
    summary = "One document of each cluster of exact and near duplicates, split into training and held-out ones."
    detail = "A cluster with one held-out member is held out whole."
    kinds = frozenset({"parquet"})
    version = 4
    valid_versions = (3,)
    resumable = True
    examples_file = "clusters.jsonl"

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("clean_documents",)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        sources = {source.name: settings_of(source, part=CopySettings) for source in recipe.sources}
        return {"deduplication": settings_of(recipe.deduplication), "sources": sources}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 2 * super().expected_bytes(recipe, inputs, file_bytes, root)

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.deduplication.deduplicate import deduplicate_documents

        return deduplicate_documents(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['documents']:,} kept, {counts['exact_duplicates'] + counts['near_duplicates']:,} duplicates"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        shown = ("held_out", "exact_duplicates", "near_duplicates", "exchanges_cut")
        clusters = counts["clusters"]
        return {
            "row_count": counts["documents"],
            **{key: counts[key] for key in shown},
            **{f"{kind}_clusters": number for kind, number in clusters.items() if kind != "largest"},
            "largest_cluster": clusters["largest"],
            "by_source": dropped_table(counts["sources"]),
        }
