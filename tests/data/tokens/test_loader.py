import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.tokens.loader import Batch, Loader, LoaderState, sequence_order
from parakeet.data.tokens.packing import PackingPlan, pack, plan_file, write_plan
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.tokenizer import Tokenizer

from ...conftest import Prepared
from .small_shards import Document, write_shards


def loader(prepared: Prepared, seed: int = 1, shards: str = "s", plan: str = "p") -> Loader:
    return Loader(
        TokenShards(prepared.shards),
        PackingPlan(prepared.plan, 32),
        32,
        prepared.tokenizer.padding,
        LoaderState(shards, plan, seed),
    )


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((one.inputs, one.targets, one.documents), (other.inputs, other.targets, other.documents), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs) and one.members == other.members


def assembled_piece_by_piece(
    documents: list[Document], plan: PackingPlan, sequences: list[int], sequence_length: int, padding: int
) -> Batch:
    """The definition of a batch, in plain Python."""
    inputs = np.full((len(sequences), sequence_length), padding, np.int64)
    targets = np.full_like(inputs, padding)
    numbers = np.full_like(inputs, -1)
    members = []
    for index, sequence in enumerate(sequences):
        begin = 0
        pieces = range(plan.sequences.offsets[sequence], plan.sequences.offsets[sequence + 1])
        for number, piece in enumerate(pieces):
            document = int(plan.sequences.document[piece])
            start, length = int(plan.sequences.start[piece]), int(plan.sequences.length[piece])
            members.append(document)
            ids, spans = documents[document][0][start : start + length], documents[document][1]
            for place in range(length - 1):
                inputs[index, begin + place] = ids[place]
                numbers[index, begin + place] = number
                target = start + place + 1
                if any(first <= target < last for first, last in zip(spans[::2], spans[1::2], strict=True)):
                    targets[index, begin + place] = ids[place + 1]
            begin += length - 1
    return Batch(inputs, targets, numbers, tuple(members))


@st.composite
def corpora(draw: st.DrawFn) -> list[Document]:
    """Documents that are trained on as a whole, from the second token on, in parts, and not at all."""
    documents = []
    kinds = draw(st.sampled_from([("whole",), ("whole", "second"), ("whole", "parts", "none")]))
    for _ in range(draw(st.integers(1, 30))):
        length = draw(st.integers(2, 90))
        ids = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 300, length).tolist()
        kind = draw(st.sampled_from(kinds))
        cuts = sorted(draw(st.sets(st.integers(0, length), min_size=4, max_size=4))) if length > 3 else [1, 2]
        spans = {"whole": [0, length], "second": [1, length], "parts": cuts, "none": []}[kind]
        documents.append((ids, spans))
    return documents


@settings(max_examples=40)
@given(corpora(), st.integers(16, 70), st.sampled_from([600, 3000, 1 << 30]), st.integers(0, 40))
def test_batches_are_what_assembling_piece_by_piece_gives(
    prepared: Prepared, documents: list[Document], sequence_length: int, shard_bytes: int, sequences: int
) -> None:
    """In one file or several, in several record batches, across the end of an epoch, for any loss spans."""
    tokenizer = prepared.tokenizer
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        write_shards(directory, tokenizer, documents, shard_bytes)
        shards = TokenShards(directory, "train", tokenizer)
        write_plan(directory / plan_file(sequence_length), pack(shards.lengths(), sequence_length))
        plan = PackingPlan(directory, sequence_length)
        found = Loader(shards, plan, sequence_length, tokenizer.padding, LoaderState("s", "p", 3)).next_batch(sequences)
        epochs = [sequence_order(len(plan), 3, epoch).tolist() for epoch in range(sequences // len(plan) + 1)]
        order = [sequence for epoch in epochs for sequence in epoch][:sequences]
        assert same(found, assembled_piece_by_piece(documents, plan, order, sequence_length, tokenizer.padding))
        assert {array.dtype for array in (found.inputs, found.targets, found.documents)} == {np.dtype(np.int64)}


def test_an_epoch_predicts_every_token_once(prepared: Prepared) -> None:
    shards = TokenShards(prepared.shards)
    batch = loader(prepared).next_batch(len(PackingPlan(prepared.plan, 32)))
    expected = np.concatenate([shards.tokens(number)[1:] for number in range(len(shards))])
    found = batch.targets[batch.targets != prepared.tokenizer.padding]
    assert np.array_equal(np.sort(found), np.sort(expected))


def test_inputs_precede_their_targets_within_one_document(prepared: Prepared) -> None:
    batch = loader(prepared).next_batch(40)
    same_document = (batch.documents[:, 1:] == batch.documents[:, :-1]) & (batch.documents[:, 1:] >= 0)
    assert np.array_equal(batch.targets[:, :-1][same_document], batch.inputs[:, 1:][same_document])
    assert (batch.targets[batch.documents < 0] == prepared.tokenizer.padding).all()


@settings(max_examples=20)
@given(st.integers(0, 150), st.integers(1, 9), st.integers(0, 3))
def test_a_restored_loader_continues_exactly(prepared: Prepared, before: int, sequences: int, seed: int) -> None:
    first = loader(prepared, seed)
    if before:
        first.next_batch(before)
    state = json.loads(json.dumps(first.state))
    second = loader(prepared, seed)
    second.restore(state)
    for _ in range(3):
        assert same(first.next_batch(sequences), second.next_batch(sequences))


def test_each_epoch_has_its_own_order() -> None:
    orders = [sequence_order(100, seed, epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_the_state_of_other_data_or_another_seed_is_refused(prepared: Prepared) -> None:
    for other in (loader(prepared, shards="other"), loader(prepared, plan="other")):
        with pytest.raises(ParakeetError, match="--force checkpoint"):
            loader(prepared).restore(other.state)
    with pytest.raises(ParakeetError, match="seed"):
        loader(prepared).restore(loader(prepared, seed=2).state)


def damaged(tokenizer: Tokenizer, directory: Path) -> Loader:
    """The third of five documents holds an id beyond the vocabulary."""
    documents: list[Document] = [([1] * 40, [0, 40])] * 5
    documents[2] = ([1] * 20 + [tokenizer.rows + 7] + [1] * 19, [0, 40])
    write_shards(directory, tokenizer, documents, 400)
    shards = TokenShards(directory, "train", tokenizer)
    write_plan(directory / plan_file(64), pack(shards.lengths(), 64))
    return Loader(shards, PackingPlan(directory, 64), 64, tokenizer.padding, LoaderState("s", "p", 1))


def test_an_id_beyond_the_vocabulary_is_refused_with_its_document(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="--force token_shards") as caught:
        damaged(prepared.tokenizer, tmp_path).next_batch(5)
    message = str(caught.value)
    assert f"document {(2).to_bytes(16, 'big').hex()} holds the token id {prepared.tokenizer.rows + 7}" in message
    named = Path(message.split(":")[0])
    assert named.parent == tmp_path
    assert named.is_file()
    with pytest.raises(ParakeetError, match="--force token_shards"):
        TokenShards(tmp_path, "train", prepared.tokenizer).id_counts()


def test_a_plan_of_longer_documents_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    write_shards(tmp_path, prepared.tokenizer, [([1, 2, 3], [0, 3])])
    with pytest.raises(ParakeetError, match="--force packing_plan"):
        Loader(
            TokenShards(tmp_path),
            PackingPlan(prepared.plan, 32),
            32,
            prepared.tokenizer.padding,
            LoaderState("s", "p", 1),
        ).next_batch(8)


def test_a_plan_without_sequences_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    write_plan(tmp_path / plan_file(32), pack(np.ones(3, np.int64), 32))
    with pytest.raises(ParakeetError, match="nothing to train on"):
        Loader(TokenShards(prepared.shards), PackingPlan(tmp_path, 32), 32, 0, LoaderState("s", "p", 1))


def test_reading_pieces_copies_only_them(prepared: Prepared, tmp_path: Path) -> None:
    """Pieces come in the requested order, from whichever file holds them."""
    documents: list[Document] = [(list(range(number, number + 30)), [0, 30]) for number in range(40)]
    write_shards(tmp_path, prepared.tokenizer, documents, 400)
    assert len(list(tmp_path.glob("train-*.arrow"))) > 3
    shards = TokenShards(tmp_path, "train", prepared.tokenizer)
    numbers = np.array([39, 0, 17, 0, 23])
    starts, lengths = np.array([0, 5, 29, 5, 3]), np.array([30, 2, 1, 0, 7])
    ends = np.cumsum([0, *lengths])
    found = shards.read(numbers, starts, lengths)
    for index, (begin, end) in enumerate(pairwise(ends.tolist())):
        first = int(numbers[index] + starts[index])
        assert found[begin:end].tolist() == list(range(first, first + end - begin))
