"""Suffix arrays of tokens: the positions of a text in the order of what follows them."""

import numpy as np

TOKEN_BYTES = 3
"""Big-endian, so that the order of the bytes is the order of the tokens."""
MOST_TOKENS = (2**31 - 1) // TOKEN_BYTES
"""Beyond it pydivsufsort needs eight bytes a position in place of four."""
_CHUNK = 3 << 16


def packed(ids: np.ndarray) -> np.ndarray:
    """(n, 3) uint8, big-endian, of (n,) ids below 2^24."""
    return ids.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]


def suffix_array(text: np.ndarray) -> np.ndarray:
    """(n,) uint32: the positions of n tokens, ordered by the tokens that follow. `text` is (3 n,) uint8 (`packed`).

    At its peak this holds 12 bytes a token beside the text, and what the sorting itself needs (about 1 MB).
    """
    from pydivsufsort import divsufsort

    # Three of four suffixes of the bytes begin within a token. Dropping those in place, a piece at a time, saves a
    # second array of 12 bytes a token.
    order = divsufsort(text)
    kept = 0
    for begin in range(0, len(order), _CHUNK):
        piece = order[begin : begin + _CHUNK]
        tokens = piece[piece % TOKEN_BYTES == 0] // TOKEN_BYTES
        order[kept : kept + len(tokens)] = tokens
        kept += len(tokens)
    return order[:kept].view(np.uint32)
