"""What a run does about steps that go wrong: it skips them, and after several in a row rolls back. Imports no torch."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

LOSS_DEVIATIONS = 6.0
"""Robust standard deviations above the median that a healthy loss may lie."""
NORM_DEVIATIONS = 10.0
"""The same for the gradient norm, whose tail is far heavier (a kurtosis of 10 to 46): six would skip healthy steps."""
MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation, divided by its median absolute deviation (MAD)."""
HIGH_SHARE, HIGH_TO_DEVIATION = 0.9, 0.7803
"""A normal distribution's standard deviation, divided by the distance of its 90 % quantile from the median."""
RECENT = 24
"""Steps that do not count for that quantile: a run that slowly diverges must not raise its own limit."""
NORM_TIMES_MEDIAN = 4.0
"""A gradient norm up to this many medians is never too high."""
NATS_ABOVE_MEDIAN = 0.7
"""A loss up to this far above the median is never too high, in nats a token."""
MAX_SKIPS_IN_A_ROW = 5
"""After this many skipped steps in a row, the weights are assumed to be the problem, not the data."""
MAX_ROLLBACKS_IN_A_ROW = 3
"""Rollbacks to the same checkpoint; another one would only repeat them."""


class SpikeDetector:
    """Finds steps that must not be trained on: not finite, or far too high.

    A value is too high above the larger of two limits: the median of the last `window` steps plus some robust standard
    deviations (six for the loss, ten for the gradient norm), and a floor (the median plus 0.7 nats; four medians).
    A mean and its standard deviation would not do: one spike moves both. Before `minimum` steps have been seen, only
    values that are not finite are reported. A value that is too high enters the window as the limit, so that the
    window follows a lasting change but one spike hides no other. The verdict is a pure function of the window, which
    is the whole state. `python -m benchmarks.stability` measures the rule on the records of real runs.
    """

    def __init__(self, window: int = 128, minimum: int = 64) -> None:
        self.minimum = minimum
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def check(self, loss: float, gradient_norm: float) -> str | None:
        """The reason to skip a step with this loss (nats a token) and gradient norm (before clipping), or None."""
        for name, value in (("loss", loss), ("gradient norm", gradient_norm)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
        if gradient_norm == 0:
            # A batch without one target to learn. Many of them would bring the median, and so the limit, to 0.
            return None
        reasons = (
            self._too_high("loss", loss, self._losses, LOSS_DEVIATIONS, lambda median: median + NATS_ABOVE_MEDIAN),
            self._too_high("gradient norm", gradient_norm, self._norms, NORM_DEVIATIONS, NORM_TIMES_MEDIAN.__mul__),
        )
        return next((reason for reason in reasons if reason is not None), None)

    def state(self) -> dict[str, Any]:
        """The window as JSON values, which keep every bit of a float."""
        return {"losses": list(self._losses), "gradient_norms": list(self._norms)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`; the rule before this one kept the same. Raises KeyError for something else."""
        losses, norms = state["losses"], state["gradient_norms"]
        for past, values in ((self._losses, losses), (self._norms, norms)):
            past.clear()
            past.extend(values)

    def _too_high(
        self, name: str, value: float, past: deque[float], deviations: float, floor: Callable[[float], float]
    ) -> str | None:
        """The reason why a finite value is too high, or None. Adds it to `past`. `floor` is given the median."""
        if len(past) < self.minimum:
            past.append(value)
            return None
        median = _quantile(past, 0.5)
        deviation = max(
            MAD_TO_DEVIATION * _quantile((abs(other - median) for other in past), 0.5),
            # Some batches may be much harder than most: beside a book that was read 30 times, five new ones had a loss
            # of 2.8 instead of 0.04. By the MAD alone, 318 of 1,441 steps were left out.
            HIGH_TO_DEVIATION * (_quantile(list(past)[:-RECENT], HIGH_SHARE) - median),
        )
        limit = max(median + deviations * deviation, floor(median))
        steps = len(past)
        past.append(min(value, limit))
        if value <= limit:
            return None
        return (
            f"the {name} is {value:.4g}, above the limit of {limit:.4g}; the median of the last {steps} steps is "
            f"{median:.4g}"
        )


def _quantile(values: Iterable[float], share: float) -> float:
    """One of the values, the upper one of two: a mean of the two could overflow."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)]


@dataclass
class StabilityMonitor:
    """Decides which steps are skipped and when the run rolls back, and counts both.

    Its decisions are a pure function of the steps since its saved state, so a resumed run repeats them.
    `good_step` is the step to roll back to: the last one that the schedule saved, 0 for the beginning. Checkpoints
    made because somebody stopped the run do not count: with them, a run that was stopped would take another course
    than one that was not.
    """

    detector: SpikeDetector = field(default_factory=SpikeDetector)
    skipped_in_a_row: int = 0
    rollbacks_in_a_row: int = 0
    good_step: int = 0
    skipped: int = 0
    rolled_back: int = 0

    def check(self, loss: float, gradient_norm: float) -> str | None:
        """The reason to skip the step, or None; loss in nats a token, norm before clipping."""
        reason = self.detector.check(loss, gradient_norm)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if reason else 0
        self.skipped += reason is not None
        return reason

    def begin_phase(self) -> None:
        """Forget the window: sequences of another length have another usual loss."""
        self.detector = SpikeDetector()

    @property
    def must_roll_back(self) -> bool:
        return self.skipped_in_a_row >= MAX_SKIPS_IN_A_ROW

    @property
    def may_roll_back(self) -> bool:
        return self.rollbacks_in_a_row < MAX_ROLLBACKS_IN_A_ROW

    def saved(self, step: int) -> None:
        """The schedule saves this step, which was not skipped."""
        self.good_step = step
        self.rollbacks_in_a_row = 0

    def after_rollback(self, step: int, state: dict[str, Any] | None) -> None:
        """The run is back at `step`, where this class had `state`; None for the beginning.

        The window is that step's again; the counts are not, or the rollbacks would never end.
        """
        self.detector = SpikeDetector()
        if state is not None:
            self.detector.restore(state["window"])
        # May be earlier than the `good_step` before, if that checkpoint was damaged or could not be saved.
        self.good_step = step
        self.skipped_in_a_row = 0
        self.rollbacks_in_a_row += 1
        self.rolled_back += 1

    def state(self) -> dict[str, Any]:
        """As JSON values. A checkpoint keeps the totals and `good_step` separately."""
        counts = {"in_a_row": self.skipped_in_a_row, "returns": self.rollbacks_in_a_row}
        return {"window": self.detector.state(), **counts}

    def restore(self, state: dict[str, Any], good_step: int, skipped: int, rolled_back: int) -> None:
        """Continue from a `state()` and the counts of a checkpoint."""
        self.detector.restore(state["window"])
        self.skipped_in_a_row, self.rollbacks_in_a_row = state["in_a_row"], state["returns"]
        self.good_step, self.skipped, self.rolled_back = good_step, skipped, rolled_back
