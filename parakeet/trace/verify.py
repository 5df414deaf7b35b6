"""Whether a trace index is what it should be: beyond its hashes, which only say that it is as it was made."""

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.trace.index import KEY_STEP, IndexShard, TraceIndex, first_bytes
from parakeet.trace.mapped import DAMAGED
from parakeet.trace.suffix_array import TOKEN_BYTES

SAMPLE = 1_000
"""Neighbours in each suffix array whose order is checked."""
_PIECE = 1 << 20


def verify_index(index: TraceIndex, progress: Progress) -> None:
    """Check separators, ids, counts, positions, keys, and the order of a sample. ParakeetError names what is wrong."""
    counts = np.zeros(index.rows, np.int64)
    with progress.task("verifying", float(index.tokens), "tokens") as task:
        for number, shard in enumerate(index.shards):
            shard.tokens.read_in_order()
            shard.positions.read_in_order()
            fault = _fault(index, shard, counts)
            if fault:
                raise ParakeetError(f"{index.folder}, shard {number}: {fault}. {DAMAGED}")
            task.advance(len(shard.positions))
    if (counts != index.id_counts()).any():
        raise ParakeetError(f"{index.folder}: id_counts.npy does not count the ids of the text. {DAMAGED}")


def _fault(index: TraceIndex, shard: IndexShard, counts: np.ndarray) -> str | None:
    """What is wrong with a shard; adds how often each id occurs to `counts`."""
    documents = shard.entries - len(shard.positions)
    starts = index.document_starts(shard.first_document, documents)
    ends = starts[1:] - 1 - shard.first_entry  # the separator of each document
    if starts[0] != shard.first_entry or starts[-1] != shard.first_entry + shard.entries or (np.diff(starts) < 1).any():
        return "the documents do not fill it"
    is_token = np.ones(shard.entries, np.bool_)
    is_token[ends] = False
    separators = np.zeros(documents, np.int64)
    for begin in range(0, shard.entries, _PIECE):
        ids = shard.ids(begin, min(begin + _PIECE, shard.entries))
        tokens = is_token[begin : begin + len(ids)]
        if (ids[tokens] >= index.rows).any():
            return f"an id within a document is beyond the vocabulary of {index.rows:,} rows"
        counts += np.bincount(ids[tokens], minlength=index.rows)
        here = (ends >= begin) & (ends < begin + len(ids))
        separators[here] = ids[~tokens]
    if (separators != index.rows + np.arange(documents)).any():
        return "a document does not end with its separator"
    for begin in range(0, len(shard.positions), _PIECE):
        positions = shard.positions.array[begin : begin + _PIECE]
        if positions.max() >= shard.entries:
            return f"a position is beyond the {shard.entries:,} tokens"
        is_token[positions] = False
    if is_token.any():  # as many positions as tokens: one that is missing means that another stands twice
        return "the positions are no permutation of the tokens"
    if (first_bytes(shard.tokens.array, shard.positions.array[::KEY_STEP].astype(np.int64)) != shard.keys.array).any():
        return "the keys are not those of the suffixes"
    if len(shard.positions) > 1:
        ranks = np.random.default_rng(0).integers(len(shard.positions) - 1, size=SAMPLE)
        for rank in np.unique(ranks).tolist():
            if not _ordered(shard, *shard.positions.array[rank : rank + 2].tolist()):
                return f"positions {rank:,} and {rank + 1:,} are in the wrong order"
    return None


def _ordered(shard: IndexShard, first: int, second: int) -> bool:
    """Whether the suffix at entry `first` is less than that at `second`."""
    width = 64
    while True:
        one, other = (
            shard.tokens.array[TOKEN_BYTES * at : TOKEN_BYTES * min(at + width, shard.entries)].tobytes()
            for at in (first, second)
        )
        if one != other:
            return one < other
        width *= 4
