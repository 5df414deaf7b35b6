"""The tokens of a recorded reply: how likely each was, and what else was."""

import asyncio
import codecs
import math
from collections.abc import Sequence
from typing import Any

from parakeet.chat.events import Conversation
from parakeet.chat.prompt_builder import recorded_prompt
from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request, Scored
from parakeet.server.worker import Worker
from parakeet.tokenizer import Tokenizer

ALTERNATIVES = 5


async def token_chances(conversation: Conversation, exchange: int, worker: Worker) -> list[dict[str, Any]]:
    """Of each token of a reply its text, its probability by the model, and the likeliest in its place.

    The texts together are the reply. A session records no ids, so it is encoded again, as the next prompt would be.
    One pass over prompt and reply. Raises ParakeetError if they do not fit the context, Busy if too many wait.
    """
    tokenizer, context = worker.engine.tokenizer, worker.engine.context
    node = conversation.nodes[exchange]
    earlier = conversation.along(conversation.path_to(exchange))[:-1]
    one, dropped = node.exchange, node.events[-1]["dropped"]

    def encode() -> tuple[list[int], int]:
        ids = recorded_prompt(tokenizer, conversation.system, earlier, dropped, one.message, one.reply, one.raw)
        return ids, len(tokenizer.encode(one.reply))

    ids, number = await asyncio.to_thread(encode)
    if len(ids) > context:
        raise ParakeetError(
            f"The reply with what came before it has {len(ids):,} tokens, but the model's context is {context:,}: its "
            "tokens cannot be scored."
        )
    stream = worker.submit(Request(ids, [], score_prompt=True, top=ALTERNATIVES))
    async for _ in stream:
        pass
    return await asyncio.to_thread(_chances, tokenizer, stream.prompt_scores[len(ids) - number :])


def _chances(tokenizer: Tokenizer, tokens: Sequence[Scored]) -> list[dict[str, Any]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    chances = []
    for place, scored in enumerate(tokens, start=1):
        text = decoder.decode(tokenizer.token_bytes(scored.token_id), final=place == len(tokens))
        alternatives = [
            {"text": _shown(tokenizer, each), "probability": math.exp(chance)} for each, chance in scored.top
        ]
        chances.append(
            {"text": text, "probability": math.exp(scored.log_probability or 0.0), "alternatives": alternatives}
        )
    return chances


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    """A token alone: the name of a control token, such as that which ends a reply."""
    name = next((name for name, control in tokenizer.controls.items() if control == token_id), None)
    return name.strip() if name else tokenizer.token_bytes(token_id).decode("utf-8", "replace")
