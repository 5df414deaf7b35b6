"""What a measure of studies is. A new one is one file with a subclass, and a line in `measures.OF_STUDIES`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.evaluation.base import Subject


@dataclass(frozen=True)
class Trained:
    """A trained model with the text that it is measured on, and the artefacts that it was made from, by stage."""

    subject: Subject
    folders: Mapping[str, Path]


class Measure(ABC):
    """One kind of figure. Its module imports torch inside `measure` only."""

    name: str
    version: int = 1
    """Raised when the same model gets other figures."""

    @abstractmethod
    def measure(self, trained: Trained) -> Any:
        """The figures, as values of JSON. The same model gives the same figures."""
