"""The vocabulary as byte-level BPE writes it: letters for bytes, and merges for ranks."""

from collections.abc import Mapping
from itertools import pairwise

from parakeet.tokenizer import byte_alphabet

_LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}
"""By byte, which is also the number of its Latin-1 character."""


def letters(token: bytes) -> str:
    """A token in the byte-level alphabet, one letter a byte: `Ġthe` for ` the`."""
    return token.decode("latin-1").translate(_LETTERS)


def merges(ranks: Mapping[bytes, int]) -> dict[bytes, tuple[bytes, bytes]]:
    """By token, the two parts that it is made of at last, in the order of ranks, which is the order of merging.

    tiktoken does without merges: it joins the two neighbours that together are the token of the lowest rank.

    One pair a token is enough: inside a token, bytes merge in the same order whatever stands around it. A token that
    its own bytes never merge into is left out; tiktoken gives it only for a whole word, and the library
    `tokenizers` needs `ignore_merges` to do the same.
    """
    pairs = ((token, _last_pair(ranks, token)) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    return {token: pair for token, pair in pairs if pair is not None}


def _last_pair(ranks: Mapping[bytes, int], token: bytes) -> tuple[bytes, bytes] | None:
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(one + following) for one, following in pairwise(parts)]
        known = [rank for rank in found if rank is not None]
        if not known:
            return None
        place = found.index(min(known))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]
