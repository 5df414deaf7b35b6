"""How the learning rate falls at the end of training: variants by name.

A new variant is one function here. The recipe and the schedule find it by its name. Imports nothing heavy: recipes do.
"""

from collections.abc import Callable

Decay = Callable[[float, int, int], float]
"""The rate when `left` of the `length` steps of the decay remain, from just below the peak to just above 0."""

DECAYS: dict[str, Decay] = {}


def decay(function: Decay) -> Decay:
    """Register a variant under its name."""
    DECAYS[function.__name__] = function
    return function


@decay
def linear(peak: float, left: int, length: int) -> float:
    # In this order: another one changes the last bit, and a run that is resumed must repeat its rates.
    return peak * left / length


@decay
def sqrt(peak: float, left: int, length: int) -> float:
    """1 − √progress: fast at first, then slowly (Hägele et al. 2024)."""
    return peak * (1.0 - ((length - left) / length) ** 0.5)
