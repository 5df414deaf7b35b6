"""Runs benchmarks through lm-evaluation-harness, and makes figures of what it returns.

Prompts, requests and metrics are upstream's. Ours on top: ties count as wrong, and the bits per byte of the right
answer, which fall long before a small model chooses better than by chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.contamination import overlaps
from parakeet.evaluation.benchmarks.data import TaskData
from parakeet.evaluation.benchmarks.tasks import TASKS, BenchmarkItem
from parakeet.evaluation.benchmarks.upstream import check_installed, prepare_lm_eval, upstream_config
from parakeet.evaluation.preference import is_best, is_tied
from parakeet.intervals import FEWEST_TEXTS, ratio_interval, share_of
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.evaluation.benchmarks.adapter import TextModel
    from parakeet.trace.index import TraceIndex


def score_tasks(
    model: "TextModel",
    data: Sequence[TaskData],
    progress: Progress,
    index: "TraceIndex | None" = None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, dict[str, Any]]:
    """The figures of each task, as JSON values.

    {task: {"split", "source", "n", "available", "copies", "truncated", "ties", "accuracy", "chance", "centred",
    "normalised", "bits_per_byte", "lm_eval", "parts", "contamination"}}. `accuracy` and `normalised` are
    {"n", "share", "interval"}; `bits_per_byte` is {"n", "n_bytes", "value", "interval"}; `lm_eval` has its own figures
    of the same requests; `parts` the accuracies of BLiMP's paradigms; `contamination` the share of items that stand in
    the training text of `index`, and the accuracy on them and on the others. What a task does not have is None. Raises
    ParakeetError if lm-evaluation-harness is not installed, or the model's scores are not finite or all the same.
    """
    scored = run_tasks(model, data, progress)
    figures = {}
    for one in data:
        found = None
        if index is not None and tokenizer is not None:
            found = [overlap.contaminated for overlap in overlaps(index, tokenizer, one.items)]
        figures[one.task] = figures_of(one, scored[one.task], found)
    return figures


class Scored:
    """What lm-evaluation-harness returned for one task."""

    def __init__(self, answers: list["Answers"], metrics: dict[str, float], truncated: int) -> None:
        self.answers = answers
        """By item, in the order of the items."""
        self.metrics = metrics
        """Its own figures."""
        self.truncated = truncated
        """Items that were longer than the model's context."""


class Answers:
    """The scores of one item's answers."""

    def __init__(self, sample: Mapping[str, Any], rolling: bool, choices: Sequence[str]) -> None:
        found = sample["filtered_resps"]
        self.log_probabilities = [float(one) if rolling else float(one[0]) for one in found]
        self.greedy = [False if rolling else bool(one[1]) for one in found]
        self.n_bytes = [_scored_bytes(*arguments) for arguments in sample["arguments"]]
        """UTF-8 bytes of what was scored of each answer."""
        self.lengths = [len(choice) for choice in choices]
        """Characters of each answer to choose from, by which `acc_norm` divides."""


def _scored_bytes(*arguments: str) -> int:
    """Spaces at the end of a question are scored with the answer, as lm-evaluation-harness has it."""
    context, answer = arguments if len(arguments) == 2 else ("", arguments[0])
    return len(answer.encode()) + len(context[len(context.rstrip()) :].encode())


def run_tasks(model: "TextModel", data: Sequence[TaskData], progress: Progress) -> dict[str, Scored]:
    """Let lm-evaluation-harness score every item."""
    check_installed()
    prepare_lm_eval()
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    from parakeet.evaluation.benchmarks.adapter import Adapter

    parts = {one.task: _parts(one) for one in data}
    tasks = {
        name: ConfigurableTask(config=_config(task, name, [item.row for item in items]))
        for task, named in parts.items()
        for name, items in named.items()
    }
    adapter = Adapter(model, progress)
    found = evaluate(adapter, {"tasks": tasks, "groups": {}}, bootstrap_iters=0, log_samples=True)
    scored = {}
    for one in data:
        rolling = TASKS[one.task].kind == "rolling"
        answers: dict[int, Answers] = {}
        for name, items in parts[one.task].items():
            samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
            choices = tasks[name].doc_to_choice if TASKS[one.task].kind == "choice" else lambda _: []
            answers |= {
                id(item): Answers(sample, rolling, choices(sample["doc"]))
                for item, sample in zip(items, samples, strict=True)
            }
        metrics = [_metrics(found["results"][name]) for name in parts[one.task]]
        means = {key: math.fsum(some[key] for some in metrics) / len(metrics) for key in metrics[0]}
        truncated = sum(name in parts[one.task] for name, _ in adapter.truncated)
        scored[one.task] = Scored([answers[id(item)] for item in one.items], means, truncated)
    return scored


def _parts(data: TaskData) -> dict[str, list[BenchmarkItem]]:
    """Items by the name of their task: BLiMP is a task for each paradigm."""
    parts: dict[str, list[BenchmarkItem]] = {}
    for item in data.items:
        parts.setdefault(f"{data.task}_{item.part}" if item.part else data.task, []).append(item)
    return parts


def _config(task: str, name: str, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Upstream's definition over rows of ours."""
    import datasets

    config = upstream_config(task)
    for key in ("tag", "group", "dataset_name", "training_split", "validation_split", "fewshot_split"):
        config.pop(key, None)
    held = {"test": datasets.Dataset.from_list([dict(row) for row in rows])}
    return config | {"task": name, "test_split": "test", "custom_dataset": lambda **_: held}


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """`{"acc,none": 0.5, …}` without the names of filters."""
    values = {key.partition(",")[0]: value for key, value in results.items() if key.endswith(",none")}
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def figures_of(data: TaskData, scored: Scored, contaminated: Sequence[bool] | None = None) -> dict[str, Any]:
    """The figures of one task: see `score_tasks`. `contaminated` says which of its items stand in the training text."""
    pairs = list(zip(data.items, scored.answers, strict=True))
    kind = TASKS[data.task].kind
    _refuse_constant(data.task, kind, scored.answers)
    result: dict[str, Any] = {
        "split": data.split,
        "source": data.source,
        "n": len(data.items),
        "available": data.available,
        "copies": data.copies,
        "truncated": scored.truncated,
        "ties": None,
        "accuracy": None,
        "chance": None,
        "centred": None,
        "normalised": None,
        "bits_per_byte": bits_per_byte(pairs, kind == "rolling"),
        "lm_eval": scored.metrics,
        "parts": None,
        "contamination": None if contaminated is None else {"found": share_of(contaminated)},
    }
    if kind == "rolling":
        return result
    right = right_answers(pairs)
    chance = sum(1 / item.choices for item in data.items if item.choices) / len(data.items)
    result |= {"accuracy": share_of(right), "chance": chance}
    result["centred"] = (result["accuracy"]["share"] - chance) / (1 - chance)
    if kind == "choice":
        result["ties"] = sum(is_tied(answers.log_probabilities, item.gold) for item, answers in pairs)
        if "acc_norm" in scored.metrics:
            result["normalised"] = share_of(_right_by_length(item, answers) for item, answers in pairs)
    if contaminated is not None:
        for name, wanted in (("clean", False), ("contaminated", True)):
            some = [is_right for is_right, found in zip(right, contaminated, strict=True) if found == wanted]
            result["contamination"][name] = share_of(some) if some else None
    names = list(dict.fromkeys(item.part for item in data.items if item.part))
    if names:
        by_part: dict[str, list[bool]] = {name: [] for name in sorted(names)}
        for item, is_right in zip(data.items, right, strict=True):
            by_part[item.part].append(is_right)
        result["parts"] = {name: share_of(outcomes) for name, outcomes in by_part.items()}
    return result


Pairs = Sequence[tuple[BenchmarkItem, Answers]]


def right_answers(pairs: Pairs) -> list[bool]:
    """By item: whether the right answer is likelier than each other one; a tie is wrong.

    Without a choice: whether every token of the answer is the one likeliest.
    """
    return [
        is_best(answers.log_probabilities, item.gold) if item.choices else answers.greedy[0] for item, answers in pairs
    ]


def bits_per_byte(pairs: Pairs, rolling: bool = False) -> dict[str, Any]:
    """−log2 p of the right answers over their UTF-8 bytes, and its interval over the items, which a few do not have."""
    gold = [item.gold if item.choices else 0 for item, _ in pairs]
    bits = [-a.log_probabilities[g] / math.log(2) for (_, a), g in zip(pairs, gold, strict=True)]
    sizes = [a.n_bytes[g] for (_, a), g in zip(pairs, gold, strict=True)]
    if rolling:
        sizes = [len(item.answer.encode()) for item, _ in pairs]  # upstream changes WikiText's spaces, but not its size
    interval = list(ratio_interval(bits, sizes)) if len(pairs) >= FEWEST_TEXTS else None
    return {"n": len(pairs), "n_bytes": sum(sizes), "value": math.fsum(bits) / sum(sizes), "interval": interval}


def _right_by_length(item: BenchmarkItem, answers: Answers) -> bool:
    """The same with each score divided by the answer's length in characters: `acc_norm`."""
    scores = [score / size for score, size in zip(answers.log_probabilities, answers.lengths, strict=True)]
    return is_best(scores, item.gold)


def _refuse_constant(task: str, kind: str, answers: Sequence[Answers]) -> None:
    """A model that scores everything alike would be right wherever the right answer stands first."""
    if kind == "rolling":
        return
    scores = {score for one in answers for score in one.log_probabilities}
    if len(scores) == 1 and sum(len(one.log_probabilities) for one in answers) > 1:
        raise ParakeetError(
            f"Task {task}: the model gives every answer the same score, {scores.pop():.4g}. It is unusable, and no "
            "score is given. Use an earlier checkpoint, or train it."
        )
