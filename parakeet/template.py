"""Conversations to ids and back. Roles and ends are inserted as ids, never as text (DESIGN §6)."""

from collections.abc import Sequence

import numpy as np

from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer


def render_document(tokenizer: Tokenizer, turns: Sequence[Turn], loss_on: str = "all") -> tuple[np.ndarray, list[int]]:
    """Ids (n,) uint32 of a whole document and its loss spans, flat [start, end) pairs.

    A plain document is `<|endoftext|>` and its text. A turn is its role token, its stripped content and
    `<|endofprompt|>`; with `loss_on="assistant"` only what an Assistant says, and its end, is trained on.
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
            spans += [length + 1, length + len(content) + 2]
        length += len(content) + 2
    return np.concatenate(pieces), spans if loss_on == "assistant" else [0, length]


def render_text(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[int]]:
    """The same for a plain document."""
    body = tokenizer.encode_array(text)
    ids = np.empty(len(body) + 1, np.uint32)
    ids[0] = tokenizer.end_of_text
    ids[1:] = body
    return ids, [0, len(ids)]


def render_prompt(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Ids of a conversation, open for the Assistant's next words."""
    ids, _ = render_document(tokenizer, turns)
    return [*ids.tolist(), tokenizer.role_id("Assistant")]


def parse_conversation(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Turn]:
    """The turns of rendered ids; a last turn may lack its end. Raises ParakeetError on anything else."""
    roles = {tokenizer.role_id(role): role for role in ROLE_TOKENS}
    turns: list[Turn] = []
    role: str | None = None
    content: list[int] = []
    for position, token_id in enumerate(ids):
        if role is None:
            if token_id not in roles:
                raise ParakeetError(f"Id {token_id} at position {position} opens no turn.")
            role = roles[token_id]
        elif token_id == tokenizer.end_of_prompt:
            turns.append(Turn(role, tokenizer.decode(content)))
            role, content = None, []
        elif token_id in tokenizer.control_ids:
            raise ParakeetError(f"Control id {token_id} at position {position} stands inside a turn.")
        else:
            content.append(token_id)
    if role is not None:
        turns.append(Turn(role, tokenizer.decode(content)))
    return turns
