import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.loader import Batch, Loader, LoaderState, row_order
from parakeet.data.packing import Plan
from parakeet.data.shards import TokenShards
from parakeet.errors import ParakeetError

from ..conftest import Prepared


def loader(prepared: Prepared, seed: int = 1, shards: str = "s") -> Loader:
    return Loader(
        TokenShards(prepared.shards),
        Plan(prepared.plan),
        32,
        prepared.tokenizer.padding,
        LoaderState(shards, "p", seed),
    )


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((one.inputs, one.targets, one.documents), (other.inputs, other.targets, other.documents), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_an_epoch_predicts_every_token_once(prepared: Prepared) -> None:
    shards = TokenShards(prepared.shards)
    batch = loader(prepared).next_batch(len(Plan(prepared.plan)))
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
def test_a_restored_loader_goes_on_exactly(prepared: Prepared, before: int, rows: int, seed: int) -> None:
    first = loader(prepared, seed)
    if before:
        first.next_batch(before)
    state = json.loads(json.dumps(first.state))
    second = loader(prepared, seed)
    second.restore(state)
    for _ in range(3):
        assert same(first.next_batch(rows), second.next_batch(rows))


def test_epochs_have_orders_of_their_own() -> None:
    orders = [row_order(100, seed, epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_a_state_of_other_shards_or_another_seed_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ParakeetError, match="--force checkpoint"):
        loader(prepared).restore(loader(prepared, shards="other").state)
    with pytest.raises(ParakeetError, match="seed"):
        loader(prepared).restore(loader(prepared, seed=2).state)
