"""The list of metrics, and the report that shows their figures. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from parakeet.evaluation.base import Metric
from parakeet.evaluation.bits_per_byte import BitsPerByte
from parakeet.evaluation.by_position import BitsPerByteByPosition
from parakeet.evaluation.exact_match import ExactMatch
from parakeet.evaluation.replies import Replies

METRICS: tuple[Metric, ...] = (BitsPerByte(), BitsPerByteByPosition(), ExactMatch(), Replies())

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.md"
PLOT_FILES = tuple(metric.plot_file for metric in METRICS if metric.plot_file)


def render_report(name: str, result: Mapping[str, Any]) -> str:
    """The figures of evaluation.json as Markdown."""
    sections = [f"# Evaluation of {name}"]
    for metric in METRICS:
        sections += [f"## {metric.title}", metric.introduction, metric.render(result[metric.name])]
    return "\n\n".join(filter(None, sections)) + "\n"


def model_card_sections(result: Mapping[str, Any]) -> list[str]:
    """The parts of evaluation.json that belong on a model card, as Markdown."""
    sections = []
    for metric in METRICS:
        if metric.on_model_card:
            sections += [f"## {metric.title}", metric.render(result[metric.name])]
        if metric.plot_file:
            sections.append(f"![{metric.plot_title}]({metric.plot_file})")
    return sections
