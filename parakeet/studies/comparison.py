"""Figures of a study's settings over seeds, and differences of two settings, seed by seed."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any

from parakeet.studies.records import Record
from parakeet.studies.seeds import mean_of

BySeed = Mapping[int, float]


BITS_PER_BYTE = attrgetter("bits_per_byte")
"""Of a record."""


def measured_at(*keys: str) -> Callable[[Record], float | None]:
    """What a record has at these keys of `measured`; None if it was not measured."""

    def figure(record: Record) -> float | None:
        value: Any = record.measured
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return figure


def by_seed(records: Iterable[Record], figure: Callable[[Record], float | None]) -> dict[int, float]:
    """The figure of each record that has it."""
    return {record.seed: value for record in records if (value := figure(record)) is not None}


def summary(values: BySeed) -> dict[str, Any] | None:
    """{"value", "interval", "n", "seeds"}: the mean with its interval, and the value of each seed. None of nothing."""
    if not values:
        return None
    return {**mean_of(list(values.values())), "seeds": {str(seed): value for seed, value in sorted(values.items())}}


def difference(one: BySeed, other: BySeed) -> dict[str, Any] | None:
    """The same of one minus the other, of the seeds that both have: Student's t of the paired differences."""
    return summary({seed: one[seed] - other[seed] for seed in one if seed in other})


def is_above(found: Mapping[str, Any] | None, border: float = 0.0) -> bool:
    """Whether all of the interval is."""
    return bool(found and found["interval"] and found["interval"][0] > border)


def is_below(found: Mapping[str, Any] | None, border: float = 0.0) -> bool:
    return bool(found and found["interval"] and found["interval"][1] < border)


def is_clear(found: Mapping[str, Any] | None) -> bool:
    """Whether the interval leaves zero out."""
    return is_above(found) or is_below(found)


def unless_clear(found: Mapping[str, Any]) -> str:
    """The end of a sentence that tells a difference."""
    if found["interval"] is None:
        return ", with too few seeds for an interval"
    return "" if is_clear(found) else ", which is not clear of chance"


def verdict(found: Mapping[str, Any]) -> str:
    """Of a difference of bits per byte: which are better when they are fewer."""
    if found["interval"] is None:
        return "no interval"
    return "better" if is_below(found) else "worse" if is_above(found) else "could be chance"


def in_words(found: Mapping[str, Any] | None, decimals: int = 3, sign: bool = False) -> str:
    """`2.125 (2.101 to 2.149)`; without an interval `2.125`; nothing if there is nothing. `sign` writes + too."""
    if found is None:
        return ""
    form = f"{'+' if sign else ''},.{decimals}f"
    value = format(found["value"], form)
    if found["interval"] is None:
        return value
    low, high = (format(bound, form) for bound in found["interval"])
    return f"{value} ({low} to {high})"
