"""Excerpts and lengths as the card shows them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.card.measures import added, beginning, length_figures, visible_token


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50), st.lists(st.integers(1, 5000), max_size=50))
def test_lengths_are_summed_up_as_numpy_does(some: list[int], more: list[int]) -> None:
    lengths = np.array(some + more)
    found = length_figures(added(np.bincount(some), np.bincount(more) if more else np.zeros(0, np.int64)))
    assert found["longest"] == lengths.max()
    assert found["mean"] == pytest.approx(lengths.mean(), abs=0.06)
    for percent in (5, 50, 95):
        assert found[f"p{percent}"] == np.percentile(lengths, percent, method="inverted_cdf")
    for exponent, count in enumerate(found["bins"]):
        assert count == ((lengths >= 1 << exponent) & (lengths < 2 << exponent)).sum()


def test_no_document_has_no_lengths() -> None:
    assert length_figures(np.zeros(0, np.int64))["bins"] == []


@given(st.binary(max_size=12))
def test_a_token_shows_every_byte(content: bytes) -> None:
    shown = visible_token(content)
    assert shown.isprintable()
    assert " " not in shown
    assert len(shown) >= len(content.decode("utf-8", "ignore"))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\n", "⏎⏎"),
        (b"\xe2\x80", "\\xe2\\x80"),
        (b"\x00", "\\x00"),
        ("\u202e".encode(), "\\u202e"),
    ],
)
def test_tokens_that_cannot_be_seen_are_spelt(content: bytes, shown: str) -> None:
    assert visible_token(content) == shown


@given(st.text(max_size=60), st.integers(1, 50))
def test_a_beginning_is_no_longer_than_it_may_be(text: str, characters: int) -> None:
    found = beginning(text, characters)
    assert len(found) <= characters + 2
    assert found == text or text.startswith(found.removesuffix(" …"))


def test_a_beginning_ends_with_a_word() -> None:
    assert beginning("one two three", 9) == "one two …"
    assert beginning("unbroken" * 9, 10) == "unbrokenun …"
