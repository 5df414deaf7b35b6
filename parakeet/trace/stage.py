"""Stage `trace_index`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.formatting import format_percent
from parakeet.recipe import Recipe
from parakeet.stage import Figures, MakeContext, Picture, Stage

BYTES_A_TOKEN = 8
"""On disk: three of the token, four of its position, and the keys; a separator and 26 more for each document."""
PLOT_FILE = "repeats.png"


class TraceIndexStage(Stage):
    name = "trace_index"
    group = "tokens"
    summary = "A suffix array of the training text, which finds every copy of a passage in milliseconds."
    detail = "It holds the very tokens that training reads. A match never crosses documents."
    kinds = frozenset({"numpy"})
    records = (PLOT_FILE,)
    switch = "evaluation.trace_index"

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("token_shards", "tokenizer")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        return {}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        train = inputs["token_shards"].counts["train"]
        return BYTES_A_TOKEN * int(train["tokens"]) + 32 * int(train["documents"])

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.trace.make import make_trace_index

        return make_trace_index(context.inputs["token_shards"], context.output, context.progress, PLOT_FILE)

    def headline(self, counts: Mapping[str, Any]) -> str:
        repeats = counts["repeats"]
        found = f", {format_percent(repeats['32']['share'])} of 32-token passages repeat" if repeats else ""
        return f"{counts['tokens']:,} tokens of {counts['documents']:,} documents{found}"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        return {
            "tokens": counts["tokens"],
            "documents": counts["documents"],
            **{
                f"repeated_passages_of_{length}_tokens": round(found["share"], 4)
                for length, found in counts["repeats"].items()
            },
            "bytes_per_token": round(artifact.n_bytes / max(1, counts["tokens"]), 2),
            "index_shards": counts["shards"],
            "repeats_plot": Picture(artifact.path / PLOT_FILE),
        }
