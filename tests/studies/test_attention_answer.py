"""The answer of study attention from records with a known effect."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from parakeet.pages.charts import save_png
from parakeet.report.parts import Drawing
from parakeet.studies.attention_answer import answer
from parakeet.studies.comparison import difference, in_words
from parakeet.studies.records import Record
from parakeet.studies.study import make_study

FILE = make_study("attention", "cpu").cut
EDGES = ((0, 15), (16, 31), (32, 63), (64, 127), (128, 255), (256, 511), (512, 1023))
EFFECTS = {"16 heads": 0.0, "18 heads": 0.0, "softmax off by one": -0.02, "own keys and values": 0.03}
LONG = "trained at 1,024"


def record(variant: str, seed: int) -> Record:
    """Seeds differ far more than variants do; 18 heads differ from 16 by chance alone."""
    chance = {1: 0.01, 2: -0.012, 3: 0.003}[seed] if variant == "18 heads" else 0.001 * seed
    bits = 2.1 + 0.1 * seed + EFFECTS.get(variant, 0.0) + chance
    at_long = variant == LONG
    buckets = [
        {
            "first": first,
            "last": last,
            "n_bytes": 100 * (last - first + 1),
            "bits_per_byte": bits
            - 0.05 * min(number, 6 if at_long else 3)
            + (0.0 if at_long else 0.01 * max(0, number - 3)),
        }
        for number, (first, last) in enumerate(EDGES)
    ]
    return Record(
        {
            "arm": "variants",
            "points": {"variant": variant},
            "seed": seed,
            "training": {"tokens": 262_144, "parameters": 1_200_000 if variant.startswith("own") else 1_000_000},
            "measured": {
                "bits_per_byte": {"books": {"model": bits, "n_bytes": 1000}},
                "bits_per_byte_by_position": {
                    "longest_trained_row_tokens": 1024 if at_long else 128,
                    "sources": {"books": {"row_tokens": 1024, "rows": 8, "buckets": buckets}, "nothing": None},
                },
            },
        }
    )


def records(seeds: Sequence[int] = (1, 2, 3)) -> list[Record]:
    return [record(variant, seed) for seed in seeds for variant in FILE.axes["variant"]]


def test_differences_are_seed_by_seed() -> None:
    found = answer(records(), FILE)
    variants = found.figures["variants"]
    helps = variants["softmax off by one"]["change"]
    assert helps["value"] == pytest.approx(-0.02)
    assert helps["interval"][1] < 0
    low, high = variants["18 heads"]["change"]["interval"]
    assert low < 0 < high
    assert variants["own keys and values"]["parameters"] == 1_200_000
    assert found.sentence.startswith(
        "Against 16 heads, bits per byte fall with softmax off by one (-0.020) and rise with own keys and values "
        "(+0.030, +20% parameters), and do not clearly change with 18 heads ("
    )
    assert variants[LONG]["change"] is None  # its text is cut into other sequences


def test_positions_beyond_the_length_of_training() -> None:
    far = answer(records(), FILE).figures["far"]
    assert (far["near"], far["far"], far["long"]) == ([64, 127], [512, 1023], LONG)
    base = far["variants"]["16 heads"]
    assert base["change"]["value"] == pytest.approx(0.03)
    assert base["behind"]["value"] == pytest.approx(0.18)
    assert far["variants"][LONG]["change"]["value"] == pytest.approx(-0.15)
    assert far["variants"][LONG]["behind"] is None


def test_one_seed_tells_nothing_from_chance() -> None:
    found = answer(records(seeds=(2,)), FILE)
    assert found.figures["variants"]["18 heads"]["change"]["interval"] is None
    assert "too few seeds" in found.sentence
    assert any("one seed" in limit for limit in found.limits)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (lambda one: one.points["variant"] != LONG, "Against 16 heads"),
        (lambda one: one.points["variant"] != "16 heads", "There are no runs to answer from yet."),
        (lambda one: one.points["variant"] == "16 heads", "With 16 heads a model needs"),
        (lambda one: one.points["variant"] in ("16 heads", "18 heads"), "do not clearly change with 18 heads"),
        (lambda one: False, "There are no runs to answer from yet."),
    ],
)
def test_some_of_the_variants_are_answered_from(kept: Callable[[Record], bool], said: str) -> None:
    assert said in answer([one for one in records() if kept(one)], FILE).sentence


def test_a_seed_of_one_side_alone_is_left_out() -> None:
    assert difference({1: 2.0, 2: 3.0}, {2: 2.5, 3: 9.0}) == {
        "value": 0.5,
        "interval": None,
        "n": 1,
        "seeds": {"2": 0.5},
    }
    assert difference({1: 2.0}, {}) is None
    three = difference({1: 1.0, 2: 2.0, 3: 3.0}, {1: 0.9, 2: 1.9, 3: 2.9})
    assert in_words(three, sign=True) == "+0.100 (+0.100 to +0.100)"


def test_charts_are_drawn(tmp_path: Path) -> None:
    drawings = [part for part in answer(records(), FILE).parts if isinstance(part, Drawing)]
    assert len(drawings) == 2
    for number, drawing in enumerate(drawings):
        save_png(drawing.chart, tmp_path / f"{number}.png")
