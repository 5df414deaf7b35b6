"""What study `memorisation` answers, from records whose truth is known."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from parakeet.pages.charts import PRINTED
from parakeet.report.parts import Drawing
from parakeet.studies.answer import Answer
from parakeet.studies.memorisation_answer import answer
from parakeet.studies.records import Record
from parakeet.studies.trend import trend_of_shares

from .memorisation_records import FILE, capacity, goldfish, planted, rising


def answered(records: Sequence[Record]) -> tuple[Answer, Mapping[str, Any]]:
    found = answer(records, FILE)
    return found, json.loads(json.dumps(found.figures))


def told(found: Answer) -> str:
    return " ".join(part for part in found.parts if isinstance(part, str))


@pytest.fixture(scope="module")
def whole() -> Answer:
    return answer([*planted(rising), *capacity(gain=0.3), *goldfish(0.05, 0.4)], FILE)


def test_a_rise_with_copies_size_and_epochs_is_found(whole: Answer) -> None:
    settings = {(one["size"], one["epochs"]): one for one in whole.figures["settings"]}
    large = settings["192x4", "4"]
    assert large["trend"]["rises"]
    assert large["seeds_rising"] == 3
    assert large["canaries"][-1]["extraction"]["n"] == 10  # texts: all seeds have the same
    assert large["canaries"][-1]["extraction"]["share"] > large["canaries"][1]["extraction"]["share"] + 0.5
    assert whole.figures["by_size"]["4"]["rises"]
    assert all(one["difference"]["interval"][0] > 0 for one in whole.figures["by_epochs"].values())
    assert large["exposure_trend"]["interval"][0] > 0
    change = whole.figures["margin_by_size"]["4"]["change"]
    assert change["interval"][0] < 0.1 < change["interval"][1]
    assert whole.sentence.startswith("At this size they do both: after")
    assert re.search(r"with size in [12] of 2 and with epochs in 3 of 3;", whole.sentence)
    assert re.search(r"Exposure rises clearly with copies in (\d) of \1 settings, with size in", told(whole))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_what_is_flat_is_not_called_rising(rate: float) -> None:
    found, figures = answered(planted(lambda *_: rate))
    rises = [one["trend"]["rises"] for one in figures["settings"]]
    assert sum(rises) <= 1  # of six intervals of 95 %
    assert not any(trend["rises"] for trend in figures["by_size"].values())
    assert rate == 0 or re.search(r"with size in 0 of \d", found.sentence)
    assert rate > 0 or "no model writes a planted text from memory" in found.sentence


def test_a_trend_is_found_by_chance_as_rarely_as_it_should_be() -> None:
    rng = np.random.default_rng(3)
    for rate in (0.02, 0.3):
        counts = rng.binomial(30, rate, size=(150, 6)).tolist()
        trends = [trend_of_shares(range(6), right, [30] * 6) for right in counts]
        assert sum(bool(one and one["rises"]) for one in trends) <= 0.07 * 150
    assert trend_of_shares([1.0], [3], [10]) is None


def test_capacity_levels_off_and_says_if_it_is_a_lower_bound(whole: Answer) -> None:
    found, figures = answered(capacity(bits=3.0))
    (size,) = figures["capacity"]["sizes"]
    assert size["best"]["bits_per_used_parameter"]["value"] == pytest.approx(3.0, rel=0.02)
    low, high = size["best"]["bits_per_used_parameter"]["interval"]
    assert low < 3.05
    assert high > 2.95
    assert size["last_doubling"]["levels_off"]
    assert figures["capacity"]["published"] == 3.6
    assert "at least" in found.sentence  # nobody trained longer

    assert whole.figures["capacity"]["longer"][0]["grows"]
    assert "a parameter in use holds at least 3.9" in whole.sentence


def test_capacity_that_still_grows_with_the_data_has_no_plateau() -> None:
    _, figures = answered(capacity(bits=20.0))
    assert not figures["capacity"]["sizes"][0]["last_doubling"]["levels_off"]


def test_training_that_has_converged_gives_no_lower_bound() -> None:
    found, figures = answered(capacity(gain=0.0001))
    assert not figures["capacity"]["longer"][0]["grows"]
    assert "at least" not in found.sentence


def test_goldfish_is_compared_with_every_token(whole: Answer) -> None:
    change = whole.figures["goldfish"]["changes"]["three of four"]
    assert change["planted"]["interval"][1] < 0
    assert re.search(r"With three of four in the loss, .* goes from \d+% \(.*\) to \d+% \([^)]*\)\.", told(whole))
    assert "which is not clear of chance" in told(answer(goldfish(0.2, 0.2), FILE))


def test_one_seed_has_intervals_over_texts() -> None:
    found, figures = answered(planted(rising, seeds=[1], sizes=["64x2"]))
    assert any("There is one seed" in limit for limit in found.limits)
    # One seed has the interval over texts.
    assert figures["settings"][0]["margin"]["interval"] is not None
    assert figures["settings"][1]["exposure_trend"]["interval"][0] > 0
    assert figures["capacity"] is None
    assert answer([], FILE).sentence == "There are no runs to answer from yet."


def test_every_chart_has_axes_with_names_and_labels_in_words(whole: Answer) -> None:
    drawings = [part for part in whole.parts if isinstance(part, Drawing)]
    assert len(drawings) == 5
    for drawing in drawings:
        figure = drawing.chart(PRINTED)
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
        assert "95 %" in drawing.label or "bits" in drawing.label
