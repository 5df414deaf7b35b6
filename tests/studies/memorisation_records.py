"""Records of study `memorisation` as if it had been run: extraction and memorised bits by a known rule."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parakeet.intervals import wilson_interval
from parakeet.studies.records import Record
from parakeet.studies.study import make_study

FILE = make_study("memorisation", "cpu").cut
COPIES = (1, 2, 4, 8, 16, 32)
PARAMETERS = {"64x2": 160_192, "128x4": 861_568, "192x4": 1_800_000}
CANARIES = 10

Rate = Callable[[int, str, str], float]
"""The chance that a text is extracted: by copies, size and epochs."""


def rising(copies: int, size: str, epochs: str) -> float:
    learned = copies * int(epochs) * (1 + list(PARAMETERS).index(size))
    return min(0.97, learned / 200)


def planted(rate: Rate, seeds: Sequence[int] = (1, 2, 3), sizes: Sequence[str] = tuple(PARAMETERS)) -> list[Record]:
    return [
        _text_model("planted", {"size": size, "epochs": epochs}, size, epochs, seed, rate)
        for size in sizes
        for epochs in FILE.axes["epochs"]
        for seed in seeds
    ]


def goldfish(with_it: float, without: float) -> list[Record]:
    rates = {"every token": without, "three of four": with_it}
    return [
        _text_model("goldfish", {"goldfish": label}, "128x4", "4", seed, lambda *_, label=label: rates[label])
        for label in rates
        for seed in (1, 2, 3)
    ]


def capacity(
    bits: float = 3.0, doublings: Sequence[int] = (0, 1, 2, 3), gain: float = 0.0, seeds: Sequence[int] = (1, 2, 3)
) -> list[Record]:
    """Models of 4,044 parameters in use that hold `bits` for each, half of what they would with half of the data.

    With twice the steps they hold `gain` more, as a share.
    """
    return [
        _strings_model(38 * 2**doubling / 2, steps, seed, bits * (1 + gain * (steps > 2000)))
        for steps, some in ((2000, doublings), (4000, (2,) if gain else ()))
        for doubling in some
        for seed in seeds
    ]


def _text_model(arm: str, points: dict[str, str], size: str, epochs: str, seed: int, rate: Rate) -> Record:
    rng = np.random.default_rng([*map(ord, arm + size + "".join(points.values())), seed])
    parameters = PARAMETERS[size]
    margin = 0.05 * (list(PARAMETERS).index(size) - 1) + 0.004 * rng.standard_normal()
    rows: list[dict[str, Any]] = [_canaries(0, 0.0, rng)]
    rows += [_canaries(copies, rate(copies, size, epochs), rng) for copies in COPIES]
    memorisation = {
        "margin": {"network": _value(2.3 - margin), "ngram": _value(2.3), "margin": _value(margin)},
        "gap": {
            "all": {"train": _value(2.2), "held_out": _value(2.3), "gap": _value(-0.1 + 0.01 * rng.standard_normal())}
        },
        "extraction": {
            "continuation": 32,
            "prefix": "32",
            "by_prefix": {k: {"train": _share(1, 120), "held_out": _share(0, 200)} for k in ("16", "32")},
            "by_duplicates": {"32": {"1": _share(0, 50), "2-4": _share(3, 20)}},
        },
        "canaries": {"by_copies": rows, "passes": float(epochs)},
    }
    bits = {"books": {"n_bytes": 70_000, "model": 2.3 - margin}}
    measured = {"bits_per_byte": bits, "capacity": None, "memorisation": memorisation}
    return _record(arm, points, seed, measured, parameters, int(size.partition("x")[0]), 131_072 * int(epochs))


def _strings_model(documents: float, steps: int, seed: int, bits: float) -> Record:
    rng = np.random.default_rng([int(documents), steps, seed])
    data, used, parameters = documents * 384, 4_044, 6_948
    memorised = min(0.97 * data, bits * used) * (1 + 0.01 * rng.standard_normal())
    figures = {
        "documents": int(documents),
        "data_bits": data,
        "memorised_bits": memorised,
        "parameters": parameters,
        "used_parameters": used,
        "bits_per_parameter": _value(memorised / parameters),
        "bits_per_used_parameter": _value(memorised / used),
        "share": _value(memorised / data),
        "held_out_share": _value(0.0),
    }
    measured = {"bits_per_byte": {"strings": None}, "capacity": figures}
    return _record("capacity", {"strings": f"{documents:g}"}, seed, measured, parameters, 12, 1024 * steps)


def _record(
    arm: str, points: dict[str, str], seed: int, measured: dict[str, Any], parameters: int, width: int, tokens: int
) -> Record:
    training = {"parameters": parameters, "width": width, "layers": 2, "tokens": tokens, "steps": tokens // 1024}
    return Record({"arm": arm, "points": points, "seed": seed, "training": training, "measured": measured})


def _canaries(copies: int, rate: float, rng: np.random.Generator) -> dict[str, Any]:
    n = CANARIES if copies else 254
    right = int(rng.binomial(n, rate))
    return {
        "copies": copies,
        "extraction": _share(right, n),
        "random": _share(right // 2, n // 2),
        "natural": _share(right - right // 2, n - n // 2),
        "exposure": _value(1.4 + 5 * rate + 0.1 * rng.standard_normal()),
    }


def _share(right: int, n: int) -> dict[str, Any]:
    return {"n": n, "share": right / n, "interval": list(wilson_interval(right, n))}


def _value(value: float) -> dict[str, Any]:
    return {"n": 20, "value": value, "interval": [value - 0.02, value + 0.02]}
