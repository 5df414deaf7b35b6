"""The work of stage `measurements`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.evaluation.base import Metric
from parakeet.evaluation.report import subject_of
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.studies.measure import Trained
from parakeet.studies.measures import MEASUREMENTS_FILE, MEASURES


def make_measurements(
    names: Sequence[str], recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Measure the checkpoint; the same inputs give the same bytes. Metrics that the recipe does not want are None."""
    subject = subject_of(recipe, inputs, progress)
    trained = Trained(subject, inputs)
    result: dict[str, Any] = {}
    for name in names:
        measure = MEASURES[name]
        if isinstance(measure, Metric):
            result[name] = measure.measure(subject) if measure.wanted(recipe) else None
        else:
            result[name] = measure.measure(trained)
    (output / MEASUREMENTS_FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
