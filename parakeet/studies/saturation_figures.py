"""The figures of study `saturation`: JSON values from its records, which `saturation_answer` tells and draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from parakeet.studies.comparison import BITS_PER_BYTE, by_seed, difference, measured_at, summary
from parakeet.studies.epoch_worth import PUBLISHED, FreshCurve, fit_r_star, worth
from parakeet.studies.records import Record
from parakeet.studies.study import StudyFile

FRESH, REPEATED = "fresh", "repeated"
EPOCHS, DECAY = "epochs", "weight_decay"

Figure = Callable[[Record], float | None]

FIGURES: Mapping[str, Figure] = {
    "bits_per_byte": BITS_PER_BYTE,
    "norm": measured_at("norms", "all"),
    "norm_embedding": measured_at("norms", "embedding"),
    "norm_blocks": measured_at("norms", "blocks"),
    "int8": measured_at("quantised", "int8", "cost", "value"),
    "int4": measured_at("quantised", "int4", "cost", "value"),
    "effective_rank": measured_at("output_rank", "effective_rank"),
    "anisotropy": measured_at("output_rank", "anisotropy"),
    "forgotten": measured_at("forgetting", "difference", "value"),
}
"""What each setting has, with an interval over seeds. `forgotten`: bits per byte of what was read first, minus last."""


def saturation_figures(records: Sequence[Record], file: StudyFile) -> dict[str, Any]:
    """All that the study says in numbers; what there are too few records for is None, empty or has a `reason`."""
    fresh = _by_point([record for record in records if record.arm == FRESH], FRESH)
    repeated = {
        label: _by_point(
            [record for record in records if record.arm == REPEATED and record.points[DECAY] == label], EPOCHS
        )
        for label in file.axes.get(DECAY, {})
    }
    repeated = {label: found for label, found in repeated.items() if found}
    curves = _curves(fresh)
    return {
        "parameters": records[0].training["parameters"] if records else None,
        "seeds": sorted({record.seed for record in records}),
        "fresh": {point: _setting(found) for point, found in fresh.items()},
        "fresh_turn": _turn(fresh),
        "fresh_gain": _gain(fresh),
        "repeated": {
            label: {point: {**_setting(found), **_beside(point, found, curves)} for point, found in points.items()}
            for label, points in repeated.items()
        },
        "repeated_turn": {label: _turn(points) for label, points in repeated.items()},
        "decay": _decay(repeated),
        "worth": {label: _worth(points, curves) for label, points in repeated.items()},
        "r_star": {label: _r_star(points, curves) for label, points in repeated.items()},
        "published_r_star": PUBLISHED,
        "int4_growth": {name: _growth(points, FIGURES["int4"]) for name, points in _named(fresh, repeated).items()},
        "remembered_growth": {
            label: _growth(points, _less_than_unread("first", "last")) for label, points in repeated.items()
        },
        "rank_change": {
            name: _growth(points, FIGURES["effective_rank"]) for name, points in _named(fresh, repeated).items()
        },
        "anisotropy_change": {
            name: _growth(points, FIGURES["anisotropy"]) for name, points in _named(fresh, repeated).items()
        },
    }


def _named(
    fresh: Mapping[str, Sequence[Record]], repeated: Mapping[str, Mapping[str, Sequence[Record]]]
) -> dict[str, Mapping[str, Sequence[Record]]]:
    return {**({FRESH: fresh} if fresh else {}), **repeated}


def _by_point(records: Sequence[Record], axis: str) -> dict[str, list[Record]]:
    """Records by their point on an axis, the fewest tokens first."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.training["tokens"], record.seed)):
        found.setdefault(record.points[axis], []).append(record)
    return found


def _setting(records: Sequence[Record]) -> dict[str, Any]:
    training = records[0].training
    return {
        "tokens": training["tokens"],
        "a_parameter": training["tokens"] / training["parameters"],
        **{name: summary(by_seed(records, figure)) for name, figure in FIGURES.items()},
        "unread_minus_first": summary(by_seed(records, _less_than_unread("first"))),
        "unread_minus_last": summary(by_seed(records, _less_than_unread("last"))),
        "unread_minus_read": summary(by_seed(records, _less_than_unread("first", "last"))),
    }


def _less_than_unread(*kinds: str) -> Figure:
    """Bits per byte of unread text minus those of text that was read: the mean of these kinds."""

    def figure(record: Record) -> float | None:
        unread = measured_at("forgetting", "unread", "value")(record)
        values = [measured_at("forgetting", kind, "value")(record) for kind in kinds]
        known = [value for value in values if value is not None]
        return None if unread is None or len(known) < len(kinds) else unread - fmean(known)

    return figure


def _turn(points: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """{"best", "last", "rise"}: where bits per byte are lowest, and how far the last point is above, seed by seed.

    `rise` is None if the last point is the best. None without two points.
    """
    values = {point: by_seed(records, BITS_PER_BYTE) for point, records in points.items()}
    values = {point: seeds for point, seeds in values.items() if seeds}
    if len(values) < 2:
        return None
    best, last = min(values, key=lambda point: fmean(values[point].values())), list(values)[-1]
    return {"best": best, "last": last, "rise": None if best == last else difference(values[last], values[best])}


def _gain(points: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """{"from", "to", "change"} of bits per byte from the last point but one to the last."""
    if len(points) < 2:
        return None
    before, last = list(points)[-2:]
    change = difference(*(by_seed(points[point], BITS_PER_BYTE) for point in (last, before)))
    return {"from": before, "to": last, "change": change}


def _growth(points: Mapping[str, Sequence[Record]], figure: Figure) -> dict[str, Any] | None:
    """{"from", "to", "change"} of a figure from the first point that has it to the last, seed by seed."""
    values = {point: seeds for point, records in points.items() if (seeds := by_seed(records, figure))}
    if len(values) < 2:
        return None
    (first, before), *_, (last, after) = values.items()
    return {"from": first, "to": last, "change": difference(after, before)}


def _decay(repeated: Mapping[str, Mapping[str, Sequence[Record]]]) -> dict[str, Any] | None:
    """{"one", "other", "epochs": {epochs: difference}}: bits per byte with one weight decay minus the other."""
    if len(repeated) < 2:
        return None
    other, *_, one = repeated
    both = [point for point in repeated[one] if point in repeated[other]]
    found = {
        point: difference(*(by_seed(repeated[label][point], BITS_PER_BYTE) for label in (one, other))) for point in both
    }
    return {"one": one, "other": other, "epochs": {point: each for point, each in found.items() if each}}


def _curves(fresh: Mapping[str, Sequence[Record]]) -> dict[int, FreshCurve]:
    """The curve of fresh text of each seed that has enough points."""
    points: dict[int, dict[float, float]] = {}
    for records in fresh.values():
        for record in records:
            if (bits := record.bits_per_byte) is not None:
                points.setdefault(record.seed, {})[record.training["tokens"]] = bits
    curves = {}
    for seed, found in points.items():
        try:
            curves[seed] = FreshCurve(found)
        except ValueError:
            continue
    return curves


def _beside(point: str, records: Sequence[Record], curves: Mapping[int, FreshCurve]) -> dict[str, Any]:
    """`more_than_fresh`: bits per byte above fresh text of as many tokens, from the curve of the same seed."""
    tokens = records[0].training["tokens"]
    fresh = {seed: float(curve.bits([tokens])[0]) for seed, curve in curves.items()}
    known = {seed: bits for seed, bits in fresh.items() if math.isfinite(bits)}
    return {"more_than_fresh": difference(by_seed(records, BITS_PER_BYTE), known)}


def _epochs_by_seed(points: Mapping[str, Sequence[Record]]) -> dict[int, dict[int, float]]:
    """Bits per byte by seed and epochs."""
    found: dict[int, dict[int, float]] = {}
    for point, records in points.items():
        for seed, bits in by_seed(records, BITS_PER_BYTE).items():
            found.setdefault(seed, {})[int(point)] = bits
    return found


def _unique(points: Mapping[str, Sequence[Record]]) -> float:
    """Tokens that are read in one epoch."""
    point, records = next(iter(points.items()))
    return float(records[0].training["tokens"]) / int(point)


def _worth(points: Mapping[str, Sequence[Record]], curves: Mapping[int, FreshCurve]) -> dict[str, Any]:
    """By epochs: what share of the tokens read fresh text would have needed for the same bits per byte.

    Only epochs that the curve reaches for every seed: those that it does not reach are the worst or the best of them.
    """
    shares: dict[int, dict[int, float]] = {}
    for seed, bits in _epochs_by_seed(points).items():
        if seed in curves and 1 in bits:
            for epochs, share in worth(curves[seed], _unique(points), bits).items():
                shares.setdefault(epochs, {})[seed] = share
    seeds = max((len(found) for found in shares.values()), default=0)
    return {str(epochs): summary(found) for epochs, found in sorted(shares.items()) if len(found) == seeds}


def _r_star(points: Mapping[str, Sequence[Record]], curves: Mapping[int, FreshCurve]) -> dict[str, Any]:
    """{"value", "interval", "seeds", "reason", "until"}: fitted for each seed, and the mean of the logarithms.

    Only the epochs up to the best are fitted, since the law cannot rise: `until`. `reason` says why there is no value.
    """
    turn = _turn(points)
    until = int(turn["best"]) if turn else 0
    found: dict[int, float] = {}
    tried = 0
    for seed, bits in _epochs_by_seed(points).items():
        if seed in curves:
            tried += 1
            r_star = fit_r_star(
                curves[seed], _unique(points), {epochs: each for epochs, each in bits.items() if epochs <= until}
            )
            if r_star is not None:
                found[seed] = math.log(r_star)
    logs: Any = summary(found) if found and len(found) == tried else None
    reason = ""
    if not tried:
        reason = "there are too few points of fresh text"
    elif logs is None:
        reason = f"the fit has a minimum for {len(found)} of {tried} seeds"
    return {
        "value": math.exp(logs["value"]) if logs else None,
        "interval": [math.exp(bound) for bound in logs["interval"]] if logs and logs["interval"] else None,
        "seeds": {str(seed): math.exp(each) for seed, each in sorted(found.items())},
        "until": until,
        "reason": reason,
    }
