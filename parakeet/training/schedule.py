"""Learning rate and sequence length as pure functions of the step, so they need no state. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from parakeet.earlier import with_new_keys
from parakeet.learning_rate import DECAYS
from parakeet.recipe import Packing, Training


@dataclass(frozen=True)
class Phase:
    """Steps with one sequence length. It begins after the phase before it, or with step 1."""

    sequence_length: int
    last_step: int


@dataclass(frozen=True)
class Schedule:
    """Warm-up, stable, decay. Steps are counted from 1.

    `decay_start` is the last step at the peak rate. The last of the `phases` ends with `total_steps`.
    """

    peak: float
    warmup_steps: int
    decay_start: int
    total_steps: int
    phases: tuple[Phase, ...]
    decay: str = "linear"

    @classmethod
    def from_recipe(cls, training: Training, packing: Packing) -> "Schedule":
        total = total_steps(training)
        decay_start = total - round(total * training.decay_fraction)
        warmup_steps = min(training.warmup_steps, decay_start)
        return cls(training.learning_rate, warmup_steps, decay_start, total, _phases(packing, total), training.decay)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Schedule":
        """The schedule with these values, as `dataclasses.asdict` gives them, also after JSON.

        Raises KeyError or TypeError if they are something else.
        """
        phases = tuple(Phase(**with_new_keys(phase)) for phase in values["phases"])
        return cls(**{**values, "phases": phases})

    def learning_rate(self, step: int) -> float:
        """Linear up to the peak, flat, then down to zero at one step after the last."""
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if step <= self.decay_start:
            return self.peak
        left, length = self.total_steps + 1 - step, self.total_steps + 1 - self.decay_start
        return DECAYS[self.decay](self.peak, left, length)

    def phase(self, step: int) -> int:
        """Index of the phase of this step; the last phase for steps past the end."""
        ended = sum(phase.last_step < step for phase in self.phases)
        return min(ended, len(self.phases) - 1)

    def sequence_length(self, step: int) -> int:
        """Sequence length of this step."""
        return self.phases[self.phase(step)].sequence_length

    @property
    def stable_until(self) -> int:
        """The last step that a run of more tokens also makes: before decay and any change of the sequence length."""
        return min(self.decay_start, self.phases[0].last_step)

    def shares_past(self, step: int, other: "Schedule") -> bool:
        """Whether the first `step` steps of a run of `other` are also those of a run of this schedule."""
        if other == self:
            return step <= self.total_steps
        alike = (self.peak, self.warmup_steps) == (other.peak, other.warmup_steps)
        return alike and step <= min(self.decay_start, other.decay_start, self._same_lengths_until(other))

    def _same_lengths_until(self, other: "Schedule") -> int:
        last = 0
        for mine, theirs in zip(self.phases, other.phases, strict=False):
            if mine.sequence_length != theirs.sequence_length:
                break
            last = min(mine.last_step, theirs.last_step)
            if mine.last_step != theirs.last_step:
                break
        return last


def total_steps(training: Training) -> int:
    """Optimizer steps for the recipe's tokens, rounded up."""
    return -(-training.tokens // training.batch_tokens)


def _phases(packing: Packing, total: int) -> tuple[Phase, ...]:
    """Later phases take their shares of the steps from the end, rounded, but at least one step each.

    With fewer steps than phases, the first phases have one step each and the others none.
    """
    lengths = packing.lengths[:total]
    after = list(accumulate(phase.share for phase in reversed(packing.then)))[::-1]
    phases: list[Phase] = []
    for index, sequence_length in enumerate(lengths[:-1]):
        least = phases[-1].last_step + 1 if phases else 1
        most = total - (len(lengths) - 1 - index)
        last_step = total - round(total * after[index])
        phases.append(Phase(sequence_length, max(least, min(last_step, most))))
    return (*phases, Phase(lengths[-1], total))
