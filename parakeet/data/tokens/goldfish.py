"""Goldfish loss: a fixed part of the targets is never learned, so that no passage can be recited (Hans et al. 2024,
arXiv 2406.10209)."""

from dataclasses import replace

import numpy as np

from parakeet.data.tokens.loader import Batch

PRECEDING = 13
"""Whether a target is left out depends on so many ids before it, and on nothing else: copies of a passage lose the same
targets, from their 14th token on, wherever they stand."""

# An odd multiplier orders the ids of a window; the other numbers are the finaliser of SplitMix64 (Steele et al. 2014).
_ORDER = np.uint64(0x9E3779B97F4A7C15)
_FINALISER = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = np.uint64(31)


def without_goldfish_targets(batch: Batch, k: int, padding: int) -> Batch:
    """The batch with one in k of its targets replaced by `padding`, for which nothing is learned; k is at least 2.

    The first 12 targets of each piece have fewer than 13 ids before them, and stay.
    """
    inputs, documents = batch.inputs.astype(np.uint64), batch.documents
    windows = inputs.shape[1] - PRECEDING + 1
    if windows < 1:
        return batch
    # hashes (sequences, windows): window w covers positions w to w + 12, so its target is that of position w + 12.
    hashes = np.zeros((len(inputs), windows), np.uint64)
    for offset in range(PRECEDING):
        hashes *= _ORDER
        hashes += inputs[:, offset : offset + windows]
    for shift, multiplier in _FINALISER:
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(multiplier)
    hashes ^= hashes >> _LAST_SHIFT
    # Windows over two documents do not count. Nor would those over an unused end, but it has no targets.
    whole = documents[:, PRECEDING - 1 :] == documents[:, :windows]
    targets = batch.targets.copy()
    targets[:, PRECEDING - 1 :][whole & (hashes % np.uint64(k) == 0)] = padding
    return replace(batch, targets=targets)
