"""Judges each step's loss and gradient norm against the steps before it. Imports no torch."""

import math
from collections import deque
from typing import Any

LEAST_DEVIATION = 0.01
"""Smallest standard deviation that is believed, as a share of the mean: the loss of a converged run hardly moves, and
without a floor a harmless step would lie many deviations off."""


class SpikeMonitor:
    """Tells steps that must not be trained on, as OLMo-core's SkipStepOptimizer does: not finite, or far too high.

    A value is too high when it lies more than `sigmas` standard deviations above the mean of the last `window` steps;
    until `minimum` of them have been seen, only values that are not finite are told. A value that is too high enters
    the window as the highest that is not: so the window follows a lasting change (with such values left out, a run
    whose gradients slowly grew to five times their size was ended in good health), and one spike does not
    hide the next. The verdict is a pure function of the window, which is the whole state.
    """

    def __init__(self, window: int = 128, sigmas: float = 6.0, minimum: int = 64) -> None:
        self.sigmas = sigmas
        self.minimum = minimum
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """Why a step with this loss (nats a token) and gradient norm (before clipping) is to be skipped, or None."""
        seen = (("loss", loss, self._losses), ("gradient norm", gradient_norm, self._norms))
        for name, value, _ in seen:
            if not math.isfinite(value):
                return f"the {name} is {value}"
        reasons = [self._reason(name, value, past) for name, value, past in seen]
        return next((reason for reason in reasons if reason is not None), None)

    def state(self) -> dict[str, Any]:
        """The window as JSON values, which keep every bit of a float."""
        return {"losses": list(self._losses), "gradient_norms": list(self._norms)}

    def restore(self, state: dict[str, Any]) -> None:
        """Judge on as the monitor did whose `state()` this is. Raises KeyError where it is none."""
        losses, norms = state["losses"], state["gradient_norms"]
        for past, values in ((self._losses, losses), (self._norms, norms)):
            past.clear()
            past.extend(values)

    def _reason(self, name: str, value: float, past: deque[float]) -> str | None:
        """Why a finite value is too high, or None; it enters `past`."""
        values = list(past)
        if len(values) < self.minimum:
            past.append(value)
            return None
        mean, deviation = _mean_and_deviation(values)
        deviation = max(deviation, LEAST_DEVIATION * abs(mean))
        limit = mean + self.sigmas * deviation
        past.append(min(value, limit))
        if value <= limit:
            return None
        return (
            f"the {name} is {value:.4g}, more than {self.sigmas:g} standard deviations ({deviation:.3g}) "
            f"above {mean:.4g}, the mean of the last {len(values)} steps"
        )


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and population standard deviation; divided first, so that no finite value makes them overflow."""
    mean = math.fsum(value / len(values) for value in values)
    return mean, math.hypot(*(value - mean for value in values)) / math.sqrt(len(values))
