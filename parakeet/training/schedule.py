"""Warm-up, stable, decay: the learning rate as a pure function of the step, so no state has to be kept."""

from dataclasses import dataclass

from parakeet.recipe import Training


@dataclass(frozen=True)
class Schedule:
    """Steps are counted from 1; `decay_start` is the last step at the peak rate."""

    peak: float
    warmup_steps: int
    decay_start: int
    total_steps: int

    @classmethod
    def from_recipe(cls, training: Training) -> "Schedule":
        total = total_steps(training)
        decay_start = total - round(total * training.decay_fraction)
        return cls(training.learning_rate, min(training.warmup_steps, decay_start), decay_start, total)

    def learning_rate(self, step: int) -> float:
        """Linear up to the peak, flat, then linear to zero one step after the last."""
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if step <= self.decay_start:
            return self.peak
        return self.peak * (self.total_steps + 1 - step) / (self.total_steps + 1 - self.decay_start)

    def shares_past(self, step: int, other: "Schedule") -> bool:
        """Whether a run of `other` that has made `step` steps is also the beginning of a run of this one."""
        if other == self:
            return step <= self.total_steps
        alike = (self.peak, self.warmup_steps) == (other.peak, other.warmup_steps)
        return alike and step <= min(self.decay_start, other.decay_start)


def total_steps(training: Training) -> int:
    """Optimizer steps for the recipe's tokens, rounded up."""
    return -(-training.tokens // training.batch_tokens)
