"""Stage `documents`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.data.reading.earlier_files import earlier_files
from parakeet.recipe import Recipe
from parakeet.recipe_sources import FileSource, local_sources, remote_sources, settings_for_reading, source_stage
from parakeet.stage import Figures, FigureTable, MakeContext, Stage


def local_files(sources: "list[Any]") -> dict[str, Path]:
    """Files of the sources that lie on this machine, as `<source>/<name>`. Raises ParakeetError if one is missing."""
    from parakeet.data.reading.sources import find_files

    return {
        # By the parts: `relative_to` takes 20 µs a file.
        f"{source.name}/{'/'.join(path.parts[depth:])}": path
        for source in sources
        if isinstance(source, FileSource)
        for found in (find_files(source),)
        for depth in (len(found.root.parts),)
        for path in found.files
    }


class DocumentsStage(Stage):
    name = "documents"
    group = "corpus"
    summary = "Every record of the recipe's sources in one shape: turns with a role, a source and a licence."
    detail = "Bad records are counted by reason. More of them than `bad_records` (1 %) stop the build."
    kinds = frozenset({"parquet"})
    version = 4
    valid_versions = (3,)
    resumable = True
    examples_file = "problems.jsonl"

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return tuple(source_stage(source) for source in remote_sources(recipe.sources))

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return local_files(list(recipe.sources))

    def local_sources(self, recipe: Recipe) -> tuple[str, ...]:
        return local_sources(recipe.sources)

    def files_before(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return earlier_files(recipe.sources)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """Where a source comes from is left out: the content of its files is an input."""
        return {
            "sources": [settings_for_reading(source) for source in recipe.sources],
            "questions_per_task": recipe.evaluation.questions_per_task,
            "limit": recipe.limit,
        }

    def check_requirements(self, recipe: Recipe) -> None:
        from parakeet.data.preflight import refuse_unmet_data

        refuse_unmet_data(recipe)

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.reading.collect import collect_documents

        # By which a later build tells how much a file has grown. A file that changes meanwhile is noticed.
        sizes = {label: path.stat().st_size for label, path in self.files(context.recipe, context.root).items()}
        counts = collect_documents(
            context.recipe, context.folders, context.output, context.progress, context.refuse_changed
        )
        return {**counts, "file_bytes": sizes}

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['documents']:,} document{'s' * (counts['documents'] != 1)} of {', '.join(counts['sources'])}"

    def figures(self, artifact: Artifact) -> Figures:
        sources = artifact.counts["sources"]
        columns = ("files", "records", "documents", "bad", "not_taken", "licence")
        unread = [(name, kind, n) for name, source in sources.items() for kind, n in source.get("unread", {}).items()]
        rows = [(name, *(source[column] for column in columns)) for name, source in sources.items()]
        bad = [(name, reason, count) for name, s in sources.items() for reason, count in s["bad_reasons"].items()]
        return {
            "row_count": artifact.counts["documents"],
            "sources": FigureTable(("source", *(column.replace("_", " ") for column in columns)), rows),
            "bad_records": FigureTable(("source", "reason", "records"), bad),
            "files_left_out": FigureTable(("source", "ending", "files"), unread),
        }
