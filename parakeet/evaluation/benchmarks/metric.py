"""Standard benchmarks as a metric of the evaluation, and their table."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.benchmark_files import tasks_of
from parakeet.evaluation.base import Metric, Score, Subject
from parakeet.evaluation.shares import plot_shares
from parakeet.formatting import format_percent
from parakeet.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

NO_INDEX = "the recipe has no trace index (evaluation.trace_index)"


class StandardBenchmarks(Metric):
    """{"lm_eval", "items", "tasks", "no_index"}: the version of lm-evaluation-harness, the most items of a task, the
    figures of `harness.score_tasks`, and why no item was looked up in the training text, or None."""

    name = "benchmarks"
    version = 1
    title = "Standard benchmarks"
    introduction = (
        "Zero-shot, by lm-evaluation-harness and its prompts. Centred accuracy is 0 for guessing and 100% for all "
        "right. Normalised accuracy divides each score by the answer's length. Bits per byte are those of the right "
        "answer: lower is better, and they fall long before accuracy rises. Ties count as wrong."
    )
    plot_file = "benchmarks.png"
    plot_title = "Accuracy in standard benchmarks"

    def wanted(self, recipe: Recipe) -> bool:
        return recipe.evaluation.benchmarks is not None

    def measure(self, subject: Subject) -> dict[str, Any]:
        from parakeet.evaluation.benchmarks.data import read_tasks
        from parakeet.evaluation.benchmarks.harness import score_tasks
        from parakeet.evaluation.benchmarks.scorer import ModelScorer

        asked = subject.recipe.evaluation.benchmarks
        assert asked is not None
        data = read_tasks(Path(asked.data), tasks_of(asked), asked.items)
        model = ModelScorer(subject.model, subject.tokenizer)
        tasks = score_tasks(model, data, subject.progress, subject.trace_index, subject.tokenizer)
        no_index = None if subject.trace_index else NO_INDEX
        return {"lm_eval": version("lm_eval"), "items": asked.items, "tasks": tasks, "no_index": no_index}

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        return [benchmark_table(figures), *notes(figures)]

    def scores(self, figures: Mapping[str, Any]) -> list[Score]:
        return [
            Score(name, right["share"], right["n"], "items", tuple(right["interval"]), found["chance"])
            for name, found in figures["tasks"].items()
            if (right := found["accuracy"])
        ]

    def plot(self, figures: Mapping[str, Any], palette: "Palette") -> "Figure":
        tasks = {name: found for name, found in figures["tasks"].items() if found["accuracy"]}
        shares = {name: found["accuracy"] for name, found in tasks.items()}
        chance = {name: found["chance"] for name, found in tasks.items()}
        return plot_shares(palette, {self.title: shares}, "right, % (dashed: chance)", chance)


COLUMNS = ("task", "split", "items", "accuracy", "95% interval", "chance", "centred", "normalised", "bits per byte")


def benchmark_table(figures: Mapping[str, Any]) -> "Table":
    """A row for each task."""
    from parakeet.pages import Table

    looked_up = any(found["contamination"] for found in figures["tasks"].values())
    rows = []
    for name, found in figures["tasks"].items():
        low, high = map(format_percent, found["accuracy"]["interval"]) if found["accuracy"] else ("", "")
        items = f"{found['n']:,}" + (f" of {found['available']:,}" if found["n"] < found["available"] else "")
        row: list[object] = [name, found["split"], items, _share(found["accuracy"])]
        row += [f"{low} to {high}" if found["accuracy"] else ""]
        row += ["" if found[key] is None else format_percent(found[key]) for key in ("chance", "centred")]
        row += [_share(found["normalised"]), f"{found['bits_per_byte']['value']:.3f}"]
        if looked_up:
            contamination = found["contamination"]
            row += [_share(contamination["found"]), _share(contamination.get("clean"))]
        rows.append(row)
    columns = [*COLUMNS, *(("in training text", "without those") if looked_up else ())]
    return Table(columns, rows, right=range(2, len(columns)))


def _share(found: Mapping[str, Any] | None) -> str:
    return format_percent(found["share"]) if found else ""


def mean_centred(figures: Mapping[str, Any]) -> float | None:
    """The mean centred accuracy of all tasks that have one, to four places."""
    centred = [found["centred"] for found in figures["tasks"].values() if found["centred"] is not None]
    return round(sum(centred) / len(centred), 4) if centred else None


def notes(figures: Mapping[str, Any]) -> list[str]:
    """What the table needs in words: the mean, ties, truncated and repeated items, the lookup."""
    tasks = figures["tasks"]
    said = []
    if len(tasks) > 1 and (mean := mean_centred(figures)) is not None:
        said.append(f"Mean centred accuracy: {format_percent(mean)}.")
    for name, found in tasks.items():
        if found["ties"]:
            share = format_percent(found["lm_eval"]["acc"])
            said.append(
                f"{name}: {found['ties']:,} of {found['n']:,} items are ties and count as wrong. "
                f"lm-evaluation-harness takes the first answer, which gives {share}."
            )
        if found["truncated"]:
            said.append(
                f"{name}: {found['truncated']:,} of {found['n']:,} items are longer than the model's context, and lose "
                "their beginning."
            )
        if found["copies"]:
            said.append(f"{name}: {found['copies']:,} of its {found['available']:,} items repeat others.")
    if figures["no_index"]:
        said.append(f"Items were not looked up in the training text: {figures['no_index'].rstrip('.')}.")
    elif any(found["contamination"] and found["contamination"]["found"]["share"] for found in tasks.values()):
        said.append(
            "An item stands in the training text if they share 13 tokens in a row, all of a shorter item, or passages "
            "of 8 tokens that cover half of it."
        )
    return said
