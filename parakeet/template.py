"""Conversations to token ids. Roles and ends are inserted as ids, so no text can become a control token."""

from collections.abc import Sequence

import numpy as np

from parakeet.conversation import Turn
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer


def render_document(tokenizer: Tokenizer, turns: Sequence[Turn], loss_on: str = "all") -> tuple[np.ndarray, list[int]]:
    """Ids (n,) uint32 of a whole document, and its loss spans as flat [start, end) pairs.

    A plain document is `<|endoftext|>` and its text. A turn is its role token, its stripped content and
    `<|endofprompt|>`. With `loss_on="assistant"`, only the Assistant's content and its end token are trained on.
    """
    if turns[0].role == "text":
        return render_text(tokenizer, turns[0].content)
    pieces: list[np.ndarray] = []
    spans: list[int] = []
    length = 0
    for turn in turns:
        content = tokenizer.encode_array(turn.content.strip())
        ends = (tokenizer.role_id(turn.role), tokenizer.end_of_prompt)
        pieces += [np.array(ends[:1], np.uint32), content, np.array(ends[1:], np.uint32)]
        if turn.role == "Assistant":
            # The role token at `length` is not learnt, the end token is: it is how the model stops.
            spans += [length + 1, length + len(content) + 2]
        length += len(content) + 2
    return np.concatenate(pieces), spans if loss_on == "assistant" else [0, length]


def render_text(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[int]]:
    """The same for a plain document. It begins with `<|endoftext|>`, so that its first token is predicted too."""
    body = tokenizer.encode_array(text)
    ids = np.empty(len(body) + 1, np.uint32)
    ids[0] = tokenizer.end_of_text
    ids[1:] = body
    return ids, [0, len(ids)]


def render_prompt(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Ids of a conversation that ends with the opening token of the Assistant's reply."""
    ids, _ = render_document(tokenizer, turns)
    return [*ids.tolist(), tokenizer.role_id("Assistant")]


def read_document(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Turn]:
    """The turns that a document's ids were rendered from, which another tokenizer can render."""
    if ids[0] == tokenizer.end_of_text:
        return [Turn("text", tokenizer.decode(ids[1:]))]
    roles = {tokenizer.role_id(role): role for role in ROLE_TOKENS}
    begins = [place for place, token_id in enumerate(ids) if token_id in roles]
    ends = [*begins[1:], len(ids)]
    return [
        Turn(roles[ids[begin]], tokenizer.decode(ids[begin + 1 : end])) for begin, end in zip(begins, ends, strict=True)
    ]
