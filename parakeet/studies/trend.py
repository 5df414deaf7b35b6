"""Whether a share rises with a quantity, such as the copies of a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 4_000


def trend_of_shares(places: Sequence[float], right: Sequence[float], trials: Sequence[int]) -> dict[str, Any] | None:
    """{"slope", "interval", "rises", "falls"} of right / trials over `places`, each (groups,); None of one place.

    The slope is that of least squares, weighted by trials. Its 95 % interval is over draws of each group's share from
    Beta(right + ½, trials − right + ½), which is what is known of a share (Jeffreys' interval; Brown, Cai and DasGupta
    2001). Samples of the trials with replacement would say that groups of nothing but zeros are certain.
    """
    x, k, n = (np.asarray(values, np.float64) for values in (places, right, trials))
    if len(x) == 0 or x.min() == x.max():
        return None
    from_mean = x - np.average(x, weights=n)
    weights = n * from_mean / (n * from_mean**2).sum()
    shares = np.random.default_rng(0).beta(k + 0.5, n - k + 0.5, size=(DRAWS, len(x)))
    low, high = np.quantile(shares @ weights, (0.025, 0.975)).tolist()
    return {"slope": float((k / n) @ weights), "interval": [low, high], "rises": low > 0, "falls": high < 0}
