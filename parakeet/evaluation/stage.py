"""Stage `evaluation`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.benchmark_files import benchmark_files
from parakeet.evaluation.base import measured
from parakeet.formatting import format_percent
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.stage import Check, Figures, MakeContext, Markdown, Picture, Stage, Verdict


class EvaluationStage(Stage):
    name = "evaluation"
    group = "model"
    summary = "Held-out bits per byte beside two yardsticks, exact-match accuracy, sensible replies, and some replies."
    detail = "All held-out content counts, whatever was trained on; roles and ends do not."
    kinds = frozenset({"pytorch"})
    version = 3

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        index = ("trace_index",) if recipe.evaluation.benchmarks and recipe.evaluation.trace_index else ()
        return ("checkpoint", "token_shards", "tokenizer", "documents", *index)

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        """The data of the benchmarks."""
        return {f"benchmark/{file.task}/{file.split}": file.path for file in benchmark_files(recipe)}

    def check_requirements(self, recipe: Recipe) -> None:
        if recipe.evaluation.benchmarks:
            from parakeet.evaluation.benchmarks.upstream import check_installed

            check_installed()

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """Its own section, the sequence lengths of the training, and the least text that is measured."""
        from parakeet.evaluation.metrics import METRICS

        versions = {metric.name: metric.version for metric in METRICS if metric.version and metric.wanted(recipe)}
        evaluation = settings_of(recipe.evaluation, without={"trace_index", "benchmarks"})
        if recipe.evaluation.benchmarks:
            # Not where the data is: its content is an input.
            evaluation["benchmarks"] = settings_of(recipe.evaluation.benchmarks, without={"data"})
        return {
            "evaluation": evaluation,
            "sequence_length": recipe.packing.sequence_length,
            "longest": max(recipe.packing.lengths),
            "min_held_out_bytes": recipe.shards.min_held_out_bytes,
            **({"metrics": versions} if versions else {}),
        }

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return sum(artifact.n_bytes for artifact in inputs.values()) // 10

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.evaluation.report import evaluate

        return evaluate(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        found = measured(counts["bits_per_byte"])
        if not found:
            return "nothing measured, for lack of held-out text"
        bits_per_byte = "bits per byte " + ", ".join(f"{name} {bits['model']:.3f}" for name, bits in found.items())
        if "chat" not in counts:
            return bits_per_byte
        return f"{bits_per_byte}; {format_percent(counts['chat']['sensible'])} of replies sensible"

    def figures(self, artifact: Artifact) -> Figures:
        from parakeet.evaluation.benchmarks.metric import mean_centred
        from parakeet.evaluation.metrics import REPORT_FILE, measured_metrics

        counts = artifact.counts
        benchmarks = mean_centred(counts["benchmarks"]) if "benchmarks" in counts else None
        exact = counts["exact_match"] if isinstance(counts["exact_match"], dict) else {}
        return {
            **{f"bits_per_byte_{name}": bits["model"] for name, bits in measured(counts["bits_per_byte"]).items()},
            **{f"exact_{task}": figures["accuracy"] for task, figures in exact.items()},
            **({"sensible_replies": counts["chat"]["sensible"]} if "chat" in counts else {}),
            **({} if benchmarks is None else {"benchmarks_centred": benchmarks}),
            "report": Markdown((artifact.path / REPORT_FILE).read_text(encoding="utf-8")),
            **{f"{m.name}_plot": Picture(artifact.path / m.plot_file) for m in measured_metrics(counts) if m.plot_file},
        }

    def checks(self) -> tuple[Check, ...]:
        summary = (
            "On every source that could be measured the model needs fewer bits than the unigram model and `xz -9`."
        )
        return (Check("beats_the_yardsticks", summary, _beats_the_yardsticks),)


def _beats_the_yardsticks(artifact: Artifact, inputs: Mapping[str, Artifact]) -> Verdict:
    from parakeet.evaluation.bits_per_byte import not_below_yardsticks

    by_source = artifact.counts["bits_per_byte"]
    worse = not_below_yardsticks(by_source)
    description = f"Not below both yardsticks: {', '.join(worse)}." if worse else None
    return Verdict(not worse, description, {"sources_measured": len(measured(by_source))})
