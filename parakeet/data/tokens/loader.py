"""Batches of packed sequences in a seeded order, from a state of a few integers."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from parakeet.data.tokens.packing import PackedSequences, PackingPlan
from parakeet.data.tokens.shards import TokenShards, ranges
from parakeet.errors import ParakeetError


@dataclass(frozen=True)
class Batch:
    """Three int64 arrays (sequences, sequence length): inputs, targets, and document numbers.

    A target is `padding` where nothing is learned. Document numbers count the pieces of a sequence from 0; the unused
    end of a sequence has −1. `members` lists the documents of the batch by their numbers in the shards, once per piece.
    """

    inputs: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    members: tuple[int, ...]


@dataclass(frozen=True)
class LoaderState:
    """The position of a loader. `shards` and `plan` are content digests: a loader refuses the state of other data."""

    shards: str
    plan: str
    seed: int
    epoch: int = 0
    next_row: int = 0


class Loader:
    """Reads a plan's sequences epoch after epoch without end, each epoch in a different order."""

    def __init__(
        self, shards: TokenShards, plan: PackingPlan, sequence_length: int, padding: int, state: LoaderState
    ) -> None:
        if len(plan) == 0:
            raise ParakeetError("The packing plan has no sequences: there is nothing to train on.")
        self._shards = shards
        self._plan = plan
        self._sequence_length = sequence_length
        self._padding = padding
        self._state = state
        self._order = sequence_order(len(plan), state.seed, state.epoch)
        self._order_epoch = state.epoch

    @property
    def state(self) -> dict[str, Any]:
        return asdict(self._state)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ParakeetError if it belongs to other shards, another plan or another seed."""
        restored = LoaderState(**state)
        for name in ("shards", "plan", "seed"):
            mine, theirs = getattr(self._state, name), getattr(restored, name)
            if mine != theirs:
                raise ParakeetError(
                    f"The checkpoint was trained with {name} {theirs}, but this build has {name} {mine}. "
                    "To train from the beginning, run the same build again with: --force checkpoint"
                )
        self._state = restored

    def next_batch(self, sequences: int) -> Batch:
        """The next so many sequences; a batch may begin in one epoch and end in a later one."""
        parts = [np.zeros(0, np.int64)]
        while sequences:
            if self._state.next_row == len(self._plan):
                self._state = replace(self._state, epoch=self._state.epoch + 1, next_row=0)
            if self._order_epoch != self._state.epoch:
                self._order = sequence_order(len(self._plan), self._state.seed, self._state.epoch)
                self._order_epoch = self._state.epoch
            begin = self._state.next_row
            parts.append(self._order[begin : begin + sequences])
            self._state = replace(self._state, next_row=begin + len(parts[-1]))
            sequences -= len(parts[-1])
        chosen = self._plan.sequences.take(np.concatenate(parts))
        return read_batch(self._shards, chosen, self._sequence_length, self._padding)


def read_batch(shards: TokenShards, sequences: PackedSequences, sequence_length: int, padding: int) -> Batch:
    """The batch of these sequences, which fit into `sequence_length`; ParakeetError as from `TokenShards.read`."""
    placed = place_sequences(shards, sequences, sequence_length, padding)
    targets = placed.following
    learned = _learned_positions(shards, sequences, placed.begins)
    if learned is not None:
        targets = np.full_like(placed.following, padding)
        targets.reshape(-1)[learned] = placed.following.reshape(-1)[learned]
    return Batch(placed.inputs, targets, placed.documents, tuple(sequences.document.tolist()))


class PlacedSequences(NamedTuple):
    """int64 arrays (sequences, sequence length): ids, the id after each in its document, and the piece's number.

    The unused end of a sequence holds `padding`, `padding` and −1. `begins` (pieces,) is the flat position, over all
    sequences, at which each piece begins.
    """

    inputs: np.ndarray
    following: np.ndarray
    documents: np.ndarray
    begins: np.ndarray


def place_sequences(
    shards: TokenShards, sequences: PackedSequences, sequence_length: int, padding: int
) -> PlacedSequences:
    """Read the pieces of `sequences`, which fit into `sequence_length` positions, and lay them out.

    ParakeetError as from `TokenShards.read`. There is no Python loop over pieces: one core lays out 70 M tokens/s of
    100-token documents this way, and 12 M/s piece by piece.
    """
    # tokens (Σ length,): all pieces, one after the other. A piece of n tokens fills n − 1 positions ("slots").
    tokens = shards.read(sequences.document, sequences.start, sequences.length)
    slots = sequences.length - 1
    sequence_ends = sequences.offsets[1:]
    # unused (sequences,): the slots of a sequence are summed as a difference of the running total at its two ends.
    unused = sequence_length - np.diff(np.concatenate([[0], np.cumsum(slots)])[sequences.offsets])
    # Treat the unused end of each sequence as one more piece, inserted behind its last piece. The next three arrays are
    # (pieces + sequences,), and the widths of a sequence add up to sequence_length, so nothing below needs to pad.
    widths = np.insert(slots, sequence_ends, unused)
    numbers = np.insert(ranges(np.zeros_like(sequence_ends), np.diff(sequences.offsets)), sequence_ends, -1)
    first_tokens = np.insert(np.cumsum(sequences.length) - sequences.length, sequence_ends, 0)
    begins = np.cumsum(widths) - widths
    # places (sequences · sequence_length,): each position's index of its input in `tokens`. The id that follows is
    # always the next token of the same piece, since a piece has one more token than slots.
    places = ranges(first_tokens, widths)
    # Places of the unused ends are meaningless and may lie beyond the tokens: clip them, then overwrite their ids.
    inputs = tokens.take(places, mode="clip").astype(np.int64)
    places += 1
    following = tokens.take(places, mode="clip").astype(np.int64)
    empty = ranges(begins[numbers < 0], unused)
    inputs[empty] = following[empty] = padding
    shape = (len(sequences), sequence_length)
    documents = np.repeat(numbers, widths)
    return PlacedSequences(
        inputs.reshape(shape), following.reshape(shape), documents.reshape(shape), begins[numbers >= 0]
    )


def _learned_positions(shards: TokenShards, sequences: PackedSequences, begins: np.ndarray) -> np.ndarray | None:
    """Flat positions, over all sequences, whose following token is in a loss span; None if all of them are."""
    whole = shards.all_targets(sequences.document)
    if whole.all():
        return None
    # partly (partial pieces,): pieces of documents with spans. numbers (partial pieces,): spans of each.
    # bounds (spans, 2): start and end in the document. piece (spans,): the piece that each span belongs to.
    partly = np.flatnonzero(~whole)
    numbers, bounds = shards.spans(sequences.document[partly])
    piece = np.repeat(partly, numbers)
    # Each span in tokens of its piece, cut to the piece. A piece's token 0 is no target; token t is the target of its
    # slot t − 1. A span outside the piece has last ≤ first, and so no positions.
    first = np.maximum(bounds[:, 0] - sequences.start[piece], 1)
    last = np.minimum(bounds[:, 1] - sequences.start[piece], sequences.length[piece])
    begin = np.concatenate([begins[whole], begins[piece] + first - 1])
    counts = np.concatenate([sequences.length[whole] - 1, np.maximum(last - first, 0)])
    return ranges(begin, counts)


def sequence_order(sequences: int, seed: int, epoch: int) -> np.ndarray:
    """(sequences,) the order of a plan's sequences in an epoch: a pure function of its arguments (Philox)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(sequences)
