"""Goldfish loss leaves out one in k of the targets, and the same ones in every copy of a passage."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.tokens.goldfish import PRECEDING, without_goldfish_targets
from parakeet.data.tokens.loader import Batch

PADDING = 0
NUMBERS = st.integers(0, 1 << 30)


def batch_of(sequences: Sequence[Sequence[np.ndarray]], length: int) -> Batch:
    """Each piece of n ids fills n − 1 positions."""
    inputs = np.full((len(sequences), length), PADDING, np.int64)
    targets, documents = inputs.copy(), np.full_like(inputs, -1)
    for row, pieces in enumerate(sequences):
        begin = 0
        for number, ids in enumerate(pieces):
            place = slice(begin, begin := begin + len(ids) - 1)
            inputs[row, place], targets[row, place], documents[row, place] = ids[:-1], ids[1:], number
    return Batch(inputs, targets, documents, tuple(range(len(sequences))))


def ids(seed: int, count: int, vocabulary: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, vocabulary, count)


def left_out(batch: Batch, k: int) -> np.ndarray:
    """Which positions lose their target; nothing else changes."""
    found = without_goldfish_targets(batch, k, PADDING)
    lost: np.ndarray = found.targets != batch.targets
    assert (found.targets[lost] == PADDING).all()
    assert found.inputs is batch.inputs
    assert found.documents is batch.documents
    assert found.members == batch.members
    return lost


@pytest.mark.parametrize("k", [2, 3, 4, 32])
@pytest.mark.parametrize("vocabulary", [5, 300, 100_000])
def test_one_in_k_is_left_out(k: int, vocabulary: int) -> None:
    """Within five standard errors. Even with four ids, almost no two windows are equal."""
    count = 200_000
    share = left_out(batch_of([[ids(1, count, vocabulary)]], count), k)[:, PRECEDING - 1 : -1].mean()
    assert abs(share - 1 / k) < 5 * np.sqrt((1 - 1 / k) / k / count)


@given(NUMBERS, st.integers(2, 120), st.integers(2, 60), st.integers(2, 60), st.integers(2, 9))
def test_copies_of_a_passage_lose_the_same_targets(seed: int, length: int, first: int, second: int, k: int) -> None:
    """Alone, behind another document, and in the middle of one, from the passage's 14th token on."""
    passage, before, other = ids(seed, length), ids(seed + 1, first), ids(seed + 2, second)
    inside = np.concatenate([other, passage, before])
    lost = left_out(batch_of([[passage], [before, passage, other], [inside]], 240), k)
    alone = lost[0, : length - 1]
    assert not alone[: PRECEDING - 1].any()
    assert np.array_equal(lost[1, first - 1 : first + length - 2], alone)
    begin = second + PRECEDING - 1
    assert np.array_equal(lost[2, begin : second + length - 1], alone[PRECEDING - 1 :])


@given(NUMBERS, st.integers(14, 60))
def test_one_other_id_among_the_preceding_ones_decides_anew(seed: int, length: int) -> None:
    """Each of the 13 matters, and their order does; no id before them, and no later one."""
    random = np.random.default_rng(seed)
    copies = np.tile(ids(seed, length), (400, 1))
    place = int(random.integers(length))
    copies[:, place] = np.arange(1000, 1400)
    lost = left_out(batch_of([[copy] for copy in copies], length - 1), 2)
    # The target of position p follows the ids p − 12 to p.
    for position in range(PRECEDING - 1, length - 1):
        if position - PRECEDING < place <= position:
            assert 120 < lost[:, position].sum() < 280
        else:
            assert lost[:, position].all() or not lost[:, position].any()


def test_what_is_not_learned_stays_so_and_a_short_sequence_loses_nothing() -> None:
    batch = batch_of([[ids(1, 65)]], 64)
    partly = Batch(batch.inputs, np.where(np.arange(64) % 3, batch.targets, PADDING), batch.documents, batch.members)
    assert np.array_equal(left_out(partly, 2), left_out(batch, 2) & (np.arange(64) % 3 > 0))
    assert not left_out(batch_of([[ids(1, 11)]], 10), 2).any()
