"""The mean of a figure over seeds, with the interval that so few of them allow."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

FEWEST_SEEDS = 3
"""Two values have an interval of 18 times their distance, which says nothing."""
# 97.5 % quantiles of Student's t by degrees of freedom, from 1. Above, the normal one is within 4 %.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Mean(NamedTuple):
    value: float
    interval: tuple[float, float] | None
    """95 %, by Student's t; None for fewer than FEWEST_SEEDS."""
    n: int

    def in_words(self, decimals: int = 3) -> str:
        """`1.234 (1.221 to 1.247)`."""
        value = f"{self.value:,.{decimals}f}"
        if self.interval is None:
            return value
        low, high = self.interval
        return f"{value} ({low:,.{decimals}f} to {high:,.{decimals}f})"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Of at least one value."""
    n, value = len(values), fmean(values)
    if n < FEWEST_SEEDS:
        return Mean(value, None, n)
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    margin = t * stdev(values) / math.sqrt(n)
    return Mean(value, (value - margin, value + margin), n)
