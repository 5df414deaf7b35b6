"""The verdicts, from figures alone."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.evaluation.base import Score
from parakeet.gates.judge import (
    Difference,
    judge_difference,
    judge_generation,
    judge_memorisation,
    judge_shares,
    judge_yardsticks,
)
from parakeet.recipe import Gates


def difference(value: float, half: float | None, documents: int = 100, incumbent: float = 1.0) -> Difference:
    interval = None if half is None else (value - half, value + half)
    return Difference(incumbent + value, incumbent, value, interval, documents, 5_000)


@pytest.mark.parametrize(
    ("found", "passed", "said"),
    [
        (difference(-0.1, 0.02), True, "On 100 held-out documents (4.9 KiB) it needs 0.900 bits per byte, and b-0 1"),
        (difference(-0.1, 0.02), True, "better."),
        (difference(0.0, 0.0), True, "no worse beyond its noise."),
        (difference(0.02, 0.03), True, "+0.020 (-0.010 to +0.050), no worse beyond its noise."),
        (difference(0.02, 0.009), False, "That is worse beyond its noise."),
        # Worse for certain, but within the bound.
        (difference(0.009, 0.001), True, "no worse beyond its noise."),
        # So wide that it could be far worse: 100 × (0.1 / 0.05)².
        (difference(0.02, 0.1), False, "Too little text to tell: about 400 documents are needed."),
        # 0.050 beside 0.020, as the demo has: 100 × (0.035 / 0.001)².
        (
            difference(0.030, 0.035, incumbent=0.02),
            False,
            "Too little text to tell: about 122,500 documents",
        ),
        (difference(0.0, 0.001, incumbent=0.02), True, "no worse beyond its noise."),
        # As wide, and better for certain all the same.
        (difference(-0.5, 0.1), True, "better."),
        (difference(-0.5, 0.1, documents=19), False, "Only 19 held-out documents"),
        (difference(-0.5, None, documents=1), False, "Only 1 held-out document (4.9 KiB) to compare with b-0 on: 20"),
        (difference(math.nan, math.nan), False, "worse"),
        (Difference(math.nan, math.nan, math.nan, None, 0, 0), False, "20 are needed"),
    ],
)
def test_a_release_is_no_worse_beyond_its_noise(found: Difference, passed: bool, said: str) -> None:
    gate = judge_difference(Gates(), found, "b-0")
    assert gate["passed"] is passed
    assert said in gate["reason"]
    assert all(value is None or math.isfinite(value) for value in (gate["found"], gate["bound"]))


def test_what_promotions_lose_one_after_the_other_is_bounded() -> None:
    once = difference(0.015, 0.01)
    assert judge_difference(Gates(), once, "b-0")["passed"]
    assert judge_difference(Gates(), once, "b-0", lost=0.015)["passed"]
    gate = judge_difference(Gates(), once, "b-0", lost=0.03)
    assert not gate["passed"]
    assert "b-0 itself needs 3.0% more than the best release before it" in gate["reason"]
    assert judge_difference(Gates(), difference(-0.01, 0.01), "b-0", lost=0.03)["passed"]


NUMBERS = st.floats(-2.0, 2.0)


@given(NUMBERS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_bits_never_turn_a_refusal_into_a_promotion(value: float, half: float, more: float) -> None:
    if not judge_difference(Gates(), difference(value, half), "b-0")["passed"]:
        assert not judge_difference(Gates(), difference(value + more, half), "b-0")["passed"]


@given(NUMBERS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_wider_bound_refuses_no_more(value: float, half: float, more: float) -> None:
    if judge_difference(Gates(), difference(value, half), "b-0")["passed"]:
        assert judge_difference(Gates(worse_by=0.01 + more), difference(value, half), "b-0")["passed"]


def bits(model: float, n_bytes: int = 1000, unigram: float = 4.0, xz: float = 3.0) -> dict[str, Any]:
    return {"n_bytes": n_bytes, "model": model, "unigram": unigram, "xz": xz}


@pytest.mark.parametrize(
    ("sources", "passed"),
    [
        ({"a": bits(2.69)}, True),
        ({"a": bits(2.71)}, False),
        ({"a": bits(math.nan)}, False),
        # All sources together: a small one may be hard.
        ({"a": bits(1.0), "b": bits(3.5, n_bytes=100)}, True),
        ({"a": bits(1.0, n_bytes=100), "b": bits(3.5)}, False),
        ({"a": bits(2.5, unigram=2.6)}, False),
        ({"a": bits(2.5), "b": None}, True),
        ({"a": None}, True),
    ],
)
def test_a_first_release_beats_the_yardsticks(sources: dict[str, Any], passed: bool) -> None:
    assert judge_yardsticks(Gates(), sources)["passed"] is passed


def shares(right: float, n: int = 200, names: int = 1, unit: Any = "share") -> dict[str, list[Score]]:
    return {"exact_match": [Score(f"task {number}", right / n, n, "questions", unit=unit) for number in range(names)]}


def with_other(right: int, n: int = 200, names: int = 20) -> dict[str, list[Score]]:
    return shares(160, names=names) | {"other": shares(right, n)["exact_match"]}


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        (shares(150), shares(160), True),
        (shares(130), shares(160), False),
        (shares(200), shares(160), True),
        # With twenty shares, chance alone lets one fall as far, but not all of them.
        (shares(142, names=1), shares(160, names=1), False),
        (shares(160, names=20) | {"other": shares(142)["exact_match"]}, with_other(160), True),
        (shares(142, names=20), shares(160, names=20), False),
        # From 80% to 55% and to 50% of 40, one of twenty.
        (shares(160, names=19) | {"other": shares(22, n=40)["exact_match"]}, with_other(32, 40, 19), True),
        (shares(160, names=19) | {"other": shares(20, n=40)["exact_match"]}, with_other(32, 40, 19), False),
        (shares(math.nan), shares(160), False),
        (shares(160), shares(math.nan), True),
        (shares(100), {}, True),
        ({}, shares(100), True),
        (shares(1, unit="bits per byte"), shares(160, unit="bits per byte"), True),
        # Of different numbers of questions.
        (shares(4, n=6), shares(160), True),
        (shares(0, n=0 + 1), shares(1, n=1), True),
    ],
)
def test_no_share_may_fall_beyond_its_interval(now: Any, before: Any, passed: bool) -> None:
    assert judge_shares(now, before, "b-0")["passed"] is passed


def health(repetition: float, empty: float, temperature: float = 0.8) -> dict[str, Any]:
    def around(value: float) -> dict[str, Any]:
        return {"n": 32, "share": value, "interval": [max(0.0, value - 0.1), min(1.0, value + 0.1)]}

    return {"temperatures": [{"temperature": temperature, "repetition": around(repetition), "empty": around(empty)}]}


@pytest.mark.parametrize(
    ("figures", "bounds", "passed"),
    [
        (health(0.01, 0.0), {}, True),
        (health(0.95, 0.0), {}, False),
        (health(0.0, 0.95), {}, False),
        # Not for certain.
        (health(0.55, 0.0), {}, True),
        (health(0.95, 0.95), {"repetition": None, "empty": None}, True),
        # Greedy replies of small models loop.
        (health(0.95, 0.95, temperature=0.0), {}, True),
        (None, {}, True),
        ({"temperatures": [{"temperature": 0.8, "repetition": None, "empty": None}]}, {}, True),
    ],
)
def test_replies_that_loop_or_are_empty_refuse(figures: Any, bounds: dict[str, Any], passed: bool) -> None:
    assert judge_generation(Gates(**bounds), figures)["passed"] is passed


def extraction(train: float, held_out: float, half: float = 0.05) -> dict[str, Any]:
    found = train - held_out
    sides = {"train": {"n": 200, "share": train}, "held_out": {"n": 200, "share": held_out}}
    shown = {"share": found, "interval": [found - half, found + half]}
    return {"extraction": {"prefix": "32", "by_prefix": {"32": {**sides, "difference": shown}}}}


@pytest.mark.parametrize(
    ("counts", "bound", "passed"),
    [
        (extraction(0.05, 0.04), 0.25, True),
        (extraction(0.9, 0.1), 0.25, False),
        (extraction(0.9, 0.1), None, True),
        (extraction(0.9, 0.1), 1.0, True),
        (extraction(0.3, 0.02), 0.25, True),
        (extraction(0.7, 0.9), 0.0, True),
        ({"extraction": {"prefix": None, "by_prefix": {}}}, 0.25, True),
        (None, 0.25, True),
    ],
)
def test_memorisation_is_within_the_bound(counts: Any, bound: float | None, passed: bool) -> None:
    assert judge_memorisation(Gates(memorisation=bound), counts)["passed"] is passed
