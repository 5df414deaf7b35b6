"""What a metric of the evaluation is. A new one is one file with a subclass, and a line in `METRICS`.

Modules of metrics are imported wherever figures are shown, so they import torch inside `measure` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.data.questions import Question
    from parakeet.data.tokens.shards import TokenShards
    from parakeet.generation.engine import Engine
    from parakeet.model.transformer import Parakeet
    from parakeet.pages import Table
    from parakeet.pages.charts import Palette
    from parakeet.trace.index import TraceIndex


@dataclass(frozen=True)
class Subject:
    """A trained model, and the text that it is measured on."""

    recipe: Recipe
    model: "Parakeet"
    engine: "Engine"
    """The same model, ready to write."""
    tokenizer: Tokenizer
    train: "TokenShards"
    held_out: "TokenShards"
    documents: Mapping[str, Sequence[int]]
    """Numbers of the held-out documents to measure, by source; none where too little is held out."""
    questions: Sequence["Question"]
    progress: Progress
    trace_index: "TraceIndex | None" = None
    """The index of the training text, if the evaluation was given one."""


@dataclass(frozen=True)
class Score:
    """One figure of a model that reports draw, and compare with chance and with another model.

    `value` is a share of 1, where more is better, or bits per byte, where fewer are. `interval` is the 95 % interval,
    None if it was not recorded. `n` counts what was measured, in `of`: questions, documents.
    """

    name: str
    value: float
    n: int
    of: str
    interval: tuple[float, float] | None = None
    chance: float | None = None
    unit: Literal["share", "bits per byte"] = "share"


class Metric(ABC):
    """One kind of figure: how it is measured and how it is shown."""

    name: str
    """Its key in evaluation.json."""
    version: int = 0
    """Raised when the same model gets other figures, which repeats the evaluation. A new metric starts at 1."""
    since: int = 0
    """The version of the stage that first measured it for every recipe. Evaluations of earlier ones are still used."""
    title: str
    introduction: str = ""
    """A paragraph for the report, before the figures."""
    on_model_card: bool = True
    """Whether the figures are on the model card; a plot always is."""
    plot_file: str = ""
    plot_title: str = ""

    def wanted(self, recipe: Recipe) -> bool:
        """Whether the recipe asks for it."""
        return True

    @abstractmethod
    def measure(self, subject: Subject) -> Any:
        """The figures, as values of JSON. The same subject gives the same figures."""

    @abstractmethod
    def render(self, figures: Any) -> list["str | Table"]:
        """What pages show: paragraphs of plain text, and tables."""

    def render_summary(self, figures: Any) -> list["str | Table"]:
        """What the model card shows, which has less room than the report."""
        return self.render(figures)

    def scores(self, figures: Any) -> list[Score]:
        """The figures of most interest, for reports; none by default. Those of an earlier version too."""
        return []

    def plot(self, figures: Any, palette: "Palette") -> "Figure":
        """The chart of a metric with a `plot_file`, for `parakeet.pages.charts`."""
        raise NotImplementedError


def measured(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the sources with enough held-out text; the others have None."""
    return {source: found for source, found in figures.items() if found is not None}
