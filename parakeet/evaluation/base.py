"""What a metric of the evaluation is. A new one is one file with a subclass, and a line in `METRICS`.

Modules of metrics are imported wherever figures are shown, so they import nothing heavy: what needs torch is imported
inside `measure`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.data.questions import Question
    from parakeet.data.tokens.shards import TokenShards
    from parakeet.generation.engine import Engine
    from parakeet.model.transformer import Parakeet


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


class Metric(ABC):
    """One kind of figure: how it is measured and how it is shown."""

    name: str
    """Its key in evaluation.json."""
    version: int = 0
    """Raised when the same model gets other figures; the evaluation is then done again. A new metric starts at 1, since
    0 stands for what version 2 of the stage measured."""
    title: str
    introduction: str = ""
    """A paragraph for the report, before the figures."""
    on_model_card: bool = True
    """Whether the figures are on the model card; a plot always is."""
    plot_file: str = ""
    plot_title: str = ""

    @abstractmethod
    def measure(self, subject: Subject) -> Any:
        """The figures, as values of JSON. The same subject gives the same figures."""

    @abstractmethod
    def render(self, figures: Any) -> str:
        """The figures as Markdown."""

    def draw(self, figures: Any, path: Path) -> None:
        """Write `plot_file`, if there is one."""
        raise NotImplementedError


def cell(text: str) -> str:
    """Text of a model inside a Markdown table: no pipe, tag or line break of its own takes effect."""
    plain = sanitise(" ".join(text.split())).replace("\\", "\\\\").replace("<", "&lt;")
    return re.sub(r"([|`*_\[\]])", r"\\\1", plain)
