"""Stage `clean_documents`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.benchmark_files import searched_sets
from parakeet.data.reading.earlier_files import earlier_files
from parakeet.data.reading.stage import local_files
from parakeet.recipe import Recipe
from parakeet.recipe_sources import local_sources, remote_sources, settings_for_reading, settings_of, source_stage
from parakeet.stage import Figures, FigureTable, MakeContext, Stage, dropped_table


class CleanDocumentsStage(Stage):
    name = "clean_documents"
    group = "corpus"
    summary = "Documents with normalised text, without rubbish and without what the model is to be tested on."
    detail = "Every document that was dropped is counted under its reason."
    kinds = frozenset({"parquet"})
    version = 4
    valid_versions = (3,)
    resumable = True
    examples_file = "dropped.jsonl"

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("documents", *(source_stage(chosen) for chosen in remote_sources(recipe.decontamination.sets)))

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return local_files(list(searched_sets(recipe).sets))

    def local_sources(self, recipe: Recipe) -> tuple[str, ...]:
        return local_sources(searched_sets(recipe, located=False).sets)

    def files_before(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return earlier_files(searched_sets(recipe).sets)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        sets = [settings_for_reading(chosen) for chosen in searched_sets(recipe, located=False).sets]
        decontamination = settings_of(recipe.decontamination, without={"sets"})
        return {"clean": settings_of(recipe.clean), "decontamination": {"sets": sets, **decontamination}}

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.cleaning.clean import clean_documents

        return clean_documents(
            context.recipe, context.folders, context.output, context.progress, context.refuse_changed
        )

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['documents']:,} kept, {counts['dropped']:,} dropped"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        found = [(name, kind, n) for name, source in counts["sources"].items() for kind, n in source["found"].items()]
        sets = [
            (name, chosen["records"], chosen["found"], chosen["documents"])
            for name, chosen in counts["evaluation_sets"].items()
        ]
        return {
            "row_count": counts["documents"],
            "dropped": counts["dropped"],
            "by_source": dropped_table(counts["sources"]),
            "found": FigureTable(("source", "what", "documents"), found),
            "evaluation_sets": FigureTable(("set", "records", "records found", "documents dropped"), sets),
        }
