"""What a study measures of a model: metrics of every evaluation, and measures of its own. Imports no torch."""

from collections.abc import Mapping, Sequence

from parakeet.evaluation.base import Metric
from parakeet.evaluation.metrics import METRICS
from parakeet.studies.capacity import Capacity
from parakeet.studies.forgetting import Forgetting
from parakeet.studies.measure import Measure
from parakeet.studies.norms import Norms
from parakeet.studies.output_rank import OutputRank
from parakeet.studies.quantised import Quantised

MEASUREMENTS_FILE = "measurements.json"
"""In the artefact of stage `measurements`."""

OF_STUDIES: tuple[Measure, ...] = (Norms(), Quantised(), Forgetting(), OutputRank(), Capacity())

MEASURES: Mapping[str, Metric | Measure] = {
    **{metric.name: metric for metric in METRICS if metric.name != "replies"},  # text to look at, no figure
    **{measure.name: measure for measure in OF_STUDIES},
}


def versions(names: Sequence[str]) -> dict[str, int]:
    """The version of each measure by name: a higher one repeats the measurement, not the training."""
    return {name: MEASURES[name].version for name in sorted(names)}
