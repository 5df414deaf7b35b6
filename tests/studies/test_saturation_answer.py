"""The answer of study saturation from records with a known law."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parakeet.pages.charts import save_png
from parakeet.report.parts import Drawing
from parakeet.studies.epoch_worth import FreshCurve, effective_tokens, fit_r_star, worth
from parakeet.studies.records import Record
from parakeet.studies.saturation_answer import answer
from parakeet.studies.study import StudyFile, make_study

PARAMETERS, UNIQUE, R_STAR = 41_184, 82_944, 6.0
FILE = make_study("saturation", "cpu").cut


def law(tokens: float) -> float:
    return 2.0 + 30 * tokens**-0.35


def repeated(epochs: int) -> float:
    return law(UNIQUE + UNIQUE * R_STAR * (1 - math.exp(-(epochs - 1) / R_STAR)))


def record(arm: str, points: dict[str, str], seed: int, tokens: int, bits: float, old: bool = False) -> Record:
    """With a little noise of the seed; `old` is of before the later measures."""
    bits += 0.002 * (seed - 2)
    measured: dict[str, Any] = {
        "bits_per_byte": {"books": {"model": bits, "n_bytes": 1000}, "nothing": None},
        "norms": {"all": 0.1 * tokens**0.1, "embedding": 0.2, "blocks": 0.1, "largest": 1.0},
    }
    if not old:
        cost = 0.001 * (tokens / PARAMETERS) ** 0.5 * (1 + 0.01 * seed)
        measured["quantised"] = {
            "n_bytes": 1000,
            "fp32": bits,
            "int8": {"value": bits, "cost": {"n": 9, "value": 1e-5, "interval": None}},
            "int4": {"value": bits + cost, "cost": {"n": 9, "value": cost, "interval": None}},
        }
        measured["forgetting"] = {
            "sequences": 32,
            "first": {"value": bits - 0.01, "ago": 0.95, "times": 1},
            "last": {"value": bits - 0.03, "ago": 0.05, "times": 1},
            "unread": {"value": bits},
            "held_out": None,
            "difference": {"value": 0.02 + 0.001 * seed},
        }
        measured["output_rank"] = {"effective_rank": 0.9 - 0.01 * seed, "largest": 0.3, "anisotropy": 0.2}
    training = {"tokens": tokens, "parameters": PARAMETERS}
    return Record({"arm": arm, "points": points, "seed": seed, "training": training, "measured": measured})


def records(
    seeds: tuple[int, ...] = (1, 2, 3), fresh: Callable[[float], float] = law, old: bool = False
) -> list[Record]:
    found = []
    for seed in seeds:
        for point, settings in FILE.axes["fresh"].items():
            tokens = settings["training.tokens"]
            found.append(record("fresh", {"fresh": point}, seed, tokens, fresh(tokens), old))
        for point, settings in FILE.axes["epochs"].items():
            for decay, more in (("none", 0.0), ("strong", 0.02)):
                points = {"epochs": point, "weight_decay": decay}
                bits = repeated(int(point)) + more
                found.append(record("repeated", points, seed, settings["training.tokens"], bits, old))
    return found


def test_the_law_of_repeated_text_is_recovered() -> None:
    curve = FreshCurve({tokens: law(tokens) for tokens in (40_960, 164_864, 658_432, 2_635_776)})
    assert curve.tokens(float(curve.bits([300_000])[0])) == pytest.approx(300_000, rel=0.01)
    assert float(curve.bits([300_000])[0]) == pytest.approx(law(300_000), abs=2e-3)
    assert math.isnan(curve.tokens(1.0))
    bits = {epochs: repeated(epochs) + 0.1 for epochs in (1, 2, 4, 8, 16, 32)}
    assert fit_r_star(curve, UNIQUE, bits) == pytest.approx(R_STAR, rel=0.1)
    expected = float(effective_tokens(UNIQUE, 8, R_STAR)) / (8 * UNIQUE)
    assert worth(curve, UNIQUE, bits)[8] == pytest.approx(expected, rel=0.05)


def test_what_cannot_be_fitted_is_not() -> None:
    with pytest.raises(ValueError, match="only 2 points fall"):
        FreshCurve({1e5: 3.0, 2e5: 2.5, 4e5: 2.6})
    curve = FreshCurve({tokens: law(tokens) for tokens in (40_960, 164_864, 658_432, 2_635_776)})
    assert fit_r_star(curve, UNIQUE, {1: 3.0, 2: 2.9}) is None
    as_fresh = {epochs: law(epochs * UNIQUE) for epochs in (1, 2, 4, 8)}
    assert fit_r_star(curve, UNIQUE, as_fresh) is None  # as good as fresh: R* has no upper end


def test_known_effects_are_told() -> None:
    found = answer(records(), FILE)
    figures = found.figures
    assert figures["fresh_turn"] == {"best": "200x", "last": "200x", "rise": None}
    assert "still improving at the end" in found.sentence
    assert "strong weight decay then needs 0.020 more" in found.sentence
    assert figures["r_star"]["none"]["value"] == pytest.approx(R_STAR, rel=0.15)
    assert len(figures["r_star"]["none"]["interval"]) == 2
    assert all(one["value"] == pytest.approx(0.02) for one in figures["decay"]["epochs"].values())
    growth = figures["int4_growth"]["fresh"]
    assert (growth["from"], growth["to"]) == ("1x", "200x")
    assert growth["change"]["interval"][0] > 0
    assert "int4 costs 0.001 bits per byte after 1 token a parameter and 0.014 after 200 tokens." in found.sentence
    assert figures["fresh"]["1x"]["unread_minus_last"]["value"] == pytest.approx(0.03)
    assert figures["remembered_growth"]["none"]["change"]["value"] == pytest.approx(0.0)
    assert figures["fresh"]["1x"]["forgotten"]["value"] == pytest.approx(0.022)


def test_a_turn_upward_is_told_from_chance() -> None:
    rising = answer(records(fresh=lambda tokens: law(tokens) + max(0.0, 1e-7 * (tokens - 658_432))), FILE)
    assert rising.figures["fresh_turn"]["best"] == "16x"
    assert re.search(r"which is worse than \d\.\d+ at 16x", rising.sentence)
    assert any("chosen by the same runs" in limit for limit in rising.limits)
    # The seeds disagree about the last point.
    noisy = [
        record("fresh", {"fresh": point}, seed, tokens, 2.0 + more * (seed - 1.5))
        for seed in (1, 2, 3)
        for point, tokens, more in (("1x", 40_960, 0.0), ("200x", 8_236_032, 0.05))
    ]
    assert "which is not clearly worse than" in answer(noisy, FILE).sentence


def test_one_seed_has_no_interval() -> None:
    found = answer(records(seeds=(1,)), FILE)
    assert found.figures["fresh"]["1x"]["bits_per_byte"]["interval"] is None
    assert any("one seed" in limit for limit in found.limits)
    assert found.figures["r_star"]["none"]["interval"] is None


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (lambda one: one.arm == "fresh", "On fresh text a model of 41,184 parameters goes from"),
        (lambda one: one.arm == "repeated", "With no weight decay, reading a text of 2.1 tokens a parameter"),
        (lambda one: one.seed == 2 and one.points.get("fresh") == "4x", "bits per byte after 4 tokens a parameter"),
        (lambda one: one.points.get("epochs", "1") in ("1", "4"), "4 times"),
        (lambda one: False, "There are no runs to answer from yet."),
    ],
)
def test_some_of_the_records_are_answered_from(kept: Callable[[Record], bool], said: str) -> None:
    assert said in answer([one for one in records() if kept(one)], FILE).sentence


def test_records_of_before_the_later_measures() -> None:
    found = answer(records(old=True), FILE)
    assert found.figures["int4_growth"]["fresh"] is None
    assert "int4" not in found.sentence


def test_charts_are_drawn(tmp_path: Path) -> None:
    drawings = [part for part in answer(records(), FILE).parts if isinstance(part, Drawing)]
    assert len(drawings) == 5
    save_png(drawings[0].chart, tmp_path / "bits.png")


def test_another_file_with_other_points() -> None:
    other = StudyFile.model_validate(
        {
            **FILE.model_dump(exclude_defaults=True),
            "axes": {"fresh": {"2x": {"training.tokens": 80_000}}},
            "arms": {"fresh": {"axes": ["fresh"]}},
            "scales": {"cpu": {}},
        }
    )
    found = answer([record("fresh", {"fresh": "2x"}, 1, 80_000, 2.5)], other)
    assert "2.498" in found.sentence
