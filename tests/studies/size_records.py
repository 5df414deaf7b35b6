"""Records of study `size` as if they had been trained: losses by a known law, shares by a known rule."""

import math
from collections.abc import Sequence

import numpy as np

from parakeet.intervals import wilson_interval
from parakeet.model.config import ModelConfig
from parakeet.studies.records import Record
from parakeet.studies.study import make_study

FILE = make_study("size", "cpu").cut
SIZES = FILE.axes["size_of_equal_compute"]
LAW = {"E": 0.9, "A": 8.0, "alpha": 0.2, "B": 60.0, "beta": 0.35}
NOISE = 0.004


def true_loss(parameters: float, tokens: float) -> float:
    return float(LAW["E"] + LAW["A"] / parameters ** LAW["alpha"] + LAW["B"] / tokens ** LAW["beta"])


def config(size: str, rows: int = 1088) -> ModelConfig:
    settings = SIZES[size]
    return ModelConfig(settings["model.layers"], settings["model.heads"], settings["model.width"], 1024, rows)


def record(arm: str, size: str, seed: int) -> Record:
    rng = np.random.default_rng([*map(ord, size), seed, 7])
    model = config(size, 704 if arm == "tasks" else 1088)
    tokens = {"equal_tokens": 262_056, "equal_compute": SIZES[size]["training.tokens"], "tasks": 786_432}[arm]
    # Another order of the text has a few tokens more or fewer.
    tokens = (262_056 if tokens == 262_144 else tokens) + 68 * (seed == 2)
    loss = true_loss(model.parameter_count, tokens) * math.exp(NOISE * rng.standard_normal())
    share = min(0.99, 0.3 * math.log10(model.parameter_count / 10_000))
    exact = {"capitals": _exact(share), "counting": _exact(min(0.99, 1.6 * share)), "spelling": _exact(0.01)}
    return Record(
        {
            "name": f"{arm}.{size}.s{seed}",
            "arm": arm,
            "points": {"size_of_equal_compute" if arm == "equal_compute" else "size": size},
            "seed": seed,
            "training": {
                "parameters": model.parameter_count,
                "embedding_parameters": model.parameters()["embedding"],
                "width": model.width,
                "layers": model.layers,
                "tokens": tokens,
                "flops": model.flops_per_token(128) * tokens,
            },
            "measured": {
                "bits_per_byte": {"books": {"n_bytes": 200_000, "model": loss, "unigram": 3.159, "xz": 2.761}},
                "exact_match": exact if arm == "tasks" else "not applicable",
                "minimal_pairs": {"all": _share(0.63, 520), "phenomena": {"a or an": _share(0.9, 40)}},
                "probes": {"copy": {**_share(0.0, 60), "chance": 1 / 1024}},
                "benchmarks": {"tasks": {"piqa": _benchmark(0.56, 0.5, 1.3 * loss)}},
            },
        }
    )


def records(arms: Sequence[str], sizes: Sequence[str] = tuple(SIZES), seeds: Sequence[int] = (1, 2, 3)) -> list[Record]:
    return [
        record(arm, size, seed) for arm in arms for size in sizes for seed in (seeds if arm != "tasks" else seeds[:1])
    ]


def _share(share: float, n: int) -> dict[str, object]:
    return {"n": n, "share": share, "interval": list(wilson_interval(share * n, n))}


def _exact(share: float) -> dict[str, object]:
    return {"questions": 100, "accuracy": share, "interval": list(wilson_interval(share * 100, 100))}


def _benchmark(share: float, chance: float, bits: float) -> dict[str, object]:
    return {"accuracy": _share(share, 100), "chance": chance, "bits_per_byte": {"value": bits}}
