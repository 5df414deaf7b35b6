"""The parts, each against a slow way to say the same."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.tokens.loader import Loader, LoaderState
from parakeet.data.tokens.packing import PackingPlan, make_packing_plan
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.replies import GREEDY
from parakeet.generation.engine import batch_replies
from parakeet.intervals import pooled_share, ratio_difference, ratio_of, share_difference, share_of
from parakeet.memorisation.extraction import right_tokens, window_ids
from parakeet.memorisation.gap import alike
from parakeet.memorisation.measure import Subject
from parakeet.memorisation.ngram import CONTEXTS, WEIGHTS, back_off
from parakeet.memorisation.novelty import LONGEST, novelty_of, prompts_of
from parakeet.memorisation.read import times_read
from parakeet.memorisation.text import Excerpts, places_of, read_excerpts
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex

from ..conftest import Prepared
from ..data.tokens.small_shards import write_shards

FEW_IDS = st.lists(st.lists(st.integers(5, 8), min_size=1, max_size=12), min_size=1, max_size=6)


def excerpts_of(texts: list[list[int]]) -> Excerpts:
    """Texts as excerpts whose tokens all count, but for the first of each."""
    begins = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    learned = np.ones(int(begins[-1]), np.bool_)
    learned[begins[:-1]] = False
    return Excerpts(np.arange(len(texts)), begins, np.concatenate(texts).astype(np.int64), learned)


def occurrences(corpus: list[list[int]], piece: list[int]) -> int:
    if not piece:
        return sum(map(len, corpus))
    return sum(text[i : i + len(piece)] == piece for text in corpus for i in range(len(text)))


def slow_bits(corpus: list[list[int]], text: list[int], at: int, weight: float, context: int, ordinary: int) -> float:
    chance = 1 / ordinary
    for k in range(min(at, context) + 1):
        before = text[at - k : at]
        continued = sum(occurrences(corpus, [*before, token]) for token in {token for text in corpus for token in text})
        chance = (occurrences(corpus, [*before, text[at]]) + weight * chance) / (continued + weight)
    return -math.log2(chance)


def index_of(folder: Path, prepared: Prepared, corpus: list[list[int]], shard_tokens: int = 1 << 20) -> TraceIndex:
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    write_shards(folder / "shards", prepared.tokenizer, [(ids, [0, len(ids)]) for ids in corpus])
    build_index(TokenShards(folder / "shards"), "a", "b", folder / "index", Progress(), shard_tokens)
    return TraceIndex.open(folder / "index")


@given(corpus=FEW_IDS, texts=FEW_IDS, weight=st.sampled_from(WEIGHTS), context=st.sampled_from(CONTEXTS[:6]))
@settings(max_examples=25)
def test_the_ngram_model_is_its_formula(
    corpus: list[list[int]],
    texts: list[list[int]],
    weight: float,
    context: int,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    index = index_of(tmp_path_factory.mktemp("index"), prepared, corpus, shard_tokens=10)
    table = back_off(index, excerpts_of(texts))
    wanted = [slow_bits(corpus, text, at, weight, context, 50) for text in texts for at in range(1, len(text))]
    np.testing.assert_allclose(table.bits(weight, context, 50), wanted)
    if wanted:
        chosen = np.arange(0, len(wanted), 2)
        best = table.best(chosen, 50)
        costs = {(a, k): table.bits(a, k, 50)[chosen].sum() for a in WEIGHTS for k in CONTEXTS}
        assert costs[best] == pytest.approx(min(costs.values()))


@given(corpus=FEW_IDS, texts=FEW_IDS)
@settings(max_examples=15)
def test_novelty_counts_what_stands_nowhere(
    corpus: list[list[int]],
    texts: list[list[int]],
    prepared: Prepared,
    overfit: Subject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    index = index_of(tmp_path_factory.mktemp("index"), prepared, corpus)
    found = novelty_of(replace(overfit, index=index), [np.array(text) for text in texts])
    for n in range(1, LONGEST + 1):
        grams = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
        new = [gram for gram in grams if not occurrences(corpus, gram)]
        share = found["novelty"][n - 1]
        assert (share is None) == (not grams)
        assert share is None or share["share"] == pytest.approx(len(new) / len(grams))
    assert found["whole"]["share"] == pytest.approx(sum(occurrences(corpus, text) > 0 for text in texts) / len(texts))


@pytest.mark.parametrize(
    ("tokens", "then"), [(32 * 8 * 20, []), (32 * 8, []), (64 * 200, [{"sequence_length": 64, "share": 0.4}])]
)
def test_times_read_is_what_the_loader_reads(
    tokens: int, then: list[object], prepared: Prepared, tmp_path: Path
) -> None:
    values = prepared.recipe.model_dump()
    values["packing"]["then"] = then
    values["training"] |= {"tokens": tokens}
    recipe = Recipe.model_validate(values)
    make_packing_plan(recipe, {"token_shards": prepared.shards}, tmp_path, Progress())
    shards = TokenShards(prepared.shards)
    read: Counter[int] = Counter()
    shares = [1.0 - sum(phase.share for phase in recipe.packing.then), *(phase.share for phase in recipe.packing.then)]
    for number, (length, share) in enumerate(zip(recipe.packing.lengths, shares, strict=True)):
        state = LoaderState("", "", recipe.packing.seed + number)
        loader = Loader(shards, PackingPlan(tmp_path, length), length, prepared.tokenizer.padding, state)
        batch = loader.next_batch(round(tokens * share) // length)
        members = iter(batch.members)
        for row in batch.documents:
            for piece in range(row.max() + 1):
                read[next(members)] += int((row == piece).sum())
    wanted = [read[number] / (length - 1) for number, length in enumerate(shards.lengths().tolist())]
    np.testing.assert_allclose(times_read(recipe, tmp_path, shards.lengths()), wanted)


@given(texts=st.lists(st.lists(st.integers(5, 6), min_size=1, max_size=40), min_size=1, max_size=6))
def test_windows_differ_from_each_other(texts: list[list[int]]) -> None:
    excerpts = excerpts_of(texts)
    windows, few = (window_ids(excerpts, 2, 2, most, np.random.default_rng(0)).tolist() for most in (99, 3))
    assert len({tuple(window) for window in windows}) == len(windows)
    assert few == windows[:3]
    # A text of two blocks has a window in each, which may be the same.
    assert bool(windows) == any(len(text) >= 4 for text in texts)
    assert all(any(occurrences([text], window) for text in texts) for window in windows)


def test_one_pass_says_what_greedy_decoding_writes(overfit: Subject) -> None:
    """Of texts that the model knows, and of others, where it soon goes wrong."""
    rng = np.random.default_rng(0)
    for shards in (overfit.train, overfit.held_out):
        text = overfit.excerpts(shards, overfit.places(shards, np.arange(len(shards)), rng))
        windows = window_ids(text, 16, 16, 20, rng)
        prompts = [window[:16].tolist() for window in windows]
        written = batch_replies(overfit.engine, prompts, [replace(GREEDY, max_tokens=16)] * len(prompts))
        same = [
            next((i for i, pair in enumerate(zip(reply, window[16:], strict=False)) if pair[0] != pair[1]), len(reply))
            for reply, window in zip(written, windows, strict=True)
        ]
        assert right_tokens(overfit, windows, 16).tolist() == same
        assert (max(same) == 16) == (shards is overfit.train)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=0, max_size=20),
    wanted=st.lists(st.integers(1, 30), min_size=0, max_size=20),
)
def test_excerpts_alike_are_different_ones(lengths: list[int], wanted: list[int]) -> None:
    there = np.array(lengths, np.int64)
    found = alike(there, np.array(wanted, np.int64))
    assert len(set(found.tolist())) == len(found) == min(len(there), len(wanted))
    if lengths:
        same = alike(there, there)
        assert sorted(there[same].tolist()) == sorted(lengths)


def test_differences_have_intervals_of_the_right_width() -> None:
    """Newcombe's method 10: his example of 56/70 and 48/80, interval 0.0524 to 0.3339."""
    shares = [share_of([True] * right + [False] * (n - right)) for right, n in ((56, 70), (48, 80))]
    assert share_difference(*shares)["interval"] == pytest.approx([0.0524, 0.3339], abs=2e-4)
    assert share_difference(shares[0], shares[0])["share"] == 0.0
    rng = np.random.default_rng(0)
    sides = [(rng.normal(mean, 1.0, 400), np.ones(400)) for mean in (5.0, 4.0)]
    found = ratio_difference(sides[0], sides[1])
    assert found is not None
    low, high = found["interval"]
    assert low < found["value"] < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / 400), rel=0.15)
    assert ratio_of(np.zeros(3), np.zeros(3)) is None
    for n in (1, 4, 5):
        few = ratio_of(np.arange(n) + 1.0, np.ones(n))
        assert few is not None
        assert (few["interval"] is None) == (n < 5)
        change = ratio_difference(sides[0], (np.ones(n), np.ones(n)))
        assert change is not None
        assert (change["interval"] is None) == (n < 5)
    assert ratio_difference(sides[0], (np.zeros(2), np.zeros(2))) is None


def test_a_share_of_none_or_all_has_an_interval() -> None:
    wholes = np.array([16, 0, 90, 40, 40, 40, 40])
    for part, ends in ((0, (0.0, 0.39)), (1, (0.61, 1.0))):
        found = pooled_share(part * wholes, wholes)
        assert found is not None
        assert (found["n"], found["share"]) == (6, part)
        assert found["interval"] == pytest.approx(ends, abs=0.01)  # Wilson's of 6
        few = pooled_share(part * wholes[:5], wholes[:5])
        assert few is not None
        assert few["interval"] is None  # four texts
    assert pooled_share([0, 0], [0, 0]) is None


@given(
    lengths=st.lists(st.integers(0, 1200), min_size=1, max_size=6),
    sequence_length=st.sampled_from([16, 64, 300, 512, 1000]),
)
def test_excerpts_predict_each_token_once(lengths: list[int], sequence_length: int) -> None:
    there = np.array(lengths, np.int64)
    places = places_of(np.arange(len(there)), there, sequence_length, np.random.default_rng(0))
    predicted = Counter(
        (document, token)
        for document, start, length in zip(*(column.tolist() for column in vars(places).values()), strict=True)
        for token in range(start + 1, start + length)
    )
    assert predicted == {(document, token): 1 for document, n in enumerate(lengths) for token in range(1, n)}
    assert all(start % sequence_length == 0 for start in places.starts.tolist())


@given(
    documents=st.lists(
        st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=90), st.lists(st.integers(0, 90), max_size=6)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=25)
def test_only_content_that_is_trained_on_is_measured(
    documents: list[tuple[list[int], list[int]]], prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = prepared.tokenizer
    controls = sorted(tokenizer.control_ids)
    # Ids below 5 stand for control tokens; spans within the document, in order and apart.
    written = []
    for ids, cuts in documents:
        bounds = sorted({min(cut, len(ids)) for cut in cuts})
        written.append(([controls[i % len(controls)] if i < 5 else i for i in ids], bounds[: len(bounds) // 2 * 2]))
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, tokenizer, written)
    shards = TokenShards(folder, "train", tokenizer)
    places = places_of(np.arange(len(shards)), shards.lengths(), 32, np.random.default_rng(0))
    found = read_excerpts(shards, places, tokenizer)
    measured = Counter(
        (int(places.documents[owner]), int(places.starts[owner] + place - found.begins[owner]))
        for place, owner in zip(np.flatnonzero(found.learned), found.owner[found.learned], strict=True)
    )
    wanted = {
        (document, token): 1
        for document, (ids, bounds) in enumerate(written)
        for begin, end in zip(bounds[::2], bounds[1::2], strict=True)
        for token in range(max(begin, 1), end)
        if ids[token] not in tokenizer.control_ids
    }
    assert measured == wanted


def test_prompts_end_where_the_assistant_speaks(prepared: Prepared) -> None:
    tokenizer = prepared.tokenizer
    shards = TokenShards(prepared.shards, "held_out", tokenizer)
    found = prompts_of(shards, np.arange(len(shards)), tokenizer, np.random.default_rng(0))
    assert len(found) == len(shards)
    kinds = Counter(int(prompt[-1]) == tokenizer.role_id("Assistant") for prompt, _ in found)
    assert kinds == {True: 30, False: 1}
    assert not any(token in tokenizer.control_ids for _, text in found for token in text.tolist())
    spoken = {tokenizer.decode(text.tolist()) for prompt, text in found if len(prompt) > 2}
    assert any(text.startswith("0 plus 0 is 0.") for text in spoken)
