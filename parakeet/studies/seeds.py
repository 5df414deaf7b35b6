"""The mean of a figure over seeds, with the interval that so few of them allow."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

FEWEST_SEEDS = 3
"""Two values have an interval of 18 times their distance, which says nothing."""
# 97.5 % quantiles of Student's t by degrees of freedom, from 1. Above, the normal one is within 4 %.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """{"value", "interval", "n"} of the mean of values of several seeds, at least one.

    `interval` is that of 95 % by Student's t; None for fewer than FEWEST_SEEDS. Three seeds have ten samples with
    replacement: a bootstrap of them covers the true value in 3 of 4 cases, this interval in 19 of 20 if the values are
    normal.
    """
    n, value = len(values), fmean(values)
    interval = None
    if n >= FEWEST_SEEDS:
        margin = (_T[n - 2] if n - 2 < len(_T) else 1.96) * stdev(values) / math.sqrt(n)
        interval = [value - margin, value + margin]
    return {"value": value, "interval": interval, "n": n}


def too_few(seeds: Sequence[int]) -> str:
    """`There is one seed`, if there are too few for intervals over seeds; else empty."""
    return {1: "There is one seed", 2: "There are two seeds"}.get(len(seeds), "")
