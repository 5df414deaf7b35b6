"""Uniformly random text, whose entropy is known exactly (Morris et al. 2025, arXiv 2505.24832)."""

import string
from collections.abc import Iterator

import numpy as np

ALPHABET = f"{string.ascii_lowercase}{string.ascii_uppercase}{string.digits}_="
"""One byte each, and nothing that cleaning changes: no space, bracket, dot, colon, @ or +."""


def random_texts(count: int, symbols: int, alphabet: int, seed: int, held_out: bool = False) -> Iterator[str]:
    """`count` texts of `symbols` characters, drawn uniformly and independently from the first `alphabet` of ALPHABET.

    The first texts do not depend on `count`. Held-out texts are of a stream of their own.
    """
    rng = np.random.default_rng((seed, 1) if held_out else seed)
    letters = np.frombuffer(ALPHABET[:alphabet].encode(), np.uint8)
    for _ in range(count):
        yield letters[rng.integers(alphabet, size=symbols)].tobytes().decode()
