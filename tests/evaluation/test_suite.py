"""What every build measures without data of others: minimal pairs, probes, generation health, and their intervals."""

import json
import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import Metric
from parakeet.evaluation.bits_per_byte import BitsPerByte
from parakeet.evaluation.generation_health import (
    MOST_TOKENS,
    GenerationHealth,
    ends_in_a_loop,
    n_grams,
)
from parakeet.evaluation.minimal_pairs import PAIRS_PER_PHENOMENON, MinimalPairs, minimal_pairs
from parakeet.evaluation.preference import is_best, is_tied
from parakeet.evaluation.probes import CHOICES, Probes, arithmetic_items
from parakeet.evaluation.scoring import document_bits, score_sequences
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.intervals import jackknife_interval, mean_share, ratio_interval, share_of
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.pages import render
from parakeet.pages.charts import save_png
from parakeet.recipe import Recipe
from parakeet.tokenizer import cl100k_base, count_words, train_tokenizer

from ..conftest import Prepared
from .conftest import subject_of

NEW: tuple[Metric, ...] = (MinimalPairs(), Probes(), GenerationHealth())


def model_of(prepared: Prepared, scale: float = 1.0, context: int = 64) -> Parakeet:
    config = ModelConfig(layers=2, heads=2, width=16, context=context, vocabulary_rows=prepared.tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embedding.weight.mul_(scale)
    return model.eval()


@pytest.fixture(scope="module", params=["words", "bpe", "cl100k"])
def encoded(request: pytest.FixtureRequest) -> list[tuple[str, list[int], list[int]]]:
    """Phenomenon, right and wrong sentence of each pair, by a tokenizer of each kind."""
    texts = [pair.good for pair in minimal_pairs()[::3]]
    if request.param == "cl100k":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIKTOKEN_CACHE_DIR", str(request.getfixturevalue("cl100k_cache")))
            tokenizer = cl100k_base()
    else:
        tokenizer = count_words(texts, 330) if request.param == "words" else train_tokenizer(texts, 400)
    return [(pair.phenomenon, tokenizer.encode(pair.good), tokenizer.encode(pair.bad)) for pair in minimal_pairs()]


def test_the_pairs_are_many_and_different() -> None:
    pairs = minimal_pairs()
    names = [pair.phenomenon for pair in pairs]
    assert {names.count(name) for name in names} == {PAIRS_PER_PHENOMENON}
    assert len({pair.good for pair in pairs}) == len(pairs)
    assert not {pair.good for pair in pairs} & {pair.bad for pair in pairs}


@given(seed=st.integers(0, 1000), costs=st.sampled_from([(1,), (1, 2, 5), (-1, 1)]))
@settings(max_examples=25)
def test_without_grammar_half_of_the_pairs_are_right_at_most(
    encoded: list[tuple[str, list[int], list[int]]], seed: int, costs: tuple[int, ...]
) -> None:
    """Whoever only prefers some tokens, or short sentences, is right by chance, with any tokenizer."""
    chosen = random.Random(seed)
    cost: dict[int, int] = defaultdict(lambda: chosen.choice(costs))
    right = Counter(
        name for name, good, bad in encoded if sum(map(cost.__getitem__, good)) < sum(map(cost.__getitem__, bad))
    )
    assert max(right.values(), default=0) <= PAIRS_PER_PHENOMENON // 2


@given(st.permutations(range(19)))
@settings(max_examples=25)
def test_without_arithmetic_a_quarter_of_the_answers_is_right(liking: list[int]) -> None:
    items = arithmetic_items()
    assert all(eval(question.removesuffix("=")) == answer for question, answer, _ in items)
    assert all(len({len(str(choice)) for choice in choices}) == 1 for _, _, choices in items)
    right = sum(min(choices, key=liking.__getitem__) == answer for _, answer, choices in items)
    assert right == len(items) // CHOICES


@pytest.mark.parametrize("zero", ["embedding", "everything"])
def test_a_constant_model_gets_chance_or_nothing(prepared: Prepared, zero: str) -> None:
    model = model_of(prepared, 0.0)
    if zero == "everything":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    subject = subject_of(prepared, model)
    pairs, probes, health = (metric.measure(subject) for metric in NEW)
    assert pairs["all"]["share"] <= 0.5
    assert all(found["share"] <= 0.5 for found in pairs["phenomena"].values())
    assert [probes[name]["share"] for name in ("copy", "induction", "arithmetic")] == [0, 0, 0]
    # It writes the first token that it may, for ever.
    assert health["temperatures"][0]["loops"]["share"] == health["temperatures"][0]["unfinished"]["share"] == 1
    assert health["temperatures"][0]["repetition"]["share"] > 0.8


def test_scores_that_differ_by_rounding_only_are_ties(prepared: Prepared) -> None:
    """Ids differ so little here that the sums of a pair of equal length differ in the last bits only."""
    subject = subject_of(prepared, model_of(prepared, 1e-4))
    tied: dict[str, bool] = {}
    for pair in minimal_pairs():
        good, bad = (len(prepared.tokenizer.encode(sentence)) for sentence in (pair.good, pair.bad))
        tied[pair.phenomenon] = tied.get(pair.phenomenon, True) and good == bad
    whole = [name for name, all_equal in tied.items() if all_equal]
    assert whole
    found = MinimalPairs().measure(subject)["phenomena"]
    assert {name: found[name]["share"] for name in whole} == dict.fromkeys(whole, 0.0)
    assert Probes().measure(subject)["arithmetic"]["share"] == 0


@given(st.floats(-1e4, -1e-4), st.floats(-0.9e-6, 0.9e-6), st.lists(st.floats(1.001, 2.0), max_size=3))
def test_the_best_of_several_is_better_than_each_by_more_than_rounding(
    best: float, difference: float, worse: list[float]
) -> None:
    scores = [best, *(best * factor for factor in worse)]
    assert is_best(scores, 0)
    assert not is_tied(scores, 0)
    assert not any(is_best(scores, number) or is_tied(scores, number) for number in range(1, len(scores)))
    tied = [*scores, best * (1 + difference)]
    assert not any(is_best(tied, number) for number in range(len(tied)))
    assert is_tied(tied, 0)
    assert is_tied(tied, len(tied) - 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["one norm", "one row of the vocabulary", "everything"])
@pytest.mark.parametrize("metric", NEW, ids=lambda metric: metric.name)
def test_weights_that_are_not_finite_are_refused(prepared: Prepared, metric: Metric, where: str, value: float) -> None:
    model = model_of(prepared)
    with torch.no_grad():
        if where == "one norm":
            model.final_norm.weight[3] = value
        elif where == "one row of the vocabulary":
            model.embedding.weight[prepared.tokenizer.encode("a")[0]] = value
        else:
            for parameter in model.parameters():
                parameter.fill_(value)
    with pytest.raises(ParakeetError, match=r"not finite|NaN or infinite"):
        metric.measure(subject_of(prepared, model))


@pytest.mark.parametrize("held_out", ["all", "one document", "nothing"])
def test_figures_have_n_and_interval_and_are_shown(prepared: Prepared, held_out: str, tmp_path: Path) -> None:
    """With much, little and no held-out text, and no prompts of the recipe."""
    shards = TokenShards(prepared.shards, "held_out", prepared.tokenizer)
    documents = {"all": list(range(len(shards))), "one document": [0], "nothing": []}[held_out]
    evaluation = prepared.recipe.evaluation.model_copy(update={"prompts": []})
    recipe = prepared.recipe.model_copy(update={"evaluation": evaluation})
    subject = subject_of(prepared, model_of(prepared, 30.0), recipe=recipe, documents=documents)
    metrics: tuple[Metric, ...] = (BitsPerByte(), *NEW)
    figures = {metric.name: metric.measure(subject) for metric in metrics}
    if held_out == "one document":
        assert figures == {metric.name: metric.measure(subject) for metric in metrics}
    json.dumps(figures, allow_nan=False)
    for found in shares_in(figures):
        low, high = found["interval"] or (found["share"], found["share"])
        assert 0 <= low <= found["share"] + 1e-9
        assert found["share"] - 1e-9 <= high <= 1
        assert found["n"] > 0
    bits = figures["bits_per_byte"]["all"]
    if held_out == "all":
        assert bits["interval"][0] < bits["model"] < bits["interval"][1]
        assert bits["n"] == bits["documents"] == len(shards)
    elif held_out == "one document":
        assert (bits["n"], bits["interval"]) == (1, None)
    assert figures["generation_health"]["prompts"] == {"all": 27, "one document": 1, "nothing": 0}[held_out]
    page = render("evaluation.md", name="some_model", metrics=metrics, evaluation=figures)
    assert ("Not measured: the recipe has no prompts" in page) == (held_out == "nothing")
    for metric in metrics:
        assert metric.render_summary(figures[metric.name])
        save_png(lambda palette, metric=metric: metric.plot(figures[metric.name], palette), tmp_path / metric.plot_file)


def shares_in(figures: Any) -> list[dict[str, Any]]:
    if isinstance(figures, list):
        return [found for item in figures for found in shares_in(item)]
    if not isinstance(figures, dict):
        return []
    return [figures] if "share" in figures else [found for item in figures.values() for found in shares_in(item)]


@pytest.mark.parametrize("loss_on", ["all", "assistant"])
def test_bits_and_bytes_by_document_add_up(prepared: Prepared, loss_on: str, tmp_path: Path) -> None:
    """Also for documents longer than a sequence, which are measured in pieces."""
    from parakeet.data.tokens.tokenise import make_token_shards
    from parakeet.progress import Progress

    values = prepared.recipe.model_dump()
    values["shards"]["loss_on"] = loss_on
    recipe = Recipe.model_validate(values)
    folders = {"deduplicated_documents": prepared.documents, "tokenizer": prepared.tokenizer_folder}
    make_token_shards(recipe, folders, tmp_path, Progress())
    shards = TokenShards(tmp_path, "held_out", prepared.tokenizer)
    assert int(shards.lengths().max()) > recipe.packing.sequence_length
    subject = subject_of(prepared, model_of(prepared, 5.0), shards, recipe)
    whole, figures = document_bits(subject, range(len(shards))), BitsPerByte().measure(subject)["all"]
    assert figures is not None
    assert float(whole.bits.sum()) == pytest.approx(whole.total)
    assert int(whole.n_bytes.sum()) == figures["n_bytes"]
    for number in (0, len(shards) // 2, len(shards) - 1):
        alone = document_bits(subject, [number])
        assert alone.total == pytest.approx(float(whole.bits[number]), rel=1e-4)
        assert alone.n_bytes.tolist() == [whole.n_bytes[number]]


def test_sequences_are_scored_as_one_by_one(prepared: Prepared) -> None:
    model = model_of(prepared, 30.0)
    engine = Engine(Decoder(model, "fp32"), prepared.tokenizer)
    chosen = random.Random(1)
    ids = prepared.tokenizer.defined_ids()
    sequences = [chosen.choices(ids, k=length) for length in (2, 60, 7, 7, 33, 2, 19)]
    for ids, (losses, right) in zip(sequences, score_sequences(model, sequences), strict=True):
        np.testing.assert_allclose(-losses, engine.log_probabilities(ids), rtol=1e-3, atol=1e-5)
        logits = [engine.next_logits(ids[:end]) for end in range(1, len(ids))]
        assert right.tolist() == [int(row.argmax()) == token for row, token in zip(logits, ids[1:], strict=True)]
    # The likeliest continuation is recognised as such.
    greedy = [5]
    for _ in range(20):
        greedy.append(int(engine.next_logits(greedy).argmax()))
    assert score_sequences(model, [greedy])[0].likeliest.all()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], False),
        ([7], False),
        ([7, 7], False),
        ([7, 7, 7], True),
        ([1, 2, 1, 2], False),
        ([9, 1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2, 1, 2, 9], False),
        ([1, 2, 1, 2, 1, 2, 1], True),
        (list(range(20)) * 3, True),
        (list(range(21)) * 3, False),
        (list(range(20)) * 2, False),
        ([5] * 100 + [1, 2], False),
    ],
)
def test_loops(ids: list[int], expected: bool) -> None:
    assert ends_in_a_loop(ids) == expected


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 4))
def test_loops_and_n_grams_by_definition(ids: list[int], n: int) -> None:
    repeats = (ids[len(ids) - 3 * period :] for period in range(1, 21) if 3 * period <= len(ids))
    assert ends_in_a_loop(ids) == any(end == end[: len(end) // 3] * 3 for end in repeats)
    assert n_grams(ids, n) == [tuple(ids[begin : begin + n]) for begin in range(len(ids) - n + 1)]


def test_intervals() -> None:
    assert share_of([True, False, True, False]) == mean_share([1, 0, 1, 0])
    assert mean_share([0.5] * 4) == mean_share([1, 0, 1, 0])
    low, high = jackknife_interval(0.5, [0.4, 0.6])
    assert (low, high) == (pytest.approx(0.304), pytest.approx(0.696))
    # For a mean, the jackknife's error is the usual one.
    values = np.random.default_rng(1).random(50)
    without = (values.sum() - values) / 49
    low, high = jackknife_interval(float(values.mean()), without.tolist())
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / math.sqrt(50))
    low, high = ratio_interval(values, np.ones(50))
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / math.sqrt(50), rel=0.15)


def test_replies_are_no_longer_than_the_context_allows(prepared: Prepared) -> None:
    """A prompt that fills half of a small context, and long first turns, which are left out."""
    subject = subject_of(prepared, model_of(prepared, 0.0, context=24))
    health = GenerationHealth().measure(subject)
    assert health["prompts"] > 0
    assert health["most_tokens"] == MOST_TOKENS
    assert health["temperatures"][0]["unfinished"]["share"] == 1
