"""The inverse of `parakeet.template`: what a prompt says, turn by turn."""

from collections.abc import Sequence

from parakeet.conversation import Turn
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer


def parse_conversation(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Turn]:
    """The turns of rendered ids. The last turn may lack its end; a control id inside a turn fails the test."""
    roles = {tokenizer.role_id(role): role for role in ROLE_TOKENS}
    left = list(ids)
    turns: list[Turn] = []
    while left:
        end = left.index(tokenizer.end_of_prompt) if tokenizer.end_of_prompt in left else len(left)
        role, *content = left[:end]
        assert not set(content) & tokenizer.control_ids
        turns.append(Turn(roles[role], tokenizer.decode(content)))
        del left[: end + 1]
    return turns
