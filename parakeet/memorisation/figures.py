"""The shape of figures with an interval, beside those of `parakeet.evaluation.intervals`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from parakeet.evaluation.intervals import FEWEST_TEXTS, RESAMPLES, ratio_interval

LEAST = 100
"""Fewer windows or replies are too few for a statement about a rate of a few percent."""
LEAST_EXCERPTS, LEAST_DOCUMENTS = 20, 3
"""With less held-out text the interval itself is a guess."""


def ratio_of(above: np.ndarray, below: np.ndarray) -> dict[str, Any] | None:
    """{"n", "value", "interval"} of Σ above / Σ below over n excerpts, both (n,); None if nothing is below.

    The interval is None for fewer than FEWEST_TEXTS.
    """
    there = below > 0
    if not there.any():
        return None
    above, below = above[there], below[there]
    interval = list(ratio_interval(above, below)) if len(above) >= FEWEST_TEXTS else None
    return {"n": len(above), "value": float(above.sum() / below.sum()), "interval": interval}


def ratio_difference(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> dict[str, Any] | None:
    """{"n", "value", "interval"} of one ratio minus another, of two samples of excerpts; n has both sizes.

    None if a sample has nothing below; the interval is None if one has fewer than FEWEST_TEXTS excerpts.
    """
    sides = [(above[below > 0], below[below > 0]) for above, below in (one, other)]
    if any(len(below) == 0 for _, below in sides):
        return None
    chance = np.random.default_rng(0)
    values, resampled = [], []
    for above, below in sides:
        chosen = chance.integers(len(above), size=(RESAMPLES, len(above)))
        values.append(float(above.sum() / below.sum()))
        resampled.append(above[chosen].sum(axis=1) / below[chosen].sum(axis=1))
    n = [len(below) for _, below in sides]
    low, high = np.quantile(resampled[0] - resampled[1], (0.025, 0.975)).tolist()
    return {"n": n, "value": values[0] - values[1], "interval": [low, high] if min(n) >= FEWEST_TEXTS else None}


def share_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """{"n", "share", "interval"} of one share minus another (Newcombe 1998, method 10, from their Wilson intervals)."""
    difference = one["share"] - other["share"]
    below = math.hypot(one["share"] - one["interval"][0], other["interval"][1] - other["share"])
    above = math.hypot(one["interval"][1] - one["share"], other["share"] - other["interval"][0])
    return {
        "n": [one["n"], other["n"]],
        "share": difference,
        "interval": [max(-1.0, difference - below), min(1.0, difference + above)],
    }
