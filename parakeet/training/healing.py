"""What a run does about steps that went wrong: leaves them out, and after several goes back. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from parakeet.training.monitor import SpikeMonitor

SKIPS_IN_A_ROW = 5
"""Steps left out one after the other after which the weights, not the data, are taken to be the trouble."""
ROLL_BACKS_IN_A_ROW = 3
"""Returns to one and the same checkpoint; another one would only repeat them."""


@dataclass
class Healing:
    """Judges steps, and counts. A pure function of the steps since its saved state, so that a resumed run does the
    same again.

    `good_step` is the step to go back to: the last one that was saved by the schedule, 0 for the beginning.
    Checkpoints that were made because somebody stopped the run are none, or a run that was stopped would go another
    way than one that was not.
    """

    monitor: SpikeMonitor = field(default_factory=SpikeMonitor)
    in_a_row: int = 0
    good_step: int = 0
    returns: int = 0
    skipped: int = 0
    rolled_back: int = 0

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """Why the step is to be left out, or None; loss in nats a token, norm before clipping."""
        reason = self.monitor.judge(loss, gradient_norm)
        self.in_a_row = self.in_a_row + 1 if reason else 0
        self.skipped += reason is not None
        return reason

    def begin_phase(self) -> None:
        """Rows of another length have another loss: what was usual before says nothing of it."""
        self.monitor = SpikeMonitor()

    @property
    def must_go_back(self) -> bool:
        return self.in_a_row >= SKIPS_IN_A_ROW

    @property
    def may_go_back(self) -> bool:
        return self.returns < ROLL_BACKS_IN_A_ROW

    def saved(self, step: int) -> None:
        """The schedule saves this step, which was not left out."""
        self.good_step = step
        self.returns = 0

    def went_back(self, state: dict[str, Any] | None) -> None:
        """The state `state` of this class was reloaded, None for the beginning: the window is that one's again."""
        self.monitor = SpikeMonitor()
        if state is not None:
            self.monitor.restore(state["window"])
        self.in_a_row = 0
        self.returns += 1
        self.rolled_back += 1

    def state(self) -> dict[str, Any]:
        """As JSON values. The totals and `good_step` stand in the checkpoint by themselves."""
        return {"window": self.monitor.state(), "in_a_row": self.in_a_row, "returns": self.returns}

    def restore(self, state: dict[str, Any], good_step: int, skipped: int, rolled_back: int) -> None:
        """Go on as the run did whose `state()` and counts these are."""
        self.monitor.restore(state["window"])
        self.in_a_row, self.returns = state["in_a_row"], state["returns"]
        self.good_step, self.skipped, self.rolled_back = good_step, skipped, rolled_back
