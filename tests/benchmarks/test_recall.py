"""The bound that recall has to reach, and the planted pairs, against values from elsewhere."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.recall import BANDS, chance, least_found, plant, shingles
from parakeet.benchmarks.corpus import invented_blocks
from parakeet.recipe import Deduplication

SETTINGS = Deduplication()


@pytest.mark.parametrize(
    ("jaccard", "published"), [(0.0, 0.0), (0.7, 0.56), (0.75, 0.77), (0.8, 0.92), (0.85, 0.988), (1.0, 1.0)]
)
def test_chance_is_what_fineweb_published_for_these_bands_and_rows(jaccard: float, published: float) -> None:
    assert chance(jaccard, SETTINGS) == pytest.approx(published, abs=5e-3)


@given(st.integers(1, 60), st.floats(0.0, 1.0))
def test_of_equal_chances_the_bound_is_the_binomial_one(pairs: int, probability: float) -> None:
    least = least_found([probability] * pairs)
    terms = [comb(pairs, k) * probability**k * (1 - probability) ** (pairs - k) for k in range(pairs + 1)]
    assert sum(terms[: least + 1]) >= 0.025 - 1e-9
    assert sum(terms[:least]) < 0.025 + 1e-9


@pytest.mark.parametrize(("pairs", "probability", "least"), [(100, 0.5, 40), (300, 0.9, 259), (20, 0.05, 0)])
def test_bounds_that_tables_give(pairs: int, probability: float, least: int) -> None:
    assert least_found([probability] * pairs) == least


def test_unequal_chances_are_not_averaged() -> None:
    # Of one that is certain and one that cannot be there is always exactly one; two of a half may be none.
    assert least_found([1.0, 0.0] * 10) == 10
    assert least_found([0.5, 0.5] * 10) == 6


def test_planted_pairs_have_the_jaccard_that_they_say_and_share_nothing_with_others() -> None:
    pairs = list(plant(invented_blocks(n_bytes=200_000), 2, SETTINGS, seed=1))
    assert [sum(low <= pair.jaccard < high for pair in pairs) for low, high in BANDS] == [2] * len(BANDS)
    sets = [(shingles(pair.first, SETTINGS), shingles(pair.second, SETTINGS)) for pair in pairs]
    for pair, (first, second) in zip(pairs, sets, strict=True):
        assert pair.jaccard == len(first & second) / len(first | second)
    for number, (first, _) in enumerate(sets):
        assert all(len(first & other) < 0.05 * len(first) for _, other in sets[number + 1 :])
