"""How often training has read each document."""

from pathlib import Path

import numpy as np

from parakeet.data.tokens.loader import sequence_order
from parakeet.data.tokens.packing import PackingPlan
from parakeet.recipe import Recipe
from parakeet.training.schedule import Schedule


def times_read(recipe: Recipe, plan: Path, lengths: np.ndarray) -> np.ndarray:
    """(documents,) float64: how often the tokens of each training document were read in the whole run, on average.

    A pure function of the recipe and the plan, since the order of the sequences is one. lengths (documents,) in tokens.
    """
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    slots = np.zeros(len(lengths))
    before = 0
    for number, phase in enumerate(schedule.phases):
        tokens = schedule.tokens_until(phase.last_step) - schedule.tokens_until(before)
        before = phase.last_step
        packed = PackingPlan(plan, phase.sequence_length).sequences
        epochs, rest = divmod(tokens // phase.sequence_length, len(packed))
        times = np.full(len(packed), float(epochs))
        times[sequence_order(len(packed), recipe.packing.seed + number, epochs)[:rest]] += 1
        pieces = np.repeat(times, np.diff(packed.offsets))  # (pieces,)
        slots += np.bincount(packed.document, (packed.length - 1.0) * pieces, len(lengths))
    return slots / np.maximum(lengths - 1, 1)
