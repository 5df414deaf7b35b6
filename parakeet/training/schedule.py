"""Learning rate, sequence length and batch size as pure functions of the step: they need no state. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby, zip_longest
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
class Growth:
    """From the step after `after_step` on, a step has `batch_tokens` tokens."""

    after_step: int
    batch_tokens: int


@dataclass(frozen=True)
class Schedule:
    """Warm-up, stable, decay. Steps are counted from 1.

    `decay_start` is the last step at the peak rate. The last of the `phases` ends with `total_steps`. `batch_tokens`
    are those of the first step. A run cannot change them, so two schedules are equal without them, and checkpoints of
    earlier versions lack them.
    """

    peak: float
    warmup_steps: int
    decay_start: int
    total_steps: int
    phases: tuple[Phase, ...]
    decay: str = "linear"
    growth: tuple[Growth, ...] = ()
    batch_tokens: int = field(default=0, compare=False)

    @classmethod
    def from_recipe(cls, training: Training, packing: Packing) -> "Schedule":
        batches = _Batches(training)
        total = batches.steps
        decay_start = total - round(batches.steps_of_last(training.decay_fraction))
        warmup_steps = min(training.warmup_steps, decay_start)
        phases = _phases(packing, batches)
        return cls(
            training.learning_rate, warmup_steps, decay_start, total, phases, training.decay, batches.growth,
            training.batch_tokens,
        )  # fmt: skip

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Schedule":
        """The schedule with these values, as `dataclasses.asdict` gives them, also after JSON.

        Raises KeyError or TypeError if they are something else.
        """
        phases = tuple(Phase(**with_new_keys(phase)) for phase in values["phases"])
        growth = tuple(Growth(**later) for later in values.get("growth", ()))
        return cls(**{**values, "phases": phases, "growth": growth})

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
    def batch_sizes(self) -> list[int]:
        """The numbers of tokens that a step has in turn."""
        firsts = [1, *(later.after_step + 1 for later in self.growth)]
        return [size for size, _ in groupby(self.tokens_in(step) for step in firsts)]

    def tokens_in(self, step: int) -> int:
        """Tokens of this step."""
        return next(
            (later.batch_tokens for later in reversed(self.growth) if step > later.after_step), self.batch_tokens
        )

    def tokens_until(self, step: int) -> int:
        """Tokens of all steps up to this one, with it."""
        tokens, last = 0, step
        for later in reversed(self.growth):
            tokens += max(0, last - later.after_step) * later.batch_tokens
            last = min(last, later.after_step)
        return tokens + last * self.batch_tokens

    @property
    def stable_until(self) -> int:
        """The last step that a run of more tokens also makes: before decay, and any change of the sequence length or
        the batch size."""
        return min(self.decay_start, self.phases[0].last_step, *(later.after_step for later in self.growth[:1]))

    def shares_past(self, step: int, other: "Schedule") -> bool:
        """Whether the first `step` steps of a run of `other` are also those of a run of this schedule."""
        if other == self:
            return step <= self.total_steps
        alike = (self.peak, self.warmup_steps) == (other.peak, other.warmup_steps)
        until = min(self._same_lengths_until(other), self._same_batches_until(other))
        return alike and step <= min(self.decay_start, other.decay_start, until)

    def _same_lengths_until(self, other: "Schedule") -> int:
        last = 0
        for mine, theirs in zip(self.phases, other.phases, strict=False):
            if mine.sequence_length != theirs.sequence_length:
                break
            last = min(mine.last_step, theirs.last_step)
            if mine.last_step != theirs.last_step:
                break
        return last

    def _same_batches_until(self, other: "Schedule") -> int:
        for mine, theirs in zip_longest(self.growth, other.growth):
            if mine != theirs:
                return min(later.after_step for later in (mine, theirs) if later is not None)
        return max(self.total_steps, other.total_steps)


class _Batches:
    """The steps of a recipe's tokens: how many of each batch size, rounded up."""

    def __init__(self, training: Training) -> None:
        sizes = [training.batch_tokens, *(later.batch_tokens for later in training.then)]
        shares = [1.0 - sum(later.share for later in training.then), *(later.share for later in training.then)]
        ends = [round(training.tokens * share) for share in accumulate(shares[:-1])] + [training.tokens]
        # What a batch size takes beyond its tokens, because its last step is whole, is not left for the next.
        self._counts: list[tuple[int, int]] = []
        done = 0
        for size, end in zip(sizes, ends, strict=True):
            count = max(0, -(-(end - done) // size))
            self._counts.append((size, count))
            done += count * size
        self.steps = sum(count for _, count in self._counts)

    @property
    def growth(self) -> tuple[Growth, ...]:
        befores = accumulate(count for _, count in self._counts)
        return tuple(
            Growth(before, size) for before, (size, count) in zip(befores, self._counts[1:], strict=False) if count
        )

    def steps_of_last(self, share: float) -> float:
        """How many steps at the end this share of all tokens takes; not rounded."""
        left = share * sum(size * count for size, count in self._counts)
        steps = 0.0
        for size, count in reversed(self._counts):
            some = min(left, size * count)
            steps += some / size
            left -= some
        return steps


def total_steps(training: Training) -> int:
    """Optimizer steps for the recipe's tokens, rounded up."""
    return _Batches(training).steps


def _phases(packing: Packing, batches: _Batches) -> tuple[Phase, ...]:
    """Later phases take their shares of the tokens from the end, in whole steps, but at least one step each.

    With fewer steps than phases, the first phases have one step each and the others none.
    """
    total = batches.steps
    lengths = packing.lengths[:total]
    after = list(accumulate(phase.share for phase in reversed(packing.then)))[::-1]
    phases: list[Phase] = []
    for index, sequence_length in enumerate(lengths[:-1]):
        least = phases[-1].last_step + 1 if phases else 1
        most = total - (len(lengths) - 1 - index)
        last_step = total - round(batches.steps_of_last(after[index]))
        phases.append(Phase(sequence_length, max(least, min(last_step, most))))
    return (*phases, Phase(lengths[-1], total))
