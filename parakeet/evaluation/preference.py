"""Which of several scored texts a model prefers. It must be likelier than each other one: a tie is wrong."""

import math
from collections.abc import Sequence

ROUNDING = 1e-6
"""Scores that differ by less than this share are ties: two texts of the same words in another order, or in another
place of a batch, differ in the last bits only."""


def is_best(scores: Sequence[float], number: int) -> bool:
    """Whether scores[number], of which higher is better, is above all others."""
    others = [score for other, score in enumerate(scores) if other != number]
    return all(scores[number] > score and not _tied(scores[number], score) for score in others)


def is_tied(scores: Sequence[float], number: int) -> bool:
    """Whether scores[number] is one of several best ones."""
    return _tied(scores[number], max(scores)) and not is_best(scores, number)


def _tied(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING)
