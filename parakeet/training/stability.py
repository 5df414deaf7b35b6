"""What a run does about steps that go wrong: it skips them, and after several in a row rolls back. Imports no torch."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

LEAST_DEVIATION = 0.01
"""Smallest standard deviation used, as a share of the mean. The loss of a converged run hardly moves; without this
floor a harmless step would lie many deviations away."""
MAX_SKIPS_IN_A_ROW = 5
"""After this many skipped steps in a row, the weights are assumed to be the problem, not the data."""
MAX_ROLLBACKS_IN_A_ROW = 3
"""Rollbacks to the same checkpoint; another one would only repeat them."""


class SpikeDetector:
    """Finds steps that must not be trained on, as OLMo-core's SkipStepOptimizer does: not finite, or far too high.

    A value is too high if it lies more than `sigmas` standard deviations above the mean of the last `window` steps.
    Before `minimum` steps have been seen, only values that are not finite are reported. A value that is too high
    enters the window as the highest accepted value. The window therefore follows a lasting change (without this, a
    healthy run whose gradients slowly grew to five times their size was ended), and one spike does not hide the next.
    The verdict is a pure function of the window, which is the whole state.
    """

    def __init__(self, window: int = 128, sigmas: float = 6.0, minimum: int = 64) -> None:
        self.sigmas = sigmas
        self.minimum = minimum
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def check(self, loss: float, gradient_norm: float) -> str | None:
        """The reason to skip a step with this loss (nats a token) and gradient norm (before clipping), or None."""
        seen = (("loss", loss, self._losses), ("gradient norm", gradient_norm, self._norms))
        for name, value, _ in seen:
            if not math.isfinite(value):
                return f"the {name} is {value}"
        reasons = [self._too_high(name, value, past) for name, value, past in seen]
        return next((reason for reason in reasons if reason is not None), None)

    def state(self) -> dict[str, Any]:
        """The window as JSON values, which keep every bit of a float."""
        return {"losses": list(self._losses), "gradient_norms": list(self._norms)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`. Raises KeyError if `state` is something else."""
        losses, norms = state["losses"], state["gradient_norms"]
        for past, values in ((self._losses, losses), (self._norms, norms)):
            past.clear()
            past.extend(values)

    def _too_high(self, name: str, value: float, past: deque[float]) -> str | None:
        """The reason why a finite value is too high, or None. Adds it to `past`."""
        values = list(past)
        if len(values) < self.minimum:
            past.append(value)
            return None
        # Divided before the sum, so that no finite value overflows.
        mean = math.fsum(other / len(values) for other in values)
        deviation = math.hypot(*(other - mean for other in values)) / math.sqrt(len(values))
        deviation = max(deviation, LEAST_DEVIATION * abs(mean))
        limit = mean + self.sigmas * deviation
        past.append(min(value, limit))
        if value <= limit:
            return None
        return (
            f"the {name} is {value:.4g}, more than {self.sigmas:g} standard deviations ({deviation:.3g}) "
            f"above {mean:.4g}, the mean of the last {len(values)} steps"
        )


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
