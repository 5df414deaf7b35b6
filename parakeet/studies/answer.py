"""What a study answers: figures from its records, and the sentences, tables and charts that show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parakeet.report.parts import Part
from parakeet.studies.records import Record
from parakeet.studies.study import StudyFile


@dataclass(frozen=True)
class Answer:
    """A study's section of the article.

    `figures` are JSON values: every number that `parts`, `sentence` and `limits` show is one of them, or is made from
    one. `sentence` is the answer in one sentence.
    """

    figures: Mapping[str, Any]
    sentence: str
    parts: Sequence[Part]
    limits: Sequence[str]


Answering = Callable[[Sequence[Record], StudyFile], Answer]
"""Answers a study from the records that there are. Too few of them are said, not hidden."""
