"""Stages `tokenizer`, `token_shards` and `packing_plan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_sources import MixSettings, settings_of
from parakeet.stage import Check, Figures, FigureTable, MakeContext, Stage, Verdict

PLANTED_BYTES = 600
"""Disk space of a canary's copy, at one token a character."""


class TokenizerStage(Stage):
    name = "tokenizer"
    group = "tokens"
    summary = "The vocabulary and control tokens that turn text into ids."
    detail = "Held-out text has no part in a trained vocabulary."
    kinds = frozenset({"tiktoken"})
    version = 3
    valid_versions = (2,)

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        """cl100k_base is the same whatever the corpus holds, so that new text does not rebuild it."""
        return () if recipe.tokenizer.kind == "cl100k_base" else ("deduplicated_documents",)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        return settings_of(recipe.tokenizer)

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return 0

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.tokens.vocabulary import make_tokenizer

        return make_tokenizer(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['tokens']:,} tokens ({counts['kind']})"

    def figures(self, artifact: Artifact) -> Figures:
        shown = ("kind", "tokens", "embedding_rows", "bytes_per_token", "sha256")
        return {key: artifact.counts[key] for key in shown}


class TokenShardsStage(Stage):
    name = "token_shards"
    group = "tokens"
    summary = "The corpus as ids, in Arrow files that memory-map, with training and held-out documents apart."
    detail = "Roles and ends are ids; no text can spell one."
    kinds = frozenset({"arrow"})
    version = 2
    resumable = True

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("deduplicated_documents", "tokenizer")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        names = sorted(source.name for source in recipe.sources)
        planted = {} if recipe.canaries is None else {"canaries": settings_of(recipe.canaries)}
        return {"shards": settings_of(recipe.shards), "sources": names, **planted}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        planted = 0 if recipe.canaries is None else PLANTED_BYTES * recipe.canaries.documents
        return 4 * sum(artifact.n_bytes for artifact in inputs.values()) + planted

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.tokens.tokenise import make_token_shards

        return make_token_shards(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['train']['tokens']:,} tokens, {counts['held_out']['tokens']:,} held out"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        rows = [
            (name, split, tally["documents"], tally["tokens"], tally["bytes"])
            for split in ("train", "held_out")
            for name, tally in counts[split]["sources"].items()
        ]
        return {
            "tokens": counts["train"]["tokens"],
            "held_out_tokens": counts["held_out"]["tokens"],
            "by_source": FigureTable(("source", "split", "documents", "tokens", "bytes"), rows),
        }

    def checks(self) -> tuple[Check, ...]:
        whole = "Every file has its recorded hash and every counted document, in ids of this tokenizer."
        clean = "Of a sample of the training documents, none holds text of an evaluation set."
        return (
            Check("shards_are_whole", whole, _shards_are_whole, blocking=True),
            Check("shards_hold_no_evaluation_text", clean, _no_evaluation_text, blocking=True),
        )


def _shards_are_whole(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    from parakeet.data.tokens.check import fault_of_shards
    from parakeet.tokenizer import Tokenizer

    counts = artifact.counts
    documents = {split: counts[split]["documents"] for split in ("train", "held_out")}
    try:
        artifact.check(thorough=True)
        fault, largest = fault_of_shards(artifact.path, counts, Tokenizer.load(inputs["tokenizer"].path))
    except ParakeetError as error:
        return Verdict(False, str(error))
    if fault is not None:
        return Verdict(False, f"{fault} Run the same build again with: --force token_shards", documents)
    return Verdict(True, figures={"largest_id": largest, **documents})


def _no_evaluation_text(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    from parakeet.benchmark_files import searched_sets

    if not searched_sets(recipe).sets:
        return Verdict(True, "The recipe names no evaluation set.")
    from parakeet.data.tokens.check import contaminated, fetched_sets
    from parakeet.tokenizer import Tokenizer

    try:
        found = contaminated(artifact, recipe, fetched_sets(artifact), Tokenizer.load(inputs["tokenizer"].path))
    except ParakeetError as error:
        return Verdict(False, str(error))
    if not found:
        return Verdict(True, figures={"contaminated": 0})
    remedy = "Run the same build again with: --force clean_documents"
    return Verdict(
        False, f"Text of an evaluation set is trained on: {found[0]}. {remedy}", {"contaminated": len(found)}
    )


class PackingPlanStage(Stage):
    name = "packing_plan"
    group = "tokens"
    summary = "Which pieces of which documents share a training sequence, so that no token and hardly a slot is lost."
    detail = "Best-fit decreasing. Pieces of a split document overlap by one token, so that each token is predicted."
    kinds = frozenset({"arrow"})
    version = 3

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("token_shards",)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The order of the sequences (`seed`) and the share of each length are the loader's, not the plan's."""
        mix = {source.name: settings_of(source, part=MixSettings) for source in recipe.sources}
        without = {"sequence_length", "then", "seed"}
        lengths = sorted(set(recipe.packing.lengths))
        return {**settings_of(recipe.packing, without=without), "sequence_lengths": lengths, "mix": mix}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return sum(artifact.n_bytes for artifact in inputs.values()) // 2

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.data.tokens.packing import make_packing_plan

        return make_packing_plan(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        plans = counts["lengths"].values()
        return ", ".join(f"{c['rows']:,} sequences of {c['row_tokens']:,} tokens, {c['fill']:.2%} full" for c in plans)

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        plans = [
            (plan["row_tokens"], plan["rows"], f"{plan['fill']:.2%}", plan["split_documents"])
            for plan in counts["lengths"].values()
        ]
        mix = [
            (name, seen["documents"], seen["tokens"], f"{seen['share']:.2%}", f"{seen['epochs']:.3g}")
            for name, seen in counts["mix"].items()
        ]
        return {
            "sequences": counts["rows"],
            "sequence_length": counts["row_tokens"],
            **{key: counts[key] for key in ("targets", "fill", "pieces", "split_documents")},
            "mix": FigureTable(("source", "documents", "tokens", "share", "epochs"), mix),
            "lengths": FigureTable(("sequence length", "sequences", "fill", "split documents"), plans),
        }
