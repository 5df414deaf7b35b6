from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.tokens.packing import (
    PackedSequences,
    PackingPlan,
    fill_up,
    make_packing_plan,
    pack,
    pieces_of,
    plan_file,
)
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ...conftest import Prepared
from .small_shards import write_shards

LENGTHS = st.lists(st.integers(1, 200), max_size=60)


def slots_of(sequences: PackedSequences) -> list[int]:
    """Filled positions of each sequence."""
    return [
        int((sequences.length[b:e] - 1).sum())
        for b, e in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    ]


def listed(sequences: PackedSequences) -> list[list[tuple[int, int, int]]]:
    pieces = list(zip(sequences.document.tolist(), sequences.start.tolist(), sequences.length.tolist(), strict=True))
    return [pieces[b:e] for b, e in zip(sequences.offsets[:-1].tolist(), sequences.offsets[1:].tolist(), strict=True)]


def packed_one_by_one(lengths: list[int], sequence_length: int) -> list[list[tuple[int, int, int]]]:
    """Textbook best-fit decreasing: one piece at a time, each into the smallest room that fits it."""
    pieces = [
        (number, start, min(sequence_length, length - 1 - start) + 1)
        for number, length in enumerate(lengths)
        for start in range(0, length - 1, sequence_length)
    ]
    sequences: list[list[tuple[int, int, int]]] = []
    filled_last: dict[int, list[int]] = {}
    for piece in sorted(pieces, key=lambda piece: -piece[2]):
        slots = piece[2] - 1
        fitting = [room for room, some in filled_last.items() if some and room >= slots]
        room = min(fitting, default=sequence_length)
        if fitting:
            sequence = filled_last[room].pop()
        else:
            sequence = len(sequences)
            sequences.append([])
        sequences[sequence].append(piece)
        filled_last.setdefault(room - slots, []).append(sequence)
    return sequences


@given(LENGTHS, st.integers(1, 64))
def test_every_token_but_a_documents_first_is_a_target_exactly_once(lengths: list[int], sequence_length: int) -> None:
    sequences = listed(pack(np.array(lengths, np.int64), sequence_length))
    predicted = sorted(
        (document, start + offset)
        for sequence in sequences
        for document, start, length in sequence
        for offset in range(1, length)
    )
    assert predicted == [(document, token) for document, length in enumerate(lengths) for token in range(1, length)]


@given(LENGTHS, st.integers(1, 64))
def test_sequences_are_never_overfull_or_empty(lengths: list[int], sequence_length: int) -> None:
    sequences = pack(np.array(lengths, np.int64), sequence_length)
    assert all(0 < slots <= sequence_length for slots in slots_of(sequences))


@given(LENGTHS, st.integers(1, 64))
def test_no_two_sequences_could_have_been_one(lengths: list[int], sequence_length: int) -> None:
    """Best fit opens a sequence only if no open one has room, so at most one is half empty."""
    sequences = pack(np.array(lengths, np.int64), sequence_length)
    assert sum(2 * slots <= sequence_length for slots in slots_of(sequences)) <= 1


@given(LENGTHS, st.integers(1, 64))
def test_placing_pieces_of_one_size_together_changes_nothing(lengths: list[int], sequence_length: int) -> None:
    assert listed(pack(np.array(lengths, np.int64), sequence_length)) == packed_one_by_one(lengths, sequence_length)


@given(LENGTHS, st.integers(1, 64), st.data())
def test_taking_sequences_keeps_their_pieces(lengths: list[int], sequence_length: int, data: st.DataObject) -> None:
    sequences = pack(np.array(lengths, np.int64), sequence_length)
    chosen = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=5)) if len(sequences) else []
    whole = listed(sequences)
    assert listed(sequences.take(np.array(chosen, np.int64))) == [whole[number] for number in chosen]


def test_pieces_of_a_long_document_overlap_by_one_token() -> None:
    document, start, length = pieces_of(np.array([11]), 4)
    assert list(zip(document, start, length, strict=True)) == [(0, 0, 5), (0, 4, 5), (0, 8, 3)]


def test_short_documents_fill_long_sequences() -> None:
    lengths = np.random.default_rng(1).integers(5, 200, 20_000)
    sequences = pack(lengths, 1024)
    assert (lengths - 1).sum() / (len(sequences) * 1024) > 0.995


def test_the_plan_is_a_pure_function_of_the_lengths() -> None:
    lengths = np.random.default_rng(2).integers(1, 300, 500)
    assert listed(pack(lengths, 128)) == listed(pack(lengths.copy(), 128))


def with_lengths(recipe: Recipe, *later: int) -> Recipe:
    values = recipe.model_dump()
    values["model"]["context"] = 256
    values["packing"]["then"] = [{"sequence_length": sequence_length, "share": 0.2} for sequence_length in later]
    return Recipe.model_validate(values)


def test_there_is_a_plan_for_each_length_and_one_does_not_change_another(prepared: Prepared, tmp_path: Path) -> None:
    folders = {"token_shards": prepared.shards}
    counts = make_packing_plan(with_lengths(prepared.recipe, 64, 128, 64), folders, tmp_path, Progress())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(plan_file(n) for n in (32, 64, 128))
    assert (tmp_path / plan_file(32)).read_bytes() == (prepared.plan / plan_file(32)).read_bytes()
    assert list(counts["lengths"]) == ["32", "64", "128"]
    assert {**counts["lengths"]["32"], "lengths": counts["lengths"], "mix": counts["mix"]} == counts
    targets = {plan["targets"] for plan in counts["lengths"].values()}
    assert len(targets) == 1
    for sequence_length in (32, 64, 128):
        plan = PackingPlan(tmp_path, sequence_length)
        assert len(plan) == counts["lengths"][str(sequence_length)]["rows"]
        assert max(slots_of(plan.sequences)) <= sequence_length


def test_a_torn_or_missing_plan_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    whole = (prepared.plan / plan_file(32)).read_bytes()
    for content in (b"", whole[:100], whole[:-1]):
        (tmp_path / plan_file(32)).write_bytes(content)
        with pytest.raises(ParakeetError, match="--force packing_plan"):
            PackingPlan(tmp_path, 32)
    with pytest.raises(ParakeetError, match="plan-64"):
        PackingPlan(prepared.plan, 64)


def test_documents_of_one_token_predict_nothing_and_make_no_plan(prepared: Prepared, tmp_path: Path) -> None:
    write_shards(tmp_path, prepared.tokenizer, [([1], [0, 1])] * 3)
    with pytest.raises(ParakeetError, match="No training document is left to pack"):
        make_packing_plan(prepared.recipe, {"token_shards": tmp_path}, tmp_path, Progress())


@given(st.lists(st.integers(2, 200), min_size=1, max_size=60), st.integers(1, 64), st.floats(0.5, 1.0))
def test_filling_up_loses_nothing_and_reaches_the_fill(lengths: list[int], sequence_length: int, fill: float) -> None:
    packed = pack(np.array(lengths, np.int64), sequence_length)
    filled = fill_up(packed, sequence_length, fill)
    targets = sum(length - 1 for length in lengths)
    assert len(filled) <= len(packed)
    assert targets >= fill * (len(filled) - 1) * sequence_length
    assert all(0 < slots <= sequence_length for slots in slots_of(filled))
    predicted = sorted(
        (document, start + offset)
        for sequence in listed(filled)
        for document, start, length in sequence
        for offset in range(1, length)
    )
    assert predicted == [(document, token) for document, length in enumerate(lengths) for token in range(1, length)]


def test_documents_of_one_length_fill_their_sequences_and_few_are_cut() -> None:
    lengths = np.random.default_rng(3).normal(1000, 5, 20_000).astype(np.int64)
    packed = pack(lengths, 1024)
    filled = fill_up(packed, 1024)
    assert (lengths - 1).sum() / (len(packed) * 1024) < 0.98
    assert (lengths - 1).sum() / (len(filled) * 1024) >= 0.995
    cut = np.unique(filled.document[filled.start > 0])
    assert len(cut) < 0.03 * len(lengths)


def test_sequences_that_are_full_enough_are_left_alone() -> None:
    lengths = np.random.default_rng(1).integers(5, 200, 20_000)
    packed = pack(lengths, 1024)
    assert fill_up(packed, 1024) is packed
