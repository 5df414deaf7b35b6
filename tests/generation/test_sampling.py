import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from parakeet.errors import ParakeetError
from parakeet.generation.sampling import Sampler, SamplingSettings
from parakeet.recipe import Generation

PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": 10,
    "seed": 1,
}
LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def make(**changes: object) -> SamplingSettings:
    return SamplingSettings(**{**PLAIN, **changes})  # type: ignore[arg-type]


def sampler(rows: int = 4, **changes: object) -> Sampler:
    return Sampler(make(**changes), torch.ones(rows, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 1e-9}, [1, 0, 0, 0]),
        ({"temperature": 5e-324}, [1, 0, 0, 0]),
        ({"min_p": 0.4}, [2 / 3, 1 / 3, 0, 0]),
        ({"min_p": 1}, [1, 0, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        # min_p cuts what temperature has sharpened: 0.4 of 0.25 would keep the second, 0.4 of 0.5 does too,
        # but at temperature 0.5 its share of the first is only 0.25.
        ({"temperature": 0.5, "min_p": 0.4}, [1, 0, 0, 0]),
        # min_p 0.25 leaves 5/9, 5/18, 1/6: the first two hold 0.833 of that, but only 0.75 of everything.
        ({"min_p": 0.25, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_distribution_by_hand(changes: dict[str, float], expected: list[float]) -> None:
    assert sampler(**changes).distribution(LOGITS).tolist() == pytest.approx(expected)


def test_penalties_by_hand() -> None:
    # Three draws of id 0 cost it 3 · 0.5 + 0.25 = 1.75; id 1 was never drawn and costs nothing.
    drawn = sampler(2, temperature=0, frequency_penalty=0.5, presence_penalty=0.25)
    logits = torch.tensor([2.0, 0.3])
    assert [drawn.choose(logits) for _ in range(4)] == [0, 0, 0, 1]

    odds = sampler(2, frequency_penalty=0.5, presence_penalty=0.25)
    assert odds.choose(torch.tensor([1000.0, 0.0])) == 0
    assert odds.choose(torch.tensor([1000.0, 0.0])) == 0
    weight = math.exp(-(2 * 0.5 + 0.25))
    assert odds.distribution(torch.zeros(2)).tolist() == pytest.approx([weight / (1 + weight), 1 / (1 + weight)])


def test_draws_follow_the_distribution() -> None:
    drawn = sampler(temperature=1.0)
    n = 4000
    counts = torch.bincount(torch.tensor([drawn.choose(LOGITS) for _ in range(n)]), minlength=4)
    for count, p in zip(counts.tolist(), LOGITS.exp().tolist(), strict=True):
        assert abs(count - n * p) < 4 * math.sqrt(n * p * (1 - p))


def test_a_seed_repeats_and_another_differs() -> None:
    def run(seed: int | None) -> list[int]:
        drawn = sampler(50, seed=seed)
        return [drawn.choose(torch.zeros(50)) for _ in range(30)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert run(None) != run(None)
    assert run(2**64 - 1) == run(2**64 - 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masked_ids_are_never_drawn(temperature: float) -> None:
    allowed = torch.tensor([False, True, False, True])
    drawn = Sampler(make(temperature=temperature), allowed)
    assert {drawn.choose(torch.tensor([90.0, 1.0, 90.0, 1.0])) for _ in range(100)} <= {1, 3}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        sampler(2).choose(torch.tensor([0.0, value]))


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ParakeetError, match="do not belong together"):
        sampler(4).choose(torch.zeros(5))


def test_a_mask_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ParakeetError, match="No token"):
        Sampler(make(), torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "seed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -2.5, 1e9 + 0.5, "0.3", None, True])
def test_a_bad_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParakeetError, match=name):
        make(**{name: value})


@pytest.mark.parametrize("changes", [{"top_p": 0}, {"max_tokens": 0}, {"seed": -1}, {"seed": 2**64}, {"seed": "abc"}])
def test_more_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(ParakeetError, match=next(iter(changes))):
        make(**changes)


@given(
    st.sampled_from(["temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"]),
    st.floats(-12, 12) | st.sampled_from([0.0, 1.0, 2.0, -2.0, 10.0]),
)
def test_the_ranges_are_those_of_the_recipe(name: str, value: float) -> None:
    def accepts(maker: type, **settings: object) -> bool:
        try:
            maker(**settings)
        except (ParakeetError, ValidationError):
            return False
        return True

    assert accepts(SamplingSettings, **{**PLAIN, name: value}) == accepts(Generation, **{name: value})


def reference(logits: list[float], temperature: float, top_p: float, min_p: float) -> list[float]:
    """The definition, one token at a time."""
    if temperature == 0:
        best = logits.index(max(logits))
        return [float(i == best) for i in range(len(logits))]
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    weights = [w if w >= min_p * max(weights) else 0.0 for w in weights]
    p = [w / sum(weights) for w in weights]
    kept, mass = [0.0] * len(p), 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= top_p:
            break
        kept[i] = p[i]
        mass += p[i]
    return [k / sum(kept) for k in kept]


# Sixteenths and odd thresholds keep sums away from the cuts, where rounding alone would decide.
@settings(max_examples=200)
@given(
    st.lists(st.integers(-64, 64).map(lambda n: n / 16), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    st.sampled_from([1e-6, 0.3141, 0.7071, 0.9487, 1.0]),
    st.sampled_from([0.0, 0.0101, 0.2929, 1.0]),
)
def test_distribution_equals_the_definition(
    logits: list[float], temperature: float, top_p: float, min_p: float
) -> None:
    found = sampler(len(logits), temperature=temperature, top_p=top_p, min_p=min_p).distribution(torch.tensor(logits))
    assert found.tolist() == pytest.approx(reference(logits, temperature, top_p, min_p))
    assert found.sum() == pytest.approx(1)
    assert found[torch.tensor(logits).argmax()] > 0
