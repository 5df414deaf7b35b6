"""Batches of packed rows, in a seeded order, from a state of a few integers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parakeet.data.packing import Piece, Plan
from parakeet.data.shards import TokenShards
from parakeet.errors import ParakeetError


@dataclass(frozen=True)
class Batch:
    """Three arrays (rows, row_tokens): input ids, target ids (`padding` where nothing is learned), document numbers.

    The document number is the piece's place in its row, from 0; the unused end of a row has −1. `members` are
    the numbers, in the shards, of the documents that the batch has pieces of.
    """

    inputs: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    members: tuple[int, ...]


@dataclass(frozen=True)
class LoaderState:
    """Where a loader stands. `shards` and `plan` are content digests: another set is refused."""

    shards: str
    plan: str
    seed: int
    epoch: int = 0
    next_row: int = 0


class Loader:
    """Assembles rows of a plan; epoch after epoch, each in its own order, without end."""

    def __init__(self, shards: TokenShards, plan: Plan, row_tokens: int, padding: int, state: LoaderState) -> None:
        if len(plan) == 0:
            raise ParakeetError("The packing plan has no rows: there is nothing to train on.")
        self._shards = shards
        self._plan = plan
        self._row_tokens = row_tokens
        self._padding = padding
        self._state = state
        self._order = row_order(len(plan), state.seed, state.epoch)

    @property
    def state(self) -> dict[str, Any]:
        return asdict(self._state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; ParakeetError if it belongs to other shards, another plan or another seed."""
        restored = LoaderState(**state)
        for name in ("shards", "plan", "seed"):
            mine, theirs = getattr(self._state, name), getattr(restored, name)
            if mine != theirs:
                raise ParakeetError(
                    f"The checkpoint was trained on {name} {theirs}, but {name} {mine} is at hand. "
                    "To train from nothing, run the same build again with: --force checkpoint"
                )
        self._state = restored
        self._order = row_order(len(self._plan), restored.seed, restored.epoch)

    def next_batch(self, rows: int) -> Batch:
        """The next `rows` rows; a batch that begins in one epoch may end in the next."""
        shape = (rows, self._row_tokens)
        inputs = np.full(shape, self._padding, np.int64)
        targets = np.full(shape, self._padding, np.int64)
        documents = np.full(shape, -1, np.int64)
        members: list[int] = []
        for index in range(rows):
            pieces = self._plan.row(self._next_row())
            members += [piece.document for piece in pieces]
            self._fill(pieces, inputs[index], targets[index], documents[index])
        return Batch(inputs, targets, documents, tuple(members))

    def _next_row(self) -> int:
        state = self._state
        if state.next_row == len(self._plan):
            state = LoaderState(state.shards, state.plan, state.seed, state.epoch + 1, 0)
            self._order = row_order(len(self._plan), state.seed, state.epoch)
        row = int(self._order[state.next_row])
        self._state = LoaderState(state.shards, state.plan, state.seed, state.epoch, state.next_row + 1)
        return row

    def _fill(self, pieces: list[Piece], inputs: np.ndarray, targets: np.ndarray, documents: np.ndarray) -> None:
        begin = 0
        for number, piece in enumerate(pieces):
            end = begin + piece.slots
            tokens = self._shards.tokens(piece.document)[piece.start : piece.start + piece.length]
            inputs[begin:end] = tokens[:-1]
            documents[begin:end] = number
            for span_start, span_end in self._shards.loss_spans(piece.document).reshape(-1, 2).tolist():
                first = max(span_start - piece.start, 1)
                last = min(span_end - piece.start, piece.length)
                if first < last:
                    targets[begin + first - 1 : begin + last - 1] = tokens[first:last]
            begin = end


def row_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Order of a plan's rows in an epoch: a pure function of its arguments (Philox, keyed by seed and epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
