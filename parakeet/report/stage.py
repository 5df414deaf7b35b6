"""Stage `report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.recipe import Recipe
from parakeet.release.report_files import HTML_FILE, MARKDOWN_FILE, PICTURE_FILE, REPORT_STAGE
from parakeet.stage import Figures, MakeContext, Markdown, PageLink, Picture, Stage


class ReportStage(Stage):
    name = REPORT_STAGE
    group = "model"
    summary = "The model on one page: its text, its training, its scores beside chance, and what it says."
    detail = (
        "It also reads what is no input: the release that is promoted when it is made, and replies of the earlier "
        "checkpoints that the training run still has. The release carries it."
    )
    kinds = frozenset({"html", "markdown"})
    follows = ("evaluation", "memorisation")

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        memorisation = ("memorisation",) if recipe.evaluation.trace_index else ()
        text = ("documents", "tokenizer", "token_shards", "packing_plan")
        return (*text, "checkpoint", "evaluation", *memorisation)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        licences = {source.name: source.licence for source in recipe.sources}
        return {"name": recipe.name, "description": recipe.description, "licences": licences}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 0

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.report.make import make_report

        return make_report(context.recipe, context.root, context.inputs, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return counts["in_words"] or "nothing was measured"

    def figures(self, artifact: Artifact) -> Figures:
        page = (artifact.path / HTML_FILE).resolve()
        return {
            **artifact.counts["figures"],
            "page": PageLink(page),
            "page_file": page,
            "scores": Picture(artifact.path / PICTURE_FILE),
            "report": Markdown((artifact.path / MARKDOWN_FILE).read_text(encoding="utf-8")),
        }
