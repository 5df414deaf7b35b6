"""Sampling against distributions computed by hand and against the definition in plain Python."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.generation.sampling import Sampler, choose_all
from parakeet.sampling_settings import SamplingSettings

PLAIN = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": 10,
    "stop": (),
    "rolling": False,
    "seed": 1,
}
SHARES = [0.5, 0.25, 0.15, 0.1]
LOGITS = torch.tensor(SHARES).log()


def make(**changes: object) -> SamplingSettings:
    return SamplingSettings(**{**PLAIN, **changes})  # type: ignore[arg-type]


def sampler(rows: int = 4, **changes: object) -> Sampler:
    return Sampler(make(**changes), torch.ones(rows, dtype=torch.bool))


def distribution(drawn: Sampler, logits: torch.Tensor) -> torch.Tensor:
    """The probability of every id, zeros included."""
    ids, probabilities = drawn.distribution(logits)
    assert ids.tolist() == sorted(set(ids.tolist()))
    return torch.zeros(len(logits), dtype=torch.float64).index_copy_(0, ids, probabilities)


def say(drawn: Sampler, rows: int, ids: list[int]) -> Sampler:
    """Make it draw these ids, through logits that leave it no choice under any settings."""
    for token_id in ids:
        forced = torch.full((rows,), -1e7)
        forced[token_id] = 1e7
        assert drawn.choose(forced) == token_id
    return drawn


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SHARES),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 1e-9}, [1, 0, 0, 0]),
        ({"temperature": 5e-324}, [1, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 3}, [5 / 9, 5 / 18, 1 / 6, 0]),
        ({"top_k": 4}, SHARES),
        ({"top_k": 10**9}, SHARES),
        ({"top_k": 10**30}, SHARES),
        ({"min_p": 0.4}, [2 / 3, 1 / 3, 0, 0]),
        ({"min_p": 1}, [1, 0, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 5e-324}, [1, 0, 0, 0]),
        # min_p cuts what temperature has sharpened: 0.4 of 0.25 would keep the second, 0.4 of 0.5 does too,
        # but at temperature 0.5 its share of the first is only 0.25.
        ({"temperature": 0.5, "min_p": 0.4}, [1, 0, 0, 0]),
        # top_p as well: the first holds 0.5 at temperature 1, 0.72 at temperature 0.5.
        ({"temperature": 0.5, "top_p": 0.7}, [1, 0, 0, 0]),
        # min_p 0.25 leaves 5/9, 5/18, 1/6: the first two hold 0.833 of that, but only 0.75 of everything.
        ({"min_p": 0.25, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0]),
        # And so does top_k 3.
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 3, "min_p": 0.4}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 1, "min_p": 0.1}, [1, 0, 0, 0]),
    ],
)
def test_distribution_by_hand(changes: dict[str, float], expected: list[float]) -> None:
    assert distribution(sampler(**changes), LOGITS).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "used", "expected_logits"),
    [
        ({"frequency_penalty": 0.5}, [0, 0, 2], [2 - 1.0, 1, -1 - 0.5]),
        ({"frequency_penalty": -2}, [0], [2 + 2, 1, -1]),
        ({"presence_penalty": 0.25}, [0, 0, 2], [2 - 0.25, 1, -1 - 0.25]),
        ({"frequency_penalty": 0.5, "presence_penalty": 0.25}, [0, 0, 0], [2 - 1.75, 1, -1]),
        ({"repetition_penalty": 2}, [0, 0, 2], [2 / 2, 1, -1 * 2]),
        ({"repetition_penalty": 0.5}, [0, 2], [2 / 0.5, 1, -1 * 0.5]),
        # The repetition penalty comes first: 2 − 2.5 would be negative and doubled to −1.
        ({"repetition_penalty": 2, "presence_penalty": 2, "frequency_penalty": 0.5}, [0], [2 / 2 - 2.5, 1, -1]),
        # Temperature comes after the penalties: it divides them too.
        ({"presence_penalty": 1, "temperature": 0.5}, [0], [(2 - 1) / 0.5, 1 / 0.5, -1 / 0.5]),
        ({"repetition_penalty": 4, "temperature": 2}, [0], [2 / 4 / 2, 1 / 2, -1 / 2]),
    ],
)
def test_penalties_by_hand(changes: dict[str, float], used: list[int], expected_logits: list[float]) -> None:
    found = distribution(say(sampler(3, **changes), 3, used), torch.tensor([2.0, 1.0, -1.0]))
    weights = [math.exp(x) for x in expected_logits]
    assert found.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_a_greedy_draw_heeds_the_penalties() -> None:
    # Three draws of id 0 cost it 3 · 0.5 + 0.25 = 1.75; id 1 was never drawn and costs nothing.
    drawn = sampler(2, temperature=0, frequency_penalty=0.5, presence_penalty=0.25)
    assert [drawn.choose(torch.tensor([2.0, 0.3])) for _ in range(4)] == [0, 0, 0, 1]


def test_cuts_see_penalised_logits() -> None:
    # Unpenalised, id 0 would be the one that top_k keeps.
    assert distribution(say(sampler(2, top_k=1, presence_penalty=2), 2, [0]), torch.tensor([1.0, 0.0])).tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize("penalty", [5e-324, 1e-300])
def test_a_tiny_repetition_penalty_does_not_overflow(penalty: float) -> None:
    drawn = say(sampler(3, repetition_penalty=penalty, temperature=0.3), 3, [1])
    assert distribution(drawn, torch.tensor([3.0, 2.0, -1.0])).tolist() == [0, 1, 0]


def test_masked_ids_take_no_place_in_the_cuts() -> None:
    allowed = torch.tensor([False, True, True, True])
    logits = torch.tensor([90.0, *LOGITS[1:]])
    for changes in ({"top_k": 2}, {"top_p": 0.7}, {"min_p": 0.55}):
        found = distribution(Sampler(make(**changes), allowed), logits)
        assert found.tolist() == pytest.approx([0, 0.625, 0.375, 0])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-9}, [0, 1 / 3, 0, 1 / 3, 1 / 3]),
        ({"min_p": 1}, [0, 1 / 3, 0, 1 / 3, 1 / 3]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 1 / 2, 0, 1 / 2, 0]),
        ({"top_p": 0.25}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.35}, [0, 1 / 2, 0, 1 / 2, 0]),
    ],
)
def test_among_equals_the_lower_id_comes_first(changes: dict[str, float], expected: list[float]) -> None:
    logits = torch.tensor([0.05, 0.3, 0.05, 0.3, 0.3]).log()
    assert distribution(sampler(5, **changes), logits).tolist() == pytest.approx(expected)


def test_draws_follow_the_distribution() -> None:
    drawn = sampler(temperature=1.0)
    n = 4000
    counts = torch.bincount(torch.tensor([drawn.choose(LOGITS) for _ in range(n)]), minlength=4)
    for count, p in zip(counts.tolist(), SHARES, strict=True):
        assert abs(count - n * p) < 4 * math.sqrt(n * p * (1 - p))


def test_a_seed_repeats_and_another_differs() -> None:
    def run(seed: int | None) -> list[int]:
        drawn = sampler(50, seed=seed)
        return [drawn.choose(torch.zeros(50)) for _ in range(30)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert run(None) != run(None)
    assert run(2**64 - 1) == run(2**64 - 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("allowed", [[True, True, True], [True, False, True]])
def test_logits_that_are_not_finite_are_refused(value: float, allowed: list[bool]) -> None:
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        Sampler(make(), torch.tensor(allowed)).choose(torch.tensor([0.0, value, 1.0]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_refused_in_a_shortlist_too(value: float) -> None:
    rows = [torch.zeros(9), torch.tensor([0.0] * 8 + [value])]
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        choose_all([sampler(9), sampler(9)], rows, shortlist=2)


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ParakeetError, match="do not belong together"):
        sampler(4).choose(torch.zeros(5))


def test_a_mask_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ParakeetError, match="No token"):
        Sampler(make(), torch.zeros(4, dtype=torch.bool))


# --- the definition, in plain Python, for any logits and settings --------------------------------------------------


def reference(logits: list[float], allowed: list[bool], used: list[int], chosen: SamplingSettings) -> list[float]:
    """Probabilities step by step, one token at a time."""
    scores = {}
    for i, logit in enumerate(logits):
        if allowed[i]:
            count = used.count(i)
            if count:
                r = chosen.repetition_penalty
                logit = logit / r if logit > 0 else logit * r
                logit -= count * chosen.frequency_penalty + chosen.presence_penalty
            scores[i] = logit
    ranked = sorted(scores, key=lambda i: (-scores[i], i))
    best = scores[ranked[0]]
    if chosen.temperature == 0:
        return [float(i == ranked[0]) for i in range(len(logits))]
    weights = {i: math.exp((scores[i] - best) / chosen.temperature) for i in ranked}
    kept = ranked[: chosen.top_k or len(ranked)]
    kept = [i for i in kept if weights[i] >= chosen.min_p]
    whole = sum(weights[i] for i in kept)
    nucleus: list[int] = []
    for i in kept:
        if sum(weights[j] for j in nucleus) / whole < chosen.top_p:
            nucleus.append(i)
    mass = sum(weights[i] for i in nucleus)
    return [weights[i] / mass if i in nucleus else 0.0 for i in range(len(logits))]


# Sixteenths and odd thresholds keep sums away from the cuts, where rounding alone would decide; few different
# values make many ties.
LOGIT = st.integers(-48, 48).map(lambda n: n / 16) | st.sampled_from([-1.0, 0.5])
ROWS = st.lists(st.tuples(LOGIT, st.sampled_from([True, True, False])), min_size=1, max_size=12)
Situation = tuple[list[float], list[bool], list[int], SamplingSettings]


@st.composite
def situations(draw: st.DrawFn, repetition: bool = True) -> Situation:
    rows = draw(ROWS)
    allowed = [row[1] for row in rows]
    assume(any(allowed))
    speakable = [i for i, may in enumerate(allowed) if may]
    used = draw(st.lists(st.sampled_from(speakable), max_size=4))
    chosen = make(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 1.7])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 3, 5, 100])),
        top_p=draw(st.sampled_from([1e-6, 0.3141, 0.7071, 0.9487, 1.0])),
        min_p=draw(st.sampled_from([0.0, 0.0101, 0.2929, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 0.5, 1.25, 10.0])) if repetition else 1.0,
        frequency_penalty=draw(st.sampled_from([0.0, 0.0625, -1.0, 2.0])),
        presence_penalty=draw(st.sampled_from([0.0, 0.125, -2.0])),
    )
    return [row[0] for row in rows], allowed, used, chosen


def made(allowed: list[bool], used: list[int], chosen: SamplingSettings) -> Sampler:
    return say(Sampler(chosen, torch.tensor(allowed)), len(allowed), used)


@settings(max_examples=300, deadline=None)
@given(situations())
def test_distribution_equals_the_definition(
    situation: Situation,
) -> None:
    logits, allowed, used, chosen = situation
    found = distribution(made(allowed, used, chosen), torch.tensor(logits, dtype=torch.float64))
    assert found.tolist() == pytest.approx(reference(logits, allowed, used, chosen))
    assert float(found.sum()) == pytest.approx(1)
    assert not found[~torch.tensor(allowed)].any()
    assert int((found > 0).sum()) <= (chosen.top_k or len(logits))


@settings(max_examples=100, deadline=None)
@given(situations())
def test_only_what_has_probability_is_drawn_and_a_seed_repeats(situation: Situation) -> None:
    logits, allowed, used, chosen = situation
    one, two = (made(allowed, used, chosen) for _ in range(2))
    for _ in range(5):
        expected = distribution(one, torch.tensor(logits))
        token_id = one.choose(torch.tensor(logits))
        assert expected[token_id] > 0
        assert two.choose(torch.tensor(logits)) == token_id


@settings(max_examples=200, deadline=None)
@given(situations(), st.integers(1, 13))
def test_a_shortlist_of_the_likeliest_gives_the_same_draws(situation: Situation, shortlist: int) -> None:
    """As a GPU makes it, for two replies at once. Ties at its end and cuts beyond it need more than the list."""
    logits, allowed, used, chosen = situation
    rows = [torch.tensor(logits), torch.tensor(logits).flip(0)]
    masks = [allowed, allowed[::-1]]
    other = replace(chosen, temperature=0.7, top_k=2, seed=5)
    alone, together = ([made(masks[0], used, chosen), made(masks[1], [], other)] for _ in range(2))
    for _ in range(4):
        expected = [one.choose(row) for one, row in zip(alone, rows, strict=True)]
        assert choose_all(together, rows, shortlist) == expected


@pytest.mark.parametrize("rows", [50, 5000])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 0.5},
        {"repetition_penalty": 1e-308},
    ],
)
def test_only_what_can_be_drawn_is_computed_in_float64(rows: int, changes: dict[str, float]) -> None:
    """Logits in float64 are all computed in it: the same distributions, bit for bit."""
    generator = torch.Generator().manual_seed(rows)
    allowed, base = torch.rand(rows, generator=generator) < 0.9, torch.randn(rows, generator=generator) * 3
    allowed[7] = True
    chosen = replace(SamplingSettings(seed=3), **changes)  # type: ignore[arg-type]
    for bias in ({}, {7: 20.0, 8: -50.0, int(base.argmax()): -4.0}):
        drawn = Sampler(chosen, allowed, bias)
        for _ in range(12):
            logits = (base + torch.randn(rows, generator=generator)).round(decimals=1)
            ids, probabilities = drawn.distribution(logits)
            expected = drawn.distribution(logits.double())
            assert torch.equal(ids, expected[0])
            assert torch.equal(probabilities, expected[1])
            drawn.draw(ids, probabilities)


@pytest.mark.parametrize("changes", [{}, {"min_p": 0.0}, {"min_p": 0.0, "top_k": 40}, {"temperature": 0}])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_shortlist_of_a_large_vocabulary(changes: dict[str, object], device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rows = torch.randn(20, 20_000, generator=torch.Generator().manual_seed(12)) * 3
    chosen = replace(SamplingSettings(seed=3), **changes)  # type: ignore[arg-type]
    alone, listed = (Sampler(chosen, torch.ones(20_000, dtype=torch.bool)) for _ in range(2))
    assert [alone.choose(row) for row in rows] == [choose_all([listed], [row.to(device)], 256)[0] for row in rows]


@settings(max_examples=100, deadline=None)
@given(situations(repetition=False), st.integers(-1000, 1000))
def test_a_constant_added_to_all_logits_changes_nothing(situation: Situation, constant: int) -> None:
    logits, allowed, used, chosen = situation
    drawn = made(allowed, used, chosen)
    row = torch.tensor(logits, dtype=torch.float64)
    assert distribution(drawn, row + constant).tolist() == pytest.approx(distribution(drawn, row).tolist())


@settings(max_examples=100, deadline=None)
@given(situations())
def test_a_temperature_towards_zero_is_greedy(
    situation: Situation,
) -> None:
    logits, allowed, used, chosen = situation
    row = torch.tensor(logits, dtype=torch.float64)
    greedy = distribution(made(allowed, used, replace(chosen, temperature=0)), row)
    cold = distribution(made(allowed, used, replace(chosen, temperature=1e-12)), row)
    assert greedy.max() == 1
    # All that tie with the greedy choice share what is left of the draw.
    assert cold[int(greedy.argmax())] == cold.max()
    assert {round(p, 9) for p in cold.tolist() if p} == {round(1 / int((cold > 0).sum()), 9)}


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.95, 0.9999999])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0])
def test_the_nucleus_of_a_large_vocabulary(top_p: float, spread: float) -> None:
    logits = torch.randn(20_000, generator=torch.Generator().manual_seed(11), dtype=torch.float64) * spread
    shares, order = logits.softmax(0).sort(descending=True, stable=True)
    kept = int((shares.cumsum(0) - shares < top_p).sum())
    found = distribution(sampler(20_000, top_p=top_p), logits)
    # Rounding of sums over 20,000 shares may move the limit by one token.
    assert abs(int((found > 0).sum()) - kept) <= 1
    assert (found > 0)[order[: kept - 1]].all()
