"""The list of metrics, and the files of the evaluation. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from parakeet.evaluation.base import Metric, Score
from parakeet.evaluation.benchmarks.metric import StandardBenchmarks
from parakeet.evaluation.bits_per_byte import BitsPerByte
from parakeet.evaluation.by_position import BitsPerByteByPosition
from parakeet.evaluation.chat import Chat
from parakeet.evaluation.exact_match import ExactMatch
from parakeet.evaluation.generation_health import GenerationHealth
from parakeet.evaluation.minimal_pairs import MinimalPairs
from parakeet.evaluation.probes import Probes
from parakeet.evaluation.replies import Replies

METRICS: tuple[Metric, ...] = (
    BitsPerByte(),
    BitsPerByteByPosition(),
    ExactMatch(),
    Chat(),
    MinimalPairs(),
    Probes(),
    GenerationHealth(),
    Replies(),
    StandardBenchmarks(),
)
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.md"


def measured_metrics(evaluation: Mapping[str, Any]) -> list[Metric]:
    """The metrics that an evaluation.json has figures of: all that its recipe asked for and its Parakeet knew."""
    return [metric for metric in METRICS if metric.name in evaluation]


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, list[Score]]:
    """The scores of an evaluation.json, by metric."""
    found = {metric.name: metric.scores(evaluation[metric.name]) for metric in measured_metrics(evaluation)}
    return {name: scores for name, scores in found.items() if scores}
