"""The stage's work as a whole: a model that knows its text by heart, and corpora that leave little to measure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parakeet.errors import ParakeetError
from parakeet.memorisation import sections
from parakeet.memorisation.gap import held_out_sample, measure_gap
from parakeet.memorisation.measure import Subject, make_memorisation, measure
from parakeet.memorisation.ngram import measure_margin
from parakeet.memorisation.sections import charts
from parakeet.memorisation.stage import MemorisationStage, headline_figures
from parakeet.memorisation.verdict import verdict_of
from parakeet.model.transformer import save_model
from parakeet.pages import Table
from parakeet.pages.charts import svg
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.stages import stages_of

from ..conftest import Prepared
from .conftest import random_text, recipe_of, subject_of, untrained, write_corpus


@pytest.fixture(scope="module")
def by_heart(overfit: Subject) -> dict[str, Any]:
    return measure(overfit)


def test_a_model_that_knows_its_text_gives_it_back(by_heart: dict[str, Any]) -> None:
    extraction = by_heart["extraction"]
    assert list(extraction["by_prefix"]) == ["16", "32", "64"]
    shares = [found["train"]["share"] for found in extraction["by_prefix"].values()]
    assert min(shares) > 0.5
    assert shares[-1] == 1.0  # a longer prompt gives more back
    for found in extraction["by_prefix"].values():
        assert found["held_out"]["share"] == 0.0
        assert found["difference"]["share"] == found["train"]["share"]
        assert found["in_training"] == 0
    assert {name for found in extraction["by_duplicates"].values() for name in found} == {"1"}
    gap = by_heart["gap"]["sources"]["all"]
    assert gap["gap"]["value"] < -1
    assert gap["gap"]["interval"] is None  # of three texts
    assert gap["gap"]["value"] == pytest.approx(gap["train"]["value"] - gap["held_out"]["value"])
    assert by_heart["margin"]["margin"]["value"] == pytest.approx(
        by_heart["margin"]["ngram"]["value"] - by_heart["margin"]["network"]["value"]
    )
    assert all(share["share"] == 0.0 for share in by_heart["novelty"]["training"]["novelty"])
    assert by_heart["novelty"]["training"]["whole"]["share"] == 1.0
    # Three documents and a few windows say nothing.
    assert by_heart["verdict"]["answer"] == "not enough data"
    assert "not enough to rely on" in by_heart["verdict"]["text"]


def test_the_same_model_has_the_same_figures(overfit: Subject, by_heart: dict[str, Any]) -> None:
    assert json.dumps(measure(overfit), allow_nan=False) == json.dumps(by_heart)


def test_pages_and_charts_show_the_figures(by_heart: dict[str, Any]) -> None:
    found = sections(by_heart)
    assert found[0].title == "Learned or memorised?"
    text = " ".join(str(part) for section in found for part in section.parts)
    assert by_heart["verdict"]["text"] in text
    assert f"{by_heart['margin']['network']['value']:.3f}" in text
    assert "Planted" not in text
    assert all(isinstance(part, str | Table) for section in found for part in section.parts)
    for name, chart in charts(by_heart).items():
        assert svg(chart, name).startswith("<svg")


SHORT = ["ab", "a b c", "hello there"]
CORPORA: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "nothing held out": ([random_text(number) for number in range(4)], []),
    "one document": ([random_text(1)], [random_text(2)]),
    "shorter than the shortest prefix": (SHORT * 3, SHORT),
    "all windows are duplicates": ([random_text(1)] * 70, [random_text(1)]),
    "held-out texts without content": ([random_text(1)], ["", "x"]),
    "one token and one held out": (["x", random_text(1)], ["y"]),
}


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_that_leave_little_to_measure(name: str, prepared: Prepared, tmp_path: Path) -> None:
    train, held_out = CORPORA[name]
    recipe, tokenizer = recipe_of(prepared), prepared.tokenizer
    write_corpus(tmp_path, recipe, tokenizer, {"train": train, "held_out": held_out})
    subject = subject_of(tmp_path, recipe, tokenizer, untrained(tokenizer))
    figures = json.loads(json.dumps(measure(subject), allow_nan=False))
    assert figures["verdict"]["answer"] == "not enough data"
    if not held_out:
        assert "No text is held out" in figures["verdict"]["text"]
        assert figures["margin"] is None
        assert figures["novelty"]["greedy"]["texts"] > 0  # replies to the beginnings of training documents
    if name == "all windows are duplicates":
        for found in figures["extraction"]["by_prefix"].values():
            assert found["held_out"] is None
            assert found["in_training"] > 0
        assert list(figures["extraction"]["by_duplicates"]["16"]) == ["65+"]
    assert sections(figures)[0].parts == [figures["verdict"]["text"]]
    assert "inf" not in figures["verdict"]["text"]
    for title, chart in charts(figures).items():
        assert svg(chart, title)
    assert MemorisationStage().headline(figures).startswith("not enough data")
    assert all(np.isfinite(value) for value in headline_figures(figures).values())


def test_excerpts_of_one_document_are_no_sample_of_their_own(prepared: Prepared, tmp_path: Path) -> None:
    recipe, tokenizer = recipe_of(prepared), prepared.tokenizer
    texts = [random_text(number, words=1_000) for number in range(4)]
    write_corpus(tmp_path, recipe, tokenizer, {"train": texts[:2], "held_out": texts[2:]})
    subject = subject_of(tmp_path, recipe, tokenizer, untrained(tokenizer))
    sample = held_out_sample(subject)
    bits, _ = subject.score(sample, "")
    margin, gap = measure_margin(subject, sample, bits), measure_gap(subject, sample, bits)["all"]
    assert margin is not None
    assert margin["excerpts"] > 4
    assert (margin["margin"]["n"], margin["margin"]["interval"]) == (2, None)
    assert gap is not None
    assert (gap["gap"]["n"], gap["gap"]["interval"]) == ([2, 2], None)


@pytest.mark.parametrize("broken", ["weights", "products"])
def test_a_model_whose_output_is_not_finite_is_refused(broken: str, prepared: Prepared, tmp_path: Path) -> None:
    recipe, tokenizer = recipe_of(prepared), prepared.tokenizer
    write_corpus(tmp_path, recipe, tokenizer, {"train": [random_text(1)], "held_out": [random_text(2)]})
    model = untrained(tokenizer)
    with torch.no_grad():
        if broken == "weights":
            model.embedding.weight[3, 3] = float("nan")
        else:
            model.embedding.weight.mul_(1e38)
    inputs = {name: tmp_path / name for name in ("token_shards", "packing_plan", "trace_index", "checkpoint")}
    inputs["checkpoint"].mkdir()
    save_model(model, inputs["checkpoint"])
    (tmp_path / "out").mkdir()
    with pytest.raises(ParakeetError, match="unusable"):
        make_memorisation(recipe, {**inputs, "tokenizer": prepared.tokenizer_folder}, tmp_path / "out", Progress())
    assert not list((tmp_path / "out").iterdir())


def share(n: int, value: float, low: float, high: float) -> dict[str, Any]:
    return {"n": n, "share": value, "value": value, "interval": [low, high]}


def figures_of(margin: tuple[int, float, float] | None, difference: tuple[float, float] | None) -> dict[str, Any]:
    """Figures with such a margin (documents, and its interval) and such a difference of extraction rates."""
    extraction: dict[str, Any] = {"prefix": None, "by_prefix": {}, "continuation": 32}
    if difference:
        low, high = difference
        middle = (low + high) / 2
        found = {"train": share(300, 0.3 + middle, 0, 1), "held_out": share(300, 0.3, 0, 1)}
        extraction |= {"prefix": "32", "by_prefix": {"32": found | {"difference": share(300, middle, low, high)}}}
    found_margin = None
    if margin:
        n, low, high = margin
        found_margin = {
            "excerpts": 4 * n,
            "network": share(n, 1, 1, 1),
            "ngram": share(n, 2, 2, 2),
            "margin": share(n, 1, low, high),
        }
    return {"margin": found_margin, "extraction": extraction, "gap": {"all": None}, "canaries": None}


@pytest.mark.parametrize(
    ("margin", "difference", "answer"),
    [
        ((100, 0.1, 0.2), (-0.01, 0.02), "learned"),
        ((100, 0.1, 0.2), (0.1, 0.2), "both"),
        ((100, 0.1, 0.2), (0.0001, 0.002), "learned"),
        ((100, -0.2, -0.1), (0.1, 0.2), "memorised"),
        ((100, -0.1, 0.01), (0.1, 0.2), "memorised"),
        ((100, -0.1, 0.01), (-0.01, 0.02), "neither"),
        # A margin that may be large, and may be none.
        ((24, -0.01, 0.6), (-0.01, 0.02), "not enough data"),
        ((100, -0.1, 0.1), (0.1, 0.2), "not enough data"),
        ((100, -0.2, -0.1), (-0.01, 0.02), "neither"),
        ((100, 0.1, 0.2), (-0.2, -0.1), "learned"),
        ((100, 0.1, 0.2), (-0.1, 0.2), "not enough data"),
        ((100, -0.2, -0.1), (-0.2, -0.1), "not enough data"),
        ((5, 0.1, 0.2), (0.1, 0.2), "both"),
        ((4, 0.1, 0.2), (0.1, 0.2), "not enough data"),
        (None, (0.1, 0.2), "not enough data"),
        ((100, 0.1, 0.2), None, "not enough data"),
        (None, None, "not enough data"),
    ],
)
def test_the_verdict_follows_the_intervals(
    margin: tuple[int, float, float] | None, difference: tuple[float, float] | None, answer: str
) -> None:
    found = verdict_of(figures_of(margin, difference))
    assert found["answer"] == answer
    assert found["text"].startswith(found["opening"])
    assert found["text"].endswith(".")
    if margin:
        assert f"{4 * margin[0]:,} excerpts of {margin[0]:,} held-out documents" in found["text"]
    # Held-out text that is continued more often than training text is no floor.
    easier = difference is not None and difference[1] < 0
    assert ("Whether it memorised some of its training text cannot be told" in found["text"]) == (
        easier and answer == "learned"
    )
    assert not easier or "no more often" not in found["text"]


@pytest.mark.parametrize(("repeated", "answer"), [(0.9, "both"), (0.0, "learned")])
def test_canaries_that_are_repeated_are_memorised(repeated: float, answer: str) -> None:
    """Although no window of the other text was given back."""
    planted = {"copies": 8, "extraction": share(40, repeated, max(0.0, repeated - 0.1), repeated + 0.1)}
    floor = {"copies": 0, "extraction": share(254, 0.0, 0.0, 0.015)}
    figures = figures_of((100, 0.1, 0.2), (-0.01, 0.02)) | {"canaries": {"by_copies": [floor, planted], "passes": 2.0}}
    found = verdict_of(figures)
    assert found["answer"] == answer
    assert ("From 8 copies on, which it read 16 times" in found["text"]) == (answer == "both")


@pytest.mark.parametrize("wanted", [True, False])
def test_without_the_trace_index_there_is_no_such_stage(wanted: bool) -> None:
    demo = load_recipe("demo")
    recipe = demo.model_copy(update={"evaluation": demo.evaluation.model_copy(update={"trace_index": wanted})})
    assert ("memorisation" in {stage.name for stage in stages_of(recipe)}) == wanted
