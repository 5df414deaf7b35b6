import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.packing import pack, pieces_of

LENGTHS = st.lists(st.integers(1, 200), max_size=60)


@given(LENGTHS, st.integers(1, 64))
def test_every_token_but_a_documents_first_is_a_target_exactly_once(lengths: list[int], row_tokens: int) -> None:
    rows = pack(np.array(lengths, np.int64), row_tokens)
    predicted = sorted(
        (piece.document, piece.start + offset) for row in rows for piece in row for offset in range(1, piece.length)
    )
    assert predicted == [(document, token) for document, length in enumerate(lengths) for token in range(1, length)]


@given(LENGTHS, st.integers(1, 64))
def test_rows_are_never_overfull_nor_empty(lengths: list[int], row_tokens: int) -> None:
    rows = pack(np.array(lengths, np.int64), row_tokens)
    assert all(0 < sum(piece.slots for piece in row) <= row_tokens for row in rows)


@given(LENGTHS, st.integers(1, 64))
def test_no_two_rows_could_have_been_one(lengths: list[int], row_tokens: int) -> None:
    """Best fit opens a row only where no open one has room, so at most one row is half empty."""
    rows = pack(np.array(lengths, np.int64), row_tokens)
    half_empty = [row for row in rows if 2 * sum(piece.slots for piece in row) <= row_tokens]
    assert len(half_empty) <= 1


def test_pieces_of_a_long_document_overlap_by_one_token() -> None:
    pieces = list(pieces_of(np.array([11]), 4))
    assert [(piece.start, piece.length) for piece in pieces] == [(0, 5), (4, 5), (8, 3)]


def test_short_documents_fill_long_rows() -> None:
    lengths = np.random.default_rng(1).integers(5, 200, 20_000)
    rows = pack(lengths, 1024)
    assert (lengths - 1).sum() / (len(rows) * 1024) > 0.995


def test_the_plan_is_a_pure_function_of_the_lengths() -> None:
    lengths = np.random.default_rng(2).integers(1, 300, 500)
    assert pack(lengths, 128) == pack(lengths.copy(), 128)
