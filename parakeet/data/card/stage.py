"""Stage `data_card`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.benchmark_files import searched_sets
from parakeet.data.cleaning.stage import CleanDocumentsStage
from parakeet.data.deduplication.stage import DeduplicatedDocumentsStage
from parakeet.data.reading.earlier_files import earlier_files
from parakeet.data.reading.stage import DocumentsStage, local_files
from parakeet.data.tokens.stages import PackingPlanStage
from parakeet.recipe import Recipe
from parakeet.recipe_sources import local_sources, remote_sources, settings_of, source_stage
from parakeet.stage import Figures, MakeContext, Markdown, PageLink, Stage


class DataCardStage(Stage):
    name = "data_card"
    group = "tokens"
    summary = "What the corpus holds, by source, as a page: sizes, licences, what was dropped and why, examples."
    detail = "Every record is accounted for, or the card says which is not."
    kinds = frozenset({"html", "markdown"})
    follows = ("packing_plan",)
    version = 3
    valid_versions = (2,)

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        """The fetched sources too: the card names every file, and two files may give the same text."""
        stages = ("documents", "clean_documents", "deduplicated_documents", "tokenizer", "token_shards", "packing_plan")
        fetched = remote_sources([*recipe.sources, *recipe.decontamination.sets])
        return (*stages, *(source_stage(source) for source in fetched))

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return local_files([*recipe.sources, *searched_sets(recipe).sets])

    def local_sources(self, recipe: Recipe) -> tuple[str, ...]:
        return local_sources([*recipe.sources, *searched_sets(recipe, located=False).sets])

    def files_before(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        return earlier_files([*recipe.sources, *searched_sets(recipe).sets])

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """All that the data stages read: two recipes may give the same text and differ in what the card tells of it."""
        stages = (DocumentsStage(), CleanDocumentsStage(), DeduplicatedDocumentsStage(), PackingPlanStage())
        return {
            "stages": {stage.name: stage.settings(recipe) for stage in stages},
            "sources": {s.name: {"kind": s.kind, **settings_of(s, without={"path"})} for s in recipe.sources},
            "name": recipe.name,
            "description": recipe.description,
            "shards": settings_of(recipe.shards),
            "tokenizer": settings_of(recipe.tokenizer),
        }

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 0

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.card.make import make_data_card

        return make_data_card(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['sources']} source{'s' * (counts['sources'] != 1)}, {counts['tokens']:,} tokens"

    def figures(self, artifact: Artifact) -> Figures:
        from parakeet.data.card.make import HTML_FILE, MARKDOWN_FILE

        page = (artifact.path / HTML_FILE).resolve()
        shown = ("sources", "documents", "tokens", "held_out_tokens", "licences", "unknown_licences", "unaccounted")
        return {
            "page": PageLink(page),
            "page_file": page,
            "card": Markdown((artifact.path / MARKDOWN_FILE).read_text(encoding="utf-8")),
            **{name: artifact.counts[name] for name in shown},
        }
