"""The figures of study `memorisation`: JSON values from its records, which `memorisation_answer` tells and draws."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from parakeet.intervals import share_difference, wilson_interval
from parakeet.studies.comparison import BITS_PER_BYTE, by_seed, difference, is_above, is_below, measured_at, summary
from parakeet.studies.records import Record
from parakeet.studies.study import StudyFile
from parakeet.studies.trend import trend_of_shares

PLANTED, GOLDFISH = "planted", "goldfish"
SIZE, EPOCHS = "size", "epochs"
PUBLISHED_BITS = 3.6
"""Bits per parameter of GPT models (Morris et al. 2025, arXiv 2505.24832)."""
LEVEL = 0.25
"""Memorised bits level off if twice the data raise them by less than this."""

Share = dict[str, Any]


def memorisation_figures(records: Sequence[Record], file: StudyFile) -> dict[str, Any]:
    """All that the study says in numbers. What there are no records for is None or empty.

    Shares are means over seeds with Wilson's interval over texts: all seeds have the same texts, so more seeds do not
    make more trials. Other figures are means over seeds with Student's interval, or with their own over texts if there
    is one seed. `settings` are the models that read planted texts, by size and epochs.
    """
    settings = []
    for size in file.axes.get(SIZE, {}):
        for epochs in file.axes.get(EPOCHS, {}):
            mine = _of(records, PLANTED, {SIZE: size, EPOCHS: epochs})
            if mine:
                settings.append({"size": size, "epochs": epochs, **_setting(mine)})
    return {
        "seeds": sorted({record.seed for record in records}),
        "settings": settings,
        "exposure": _exposure_range(records),
        "by_size": _by_size(settings),
        "by_epochs": _by_epochs(settings),
        "margin_by_size": _change(records, settings, SIZE, measured_at("memorisation", "margin", "margin", "value")),
        "exposure_by_size": _change(records, settings, SIZE, _mean_exposure),
        "exposure_by_epochs": _change(records, settings, EPOCHS, _mean_exposure),
        "goldfish": _goldfish(records, file),
        "capacity": _capacity(records),
    }


def _of(records: Iterable[Record], arm: str, points: Mapping[str, str]) -> list[Record]:
    return [record for record in records if record.arm == arm and record.points == dict(points)]


def _setting(records: Sequence[Record]) -> dict[str, Any]:
    canaries = _canaries(records)
    planted = [one for one in canaries if one["copies"]]
    return {
        "parameters": records[0].training["parameters"],
        "passes": (_at(records[0], "canaries") or {}).get("passes"),
        "n": len(records),
        "canaries": canaries,
        "planted": _pooled([one["extraction"] for one in planted]) if planted else None,
        "trend": _trend(planted),
        "seeds_rising": sum(bool((_trend(_canaries([one])[1:]) or {}).get("rises")) for one in records),
        "exposure_trend": _exposure_trend(records),
        "passages": _passages(records),
        "duplicates": _duplicates(records),
        "continuation": (_at(records[0], "extraction") or {}).get("continuation"),
        **{
            name: _over_seeds({record.seed: _valued(record, "margin", name) for record in records})
            for name in ("network", "ngram", "margin")
        },
        "gap": _over_seeds({record.seed: _valued(record, "gap", "all", "gap") for record in records}),
        "bits_per_byte": summary(by_seed(records, BITS_PER_BYTE)),
    }


def _at(record: Record, *keys: str) -> Any:
    value: Any = record.measured.get("memorisation")
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _valued(record: Record, *keys: str) -> Mapping[str, Any] | None:
    found = _at(record, *keys)
    return found if isinstance(found, Mapping) and "value" in found else None


def _over_seeds(figures: Mapping[int, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The mean of the figures of each seed; of one seed, its figure with its own interval."""
    there = {seed: one for seed, one in figures.items() if one}
    found = summary({seed: one["value"] for seed, one in there.items()})
    if found and found["n"] == 1:
        found["interval"] = next(iter(there.values()))["interval"]
    elif found and len(set(found["seeds"].values())) == 1:
        found["interval"] = None  # of what seeds do not change, such as an n-gram model of the whole text
    return found


def _pooled(shares: Iterable[Mapping[str, Any] | None]) -> Share | None:
    """{"n", "right", "share", "interval"} of several texts' shares together; None of no texts."""
    found = [one for one in shares if one]
    n = sum(one["n"] for one in found)
    if not n:
        return None
    right = sum(one["share"] * one["n"] for one in found)
    return {"n": n, "right": right, "share": right / n, "interval": list(wilson_interval(right, n))}


def _over_texts(shares: Iterable[Mapping[str, Any] | None]) -> Share | None:
    """The mean of the shares that seeds have of the same texts, as of that many texts: `n` is that of one seed."""
    found = [one for one in shares if one]
    together = _pooled(found)
    if together is None:
        return None
    n = together["n"] / len(found)
    return _pooled([{"n": round(n), "share": together["share"]}])


def _canaries(records: Sequence[Record]) -> list[dict[str, Any]]:
    """By number of copies, those that were never planted first."""
    rows: dict[int, list[tuple[Record, Mapping[str, Any]]]] = {}
    for record in records:
        for row in (_at(record, "canaries") or {}).get("by_copies", ()):
            rows.setdefault(row["copies"], []).append((record, row))
    found = []
    for copies, mine in sorted(rows.items()):
        found.append(
            {
                "copies": copies,
                "extraction": _over_texts(row["extraction"] for _, row in mine),
                "exposure": _over_seeds({record.seed: row["exposure"] for record, row in mine}),
            }
        )
    return found


def _trend(planted: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the share that is extracted, for each doubling of the copies."""
    rows = [one for one in planted if one["copies"] and one["extraction"]]
    return trend_of_shares(
        [math.log2(one["copies"]) for one in rows],
        [one["extraction"]["right"] for one in rows],
        [one["extraction"]["n"] for one in rows],
    )


def _exposure_trend(records: Sequence[Record]) -> dict[str, Any] | None:
    """Bits of exposure for each doubling of the copies, by least squares; of one seed with the interval over texts."""
    slopes = {record.seed: found for record in records if (found := _exposure_slope(record))}
    trend = summary({seed: value for seed, (value, _) in slopes.items()})
    if trend and trend["n"] == 1:
        ((value, error),) = slopes.values()
        trend["interval"] = None if error is None else [value - 1.96 * error, value + 1.96 * error]
    return trend


def _exposures(record: Record) -> list[tuple[float, Mapping[str, Any]]]:
    """Of the planted texts: log2 of the copies, and their exposure."""
    rows = (_at(record, "canaries") or {}).get("by_copies", ())
    return [(math.log2(row["copies"]), row["exposure"]) for row in rows if row["copies"] and row["exposure"]]


def _exposure_slope(record: Record) -> tuple[float, float | None] | None:
    """The slope, and its standard error, which is None if a number of copies has too few texts for an interval."""
    rows = _exposures(record)
    middle = sum(place for place, _ in rows) / max(1, len(rows))
    spread = sum((place - middle) ** 2 for place, _ in rows)
    if not spread:
        return None
    weights = [(place - middle) / spread for place, _ in rows]
    slope = sum(weight * one["value"] for weight, (_, one) in zip(weights, rows, strict=True))
    if any(one["interval"] is None for _, one in rows):
        return slope, None
    errors = [(one["interval"][1] - one["interval"][0]) / (2 * 1.96) for _, one in rows]
    return slope, math.hypot(*(weight * error for weight, error in zip(weights, errors, strict=True)))


def _exposure_range(records: Sequence[Record]) -> dict[str, float] | None:
    """{"never", "most"}: the mean of texts that were never planted, and the exposure of one that is likelier than all
    of those of its kind."""
    never = [
        row for record in records for row in (_at(record, "canaries") or {}).get("by_copies", ()) if not row["copies"]
    ]
    if not never:
        return None
    of_a_kind = max(never[0][kind]["n"] for kind in ("random", "natural") if never[0][kind])
    return {"never": fmean(row["exposure"]["value"] for row in never), "most": math.log2(of_a_kind + 1)}


def _mean_exposure(record: Record) -> float | None:
    """Of all planted texts, each number of copies alike."""
    rows = _exposures(record)
    return sum(one["value"] for _, one in rows) / len(rows) if rows else None


def _passages(records: Sequence[Record]) -> dict[str, Any]:
    """Extraction of text that nobody planted, by length of the prefix."""
    found = {}
    for k in (_at(records[0], "extraction") or {}).get("by_prefix", {}):
        sides = {
            side: _over_texts(_at(record, "extraction", "by_prefix", k, side) for record in records)
            for side in ("train", "held_out")
        }
        one, other = sides.values()
        found[k] = {**sides, "difference": share_difference(one, other) if one and other else None}
    return found


def _duplicates(records: Sequence[Record]) -> dict[str, Any]:
    """The same by how often a passage stands in the training text, at the prefix that is quoted; empty if all do so
    once."""
    k = _at(records[0], "extraction", "prefix")
    strata = [_at(record, "extraction", "by_duplicates", k) or {} for record in records] if k else []
    names = list(dict.fromkeys(name for one in strata for name in one))
    found = {name: _over_texts(one.get(name) for one in strata) for name in names}
    return found if len(found) > 1 else {}


def _by_size(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By epochs: the share of planted texts that is extracted by size, and its trend for each doubling of the size."""
    found = {}
    for epochs in dict.fromkeys(one["epochs"] for one in settings):
        mine = [one for one in settings if one["epochs"] == epochs and one["planted"]]
        found[epochs] = trend_of_shares(
            [math.log2(one["parameters"]) for one in mine],
            [one["planted"]["right"] for one in mine],
            [one["planted"]["n"] for one in mine],
        )
    return {epochs: trend for epochs, trend in found.items() if trend}


def _by_epochs(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By size: the share of planted texts that is extracted at the most epochs, minus that at the fewest."""
    found = {}
    for size in dict.fromkeys(one["size"] for one in settings):
        mine = [one for one in settings if one["size"] == size and one["planted"]]
        if len(mine) > 1:
            found[size] = {
                "epochs": [mine[0]["epochs"], mine[-1]["epochs"]],
                "difference": share_difference(mine[-1]["planted"], mine[0]["planted"]),
            }
    return found


def _change(
    records: Sequence[Record],
    settings: Sequence[Mapping[str, Any]],
    axis: str,
    figure: Callable[[Record], float | None],
) -> dict[str, Any]:
    """By point of the other axis: the figure at the last point of `axis` minus that at the first, seed by seed."""
    other = EPOCHS if axis == SIZE else SIZE
    found = {}
    for point in dict.fromkeys(one[other] for one in settings):
        places = [one[axis] for one in settings if one[other] == point]
        first, last = (
            by_seed(_of(records, PLANTED, {axis: place, other: point}), figure) for place in (places[0], places[-1])
        )
        if len(places) > 1 and (change := difference(last, first)):
            found[point] = {"from": places[0], "to": places[-1], "change": change}
    return found


def _goldfish(records: Sequence[Record], file: StudyFile) -> dict[str, Any] | None:
    """{"base", "points": {label: setting}, "changes": {label: {"planted", "bits_per_byte"}}}: against every token."""
    axis = file.axes.get(GOLDFISH, {})
    mine = {label: _of(records, GOLDFISH, {GOLDFISH: label}) for label in axis}
    mine = {label: found for label, found in mine.items() if found}
    if not mine:
        return None
    points = {label: _setting(found) for label, found in mine.items()}
    base = next((label for label in points if not axis[label].get("training.goldfish")), None)
    changes = {}
    for label, one in points.items():
        if base is None or label == base or not (one["planted"] and points[base]["planted"]):
            continue
        changes[label] = {
            "planted": share_difference(one["planted"], points[base]["planted"]),
            "bits_per_byte": difference(by_seed(mine[label], BITS_PER_BYTE), by_seed(mine[base], BITS_PER_BYTE)),
        }
    return {"base": base, "points": points, "changes": changes}


def _capacity(records: Sequence[Record]) -> dict[str, Any] | None:
    """{"published", "groups", "sizes", "longer"}.

    `groups` are the models of one size, one amount of random text and one length of training, least data first;
    `over_strings` spans the intervals over strings of each seed's model. Of each
    size, `sizes` has the group with the most bits per parameter in use, and what the last doubling of the data adds at
    equal training. `longer` compares groups that differ in the length of training alone.
    """
    grouped: dict[tuple[int, float, int], list[Record]] = {}
    for record in records:
        if found := record.measured.get("capacity"):
            key = (found["parameters"], found["data_bits"], record.training["tokens"])
            grouped.setdefault(key, []).append(record)
    if not grouped:
        return None
    ordered = dict(sorted(grouped.items()))
    groups = {key: _group(mine) for key, mine in ordered.items()}
    sizes = [_capacity_of_size(parameters, ordered, groups) for parameters in dict.fromkeys(key[0] for key in ordered)]
    longer = []
    for parameters, data, tokens in ordered:
        more = [key for key in ordered if key[:2] == (parameters, data) and key[2] > tokens]
        if more:
            gain = _growth(ordered[parameters, data, tokens], ordered[more[0]])
            steps = [groups[parameters, data, tokens]["steps"], groups[more[0]]["steps"]]
            longer.append({"parameters": parameters, "data_bits": data, "steps": steps, "growth": gain,
                           "grows": is_above(gain)})  # fmt: skip
    return {"published": PUBLISHED_BITS, "groups": list(groups.values()), "sizes": sizes, "longer": longer}


def _group(records: Sequence[Record]) -> dict[str, Any]:
    first = records[0].measured["capacity"]
    own = [interval for record in records if (interval := _interval_over_strings(record))]
    return {
        "width": records[0].training["width"],
        "layers": records[0].training["layers"],
        "parameters": first["parameters"],
        "used_parameters": first["used_parameters"],
        "documents": first["documents"],
        "data_bits": first["data_bits"],
        "steps": records[0].training["steps"],
        "tokens": records[0].training["tokens"],
        "n": len(records),
        "over_strings": [min(low for low, _ in own), max(high for _, high in own)] if own else None,
        "memorised_bits": summary(by_seed(records, measured_at("capacity", "memorised_bits"))),
        **{
            name: _over_seeds({record.seed: record.measured["capacity"].get(name) for record in records})
            for name in ("share", "bits_per_parameter", "bits_per_used_parameter", "held_out_share")
        },
    }


def _interval_over_strings(record: Record) -> Sequence[float] | None:
    """Of the bits of a parameter in use: what other strings would give this one model."""
    found = record.measured["capacity"]["bits_per_used_parameter"]
    return found["interval"] if found else None


def _capacity_of_size(
    parameters: int, records: Mapping[Any, list[Record]], groups: Mapping[Any, dict[str, Any]]
) -> dict[str, Any]:
    mine = [key for key in groups if key[0] == parameters]
    best = max(mine, key=lambda key: groups[key]["bits_per_used_parameter"]["value"])
    shortest = min(key[2] for key in mine)
    curve = [key for key in mine if key[2] == shortest]
    last: dict[str, Any] | None = None
    if len(curve) > 1:
        growth = _growth(records[curve[-2]], records[curve[-1]])
        last = {"data_bits": [curve[-2][1], curve[-1][1]], "growth": growth, "levels_off": is_below(growth, LEVEL)}
    return {"parameters": parameters, "best": groups[best], "last_doubling": last}


def _growth(one: Sequence[Record], other: Sequence[Record]) -> dict[str, Any] | None:
    """How much more bits the other ones have memorised, as a share of the first, seed by seed."""
    bits = measured_at("capacity", "memorised_bits")
    before, after = by_seed(one, bits), by_seed(other, bits)
    return summary({seed: after[seed] / before[seed] - 1 for seed in before if seed in after and before[seed]})
