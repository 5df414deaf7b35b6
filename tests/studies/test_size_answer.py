"""What the study of sizes says, from records of which the truth is known."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.records import Record
from parakeet.studies.size_answer import answer
from tests.studies.size_records import FILE, SIZES, record, records

TEXT = ("equal_tokens", "equal_compute")
EXPLAINED = (r"\d+x\d", "Hoffmann et al. 2022")
"""Digits in the text that are no figures."""


@pytest.fixture(scope="module")
def whole() -> Answer:
    return answer(records((*TEXT, "tasks")), FILE)


def texts(parts: list[Part] | tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Heading):
            yield part.text
        elif isinstance(part, Table):
            yield from (str(cell) for row in part.rows for cell in row)
        elif isinstance(part, Details):
            yield from texts(tuple(part.parts))


def said(found: Answer) -> list[str]:
    return [found.sentence, *texts(tuple(found.parts)), *found.limits]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        yield from (number for inner in value.values() for number in numbers(inner))
        if {"value", "interval"} <= value.keys() and value["interval"]:  # shown as ±
            yield (value["interval"][1] - value["interval"][0]) / 2
        if "tokens" in value and "parameters" in value:
            yield value["tokens"] / value["parameters"]
    else:
        yield from (number for inner in value for number in numbers(inner))
        yield float(len(value))


def is_shown(text: str, figures: set[float]) -> bool:
    """Whether a number such as 57,568 or 2.06 or 3.06 M or 80.0% is a figure, rounded to as many digits."""
    digits, unit = re.fullmatch(r"([\d,.]+(?:e[+-]\d+)?)( M|%|)", text).groups()  # type: ignore[union-attr]
    scale = {" M": 1e6, "%": 0.01, "": 1.0}[unit]
    number = float(digits.replace(",", ""))
    mantissa, _, exponent = digits.partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    if "." not in digits and number >= 1000:
        step = max(step, 10 ** (len(digits.replace(",", "")) - 3) if digits.endswith("00") else 1.0)
    return any(abs(abs(figure) / scale - number) <= 0.51 * step for figure in figures)


def test_every_number_of_the_text_is_one_of_its_figures(whole: Answer) -> None:
    json.dumps(whole.figures, allow_nan=False)
    known = set(numbers(dict(whole.figures)))
    known |= {float(len(tasks)) for tasks in whole.figures["tasks"].values()}
    passed = [one["sizes"] for one in whole.figures["tasks"]["exact_match"].values()]
    known |= {float(sum(sizes[size]["passes"] for sizes in passed)) for size in SIZES}
    chosen = [one for name, tasks in whole.figures["tasks"].items() if name != "exact_match" for one in tasks.values()]
    known |= {float(sum(len(one["sizes"]) for one in chosen))}
    points = whole.figures["forecast"]["points"]
    known |= {float(sum(point[key] for point in points)) for key in ("runs", "inside")}
    for text in said(whole):
        for explained in EXPLAINED:
            text = re.sub(explained, "", text)
        for number in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?(?: M\b|%|)", text):
            assert is_shown(number, known), (number, text)


def test_the_answer_is_by_tasks_passed(whole: Answer) -> None:
    assert whole.sentence == (
        "The smallest model that passes any of the 3 tasks has 812,416 parameters and passes counting; no size up to "
        "3.07 M passes capitals or spelling."
    )
    counting = whole.figures["tasks"]["exact_match"]["counting"]
    assert counting["smallest"] == "128x4"
    assert counting["steady"]
    assert not whole.figures["tasks"]["probes"]["copy (probe)"]["sizes"]["256x4"]["passes"]


def test_the_forecast_stands_beside_what_was_measured(whole: Answer) -> None:
    forecast = whole.figures["forecast"]
    assert not forecast["made_before"]
    assert [(point["size"], point["runs"]) for point in forecast["points"]] == [("256x4", 3), ("256x4", 3)]
    assert all(point["inside"] >= 2 for point in forecast["points"])
    assert all(abs(point["off"]) < 0.02 for point in forecast["points"])
    cells = whole.figures["law"]["cells"]
    assert len(cells) == 9  # seeds differ by a few tokens; 128x4 is in both arms
    assert "256x4" not in {cell["size"] for cell in cells}
    point = {**forecast["points"][0], "interval": [0.1, 0.2], "bits_per_byte": 0.15}
    file = {"made": "2026-11-29T01:20:03+00:00", "made_afterwards": False, "points": [point]}
    told = " ".join(said(answer(records(TEXT[:1]), FILE, file)))
    assert "written at 2026-11-29 01:20 UTC, before any of its runs was finished" in told
    assert "All runs are inside the interval in 0 of 1 forecast." in told


def test_the_best_size_at_equal_compute_is_between_the_extremes(whole: Answer) -> None:
    best = whole.figures["optimum"]
    assert best["size"] == "64x2"
    low, high = best["law"]["interval"]
    assert 57_568 < low <= best["law"]["parameters"] <= high < 862_000


def test_charts_can_be_drawn(whole: Answer) -> None:
    from parakeet.pages.charts import svg

    labels = [svg(part.chart, part.label) for part in whole.parts if isinstance(part, Drawing)]
    assert len(labels) == 2
    assert all("bits per byte" in one or "exactly right" in one for one in labels)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "There are no runs to answer from yet."),
        (records(("equal_tokens",), ["32x2"], [1]), "There is one seed"),
        (records(("equal_tokens",), ["32x2", "64x2", "96x3"], [1]), "No law is fitted: a law with"),
        (records(("tasks",), ["32x2"]), "passes any of the 3 tasks."),
        (records(("equal_tokens", "tasks"), ["32x2", "192x4"], [1, 2]), "parameters and passes counting"),
    ],
)
def test_what_is_missing_is_said(found: list[Record], expected: str) -> None:
    result = answer(found, FILE)
    json.dumps(result.figures, allow_nan=False)
    assert expected in " ".join(said(result))


def test_one_seed_has_no_interval() -> None:
    figures = answer(records(("equal_tokens",), ["32x2", "64x2"], [1]), FILE).figures
    assert figures["arms"]["equal_tokens"]["32x2"]["interval"] is None
    low, high = answer(records(("equal_tokens",), ["32x2"], [1, 2, 3]), FILE).figures["arms"]["equal_tokens"]["32x2"][
        "interval"
    ]
    assert low < high


@pytest.mark.parametrize(("share", "passes"), [(0.88, True), (0.87, False)])
def test_a_task_is_passed_if_its_interval_is_above_80_percent(share: float, passes: bool) -> None:
    one = record("tasks", "32x2", 1)
    one.measured["exact_match"]["spelling"]["accuracy"] = share
    assert answer([one], FILE).figures["tasks"]["exact_match"]["spelling"]["sizes"]["32x2"]["passes"] == passes


def test_a_larger_size_that_fails_is_said() -> None:
    found = records(("tasks",), ["32x2", "64x2"])
    found[0].measured["exact_match"]["spelling"]["accuracy"] = 1.0
    result = answer(found, FILE)
    assert not result.figures["tasks"]["exact_match"]["spelling"]["steady"]
    assert any("32x2, but not every larger one" in text for text in said(result))
