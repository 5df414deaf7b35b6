"""Stage `evaluation`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.benchmark_files import benchmark_files
from parakeet.evaluation.base import Metric, measured
from parakeet.formatting import format_percent
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.stage import Check, Figures, MakeContext, Markdown, Picture, Stage, Verdict

DECIMALS = 3


class EvaluationStage(Stage):
    name = "evaluation"
    group = "model"
    summary = "Held-out bits per byte beside two yardsticks, grammar, exact and sensible replies, probes, and loops."
    detail = "Each figure has its n and its 95 % interval. Roles and ends are no content."
    kinds = frozenset({"pytorch"})
    version = 4
    valid_versions = (3,)

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

        return _settings(recipe, METRICS)

    def settings_before(self, recipe: Recipe) -> dict[str, Any]:
        from parakeet.evaluation.metrics import METRICS

        return _settings(recipe, [metric for metric in METRICS if metric.since <= max(self.valid_versions)])

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return sum(artifact.n_bytes for artifact in inputs.values()) // 10

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.evaluation.report import evaluate

        return evaluate(context.recipe, context.folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        found = measured(counts["bits_per_byte"])
        bits_per_byte = ", ".join(f"{name} {bits['model']:.3f}" for name, bits in found.items())
        parts = [f"bits per byte {bits_per_byte}" if found else "nothing measured, for lack of held-out text"]
        if "minimal_pairs" in counts:
            parts.append(f"{format_percent(counts['minimal_pairs']['all']['share'])} of minimal pairs right")
        if "chat" in counts:
            parts.append(f"{format_percent(counts['chat']['sensible'])} of replies sensible")
        return "; ".join(parts)

    def figures(self, artifact: Artifact) -> Figures:
        from parakeet.evaluation.metrics import REPORT_FILE, measured_metrics

        counts = artifact.counts
        return {
            **rounded_figures(counts),
            "report": Markdown((artifact.path / REPORT_FILE).read_text(encoding="utf-8")),
            **{f"{m.name}_plot": Picture(artifact.path / m.plot_file) for m in measured_metrics(counts) if m.plot_file},
        }

    def checks(self) -> tuple[Check, ...]:
        summary = (
            "On every source that could be measured the model needs fewer bits than the unigram model and `xz -9`."
        )
        return (Check("beats_the_yardsticks", summary, _beats_the_yardsticks),)


def _settings(recipe: Recipe, metrics: Sequence[Metric]) -> dict[str, Any]:
    versions = {metric.name: metric.version for metric in metrics if metric.version and metric.wanted(recipe)}
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


def rounded_figures(counts: Mapping[str, Any]) -> Figures:
    """Numbers that Dagster plots over the builds, of most interest first; those that an evaluation has.

    Bits per byte of all sources together, shares of 1, and then both by source and task.
    """
    from parakeet.evaluation.benchmarks.metric import mean_centred

    bits = measured(counts["bits_per_byte"])
    exact = counts["exact_match"] if isinstance(counts["exact_match"], dict) else {}
    found: Figures = {}
    if bits:
        n_bytes = sum(one["n_bytes"] for one in bits.values())
        found["bits_per_byte"] = sum(one["model"] * one["n_bytes"] for one in bits.values()) / n_bytes
    if "chat" in counts:
        found["sensible_replies"] = counts["chat"]["sensible"]
    if exact:
        questions = sum(one["questions"] for one in exact.values())
        found["exact_answers"] = sum(one["accuracy"] * one["questions"] for one in exact.values()) / questions
    if "minimal_pairs" in counts:
        found["minimal_pairs"] = counts["minimal_pairs"]["all"]["share"]
    if "benchmarks" in counts and (centred := mean_centred(counts["benchmarks"])) is not None:
        found["benchmarks_centred"] = centred
    found |= {f"probe_{name}": one["share"] for name, one in counts.get("probes", {}).items()}
    found |= {f"bits_per_byte_{name}": one["model"] for name, one in bits.items()}
    found |= {f"exact_{task}": one["accuracy"] for task, one in exact.items()}
    return {name: round(value, DECIMALS) for name, value in found.items()}


def _beats_the_yardsticks(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    from parakeet.evaluation.bits_per_byte import not_below_yardsticks

    by_source = artifact.counts["bits_per_byte"]
    worse = not_below_yardsticks(by_source)
    description = f"Not below both yardsticks: {', '.join(worse)}." if worse else None
    return Verdict(not worse, description, {"sources_measured": len(measured(by_source))})
