"""Does a model still know what it read first? Bits per byte of what it read long ago, and just before the end."""

from typing import Any

import numpy as np

from parakeet.intervals import ratio_difference, ratio_of
from parakeet.studies.measure import Measure, Trained

SEQUENCES = 256
"""Most sequences of each kind. Those of 128 tokens vary by a tenth in bits per byte: a standard error of 0.6 %."""
SHARE = 0.1
"""No more than this share of the sequences that were read."""


class Forgetting(Measure):
    """{"sequences", "first", "last", "unread", "held_out", "difference"}: bits per byte of four kinds of text.

    `first` was read for the last time longest ago, `last` most recently: without a repetition, what was trained on
    first and last. `unread` is training text that was never read, `held_out` text of held-out documents; None if there
    is none. Each is {"n" (sequences), "value", "interval"}; first and last also have `ago`, the mean share of the run
    since, and `times`, the mean number of readings. `difference` is first minus last: above 0, the model forgets.

    Sequences are those of the plan, in the order of the loader. A recipe with several sequence lengths is measured in
    the last.
    """

    name = "forgetting"

    def measure(self, trained: Trained) -> dict[str, Any]:
        from parakeet.data.tokens.packing import PackingPlan
        from parakeet.studies.sequences import bits_by_sequence, packed_documents
        from parakeet.training.schedule import Schedule

        subject, recipe = trained.subject, trained.subject.recipe
        schedule = Schedule.from_recipe(recipe.training, recipe.packing)
        phase = len(schedule.phases) - 1
        before = schedule.phases[phase - 1].last_step if phase else 0
        length = schedule.phases[phase].sequence_length
        reads = (schedule.tokens_until(schedule.total_steps) - schedule.tokens_until(before)) // length
        plan = PackingPlan(trained.folders["packing_plan"], length)
        last_read = last_readings(len(plan), recipe.packing.seed + phase, reads)

        unread = np.flatnonzero(last_read < 0)
        by_age = np.argsort(last_read, kind="stable")[len(unread) :]
        n = min(SEQUENCES, max(1, int(SHARE * len(by_age))))
        numbers = {"first": by_age[:n], "last": by_age[-n:]}
        chosen = {name: (subject.train, plan.sequences.take(some)) for name, some in numbers.items()}
        if len(unread):
            chosen["unread"] = subject.train, plan.sequences.take(_some(unread, n))
        else:
            others = np.setdiff1d(np.arange(len(subject.train)), plan.sequences.document)
            packed = packed_documents(subject.train, others, length)
            chosen["unread"] = subject.train, packed.take(_some(np.arange(len(packed)), n))
        packed = packed_documents(subject.held_out, np.arange(len(subject.held_out)), length)
        chosen["held_out"] = subject.held_out, packed.take(_some(np.arange(len(packed)), n))

        sides = {name: bits_by_sequence(subject, *text, length) for name, text in chosen.items()}
        found: dict[str, Any] = {name: ratio_of(*side) for name, side in sides.items()}
        epochs = reads // len(plan)
        for name, some in numbers.items():
            times = epochs + (last_read[some] >= epochs * len(plan)).mean()
            found[name] |= {"ago": float(1 - (last_read[some].mean() + 1) / reads), "times": float(times)}
        return {"sequences": n, **found, "difference": ratio_difference(sides["first"], sides["last"])}


def last_readings(sequences: int, seed: int, reads: int) -> np.ndarray:
    """(sequences,) int64: when each of a plan's sequences was read for the last time, from 0 to reads − 1; −1 if never.

    `seed` is the loader's, `reads` the number of sequences that it gave.
    """
    from parakeet.data.tokens.loader import sequence_order

    found = np.full(sequences, -1, np.int64)
    complete, rest = divmod(reads, sequences)
    for epoch, count in ((complete - 1, sequences), (complete, rest)):
        if epoch >= 0:
            found[sequence_order(sequences, seed, epoch)[:count]] = epoch * sequences + np.arange(count)
    return found


def _some(numbers: np.ndarray, n: int) -> np.ndarray:
    """n of the numbers by chance, the same at each call."""
    return np.random.default_rng(0).permutation(numbers)[:n]
