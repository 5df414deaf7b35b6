"""Stages `source_files/<source>`: one for each source that has to be fetched, so that each is fetched alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.formatting import format_bytes
from parakeet.recipe import Recipe
from parakeet.recipe_sources import RemoteSource, remote_sources, source_stage
from parakeet.stage import Figures, FigureTable, MakeContext, Stage

SHOWN_FILES = 200


class SourceFilesStage(Stage):
    group = "sources"
    version = 2
    resumable = True
    detail = "What has arrived is kept if a fetch is interrupted or refused, and checked against what was published."

    def __init__(self, source: RemoteSource) -> None:
        self.source = source
        self.name = source_stage(source)
        self.summary = f"The files of the source {source.name}, as they were published ({source.licence})."
        self.kinds = frozenset({source.storage})

    def _source(self, recipe: Recipe) -> RemoteSource:
        sources = remote_sources([*recipe.sources, *recipe.decontamination.sets])
        return next(source for source in sources if source.name == self.source.name)

    def _share(self, recipe: Recipe) -> float:
        """Share that is fetched. An evaluation set is fetched whole, or a part of it would be trained on."""
        whole = any(chosen.name == self.source.name for chosen in recipe.decontamination.sets)
        return 1.0 if whole else recipe.limit

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        return {"source": self._source(recipe).fetch_settings(), "limit": self._share(recipe)}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 0

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.download.sources import fetch_source

        recipe = context.recipe
        return fetch_source(self._source(recipe), self._share(recipe), context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['files']:,} files, {format_bytes(counts['bytes'])}"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        rows = [(e["name"], e["bytes"], e["sha256"][:12], e["origin"]) for e in counts["entries"][:SHOWN_FILES]]
        return {
            "licence": self.source.licence,
            **{key: counts[key] for key in ("dataset", "revision", "sliced") if key in counts},
            "n_files": counts["files"],
            "files": FigureTable(("file", "bytes", "sha256", "origin"), rows),
        }
