"""The vocabulary as byte-level BPE writes it: letters for bytes, and merges for ranks."""

from parakeet.tokenizer import Tokenizer, byte_alphabet

_LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}
"""By byte, which is also the number of its Latin-1 character."""


def letters(token: bytes) -> str:
    """A token in the byte-level alphabet, one letter a byte: `Ġthe` for ` the`."""
    return token.decode("latin-1").translate(_LETTERS)


def merges(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that are a third one together, in the order in which they are merged.

    tiktoken merges two neighbours if both together are a token, the lowest rank first. A BPE of merges does the same
    with all pairs that make a token, not only the pair that made it in training. A token that no pair makes is found
    as a whole word only: readers need `ignore_merges`.
    """
    ranks = {tokenizer.token_bytes(token_id): token_id for token_id in tokenizer.defined_ids()}
    pairs: list[tuple[bytes, bytes]] = []
    for token in ranks:
        splits = ((token[:place], token[place:]) for place in range(1, len(token)))
        found = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        if len(found) > 1:
            found.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        pairs += found
    return pairs
