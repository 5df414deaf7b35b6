"""/v1/chat/completions."""

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from parakeet.chat.message_list import MessageList, read_messages
from parakeet.chat.prompt_builder import PromptBuilder
from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request, Scored
from parakeet.server.bodies import (
    ChatBody,
    biases,
    check_kept,
    check_stream,
    checked,
    messages_of,
    read,
    sampling,
    seeded,
)
from parakeet.server.errors import ApiError
from parakeet.server.replies import Answer, ReplyChoice, chat_log_probability
from parakeet.server.served import Served


@dataclass(frozen=True)
class _Asked:
    body: ChatBody
    request: Request
    dropped: int
    """Oldest exchanges that were left out."""


async def chat_completions(request: HttpRequest) -> Response:
    served: Served = request.app.state.served
    asked = await read(request, lambda values: _asked(served, values))
    answer = Answer("chatcmpl", served, [asked.request])
    return await answer.respond(
        request, asked.body.stream, partial(_events, asked, answer), partial(_whole, asked, answer)
    )


def _asked(served: Served, values: dict[str, Any]) -> _Asked:
    body = checked(ChatBody, values, served.name)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, 'top_logprobs needs "logprobs": true.', "top_logprobs")
    check_stream(body)
    settings = sampling(values, served.release.generation)
    check_kept(body, settings, body.logprobs)
    tokenizer = served.worker.engine.tokenizer
    bias = biases(body, tokenizer.rows)
    talk = _talk(body)
    ids, dropped = _prompt(served, talk, settings.max_tokens, body.truncation == "auto")
    request = Request(
        ids, seeded(settings, body.n, served.worker.batch), body.logprobs, body.top_logprobs or 0, logit_bias=bias
    )
    return _Asked(body, request, dropped)


def _talk(body: ChatBody) -> MessageList:
    try:
        return read_messages(messages_of(body))
    except ParakeetError as error:
        named = re.search(r"messages\[\d+\]", str(error))
        raise ApiError(400, str(error), named[0] if named else "messages") from None


def _prompt(served: Served, talk: MessageList, max_tokens: int, truncate: bool) -> tuple[list[int], int]:
    """Ids, and how many of the oldest exchanges were left out. Raises ApiError if they do not fit the context."""
    engine = served.worker.engine

    def build(builder: PromptBuilder) -> tuple[list[int], int]:
        builder.check_system(talk.system)
        if talk.last.reply:
            return builder.continued(talk.system, talk.exchanges, talk.last)
        return builder.reply(talk.system, talk.exchanges, talk.last.message)

    builder = PromptBuilder(engine.tokenizer, engine.context, engine.longest_token, max_tokens)
    try:
        ids, dropped = build(builder)
    except ParakeetError as error:
        raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
    if dropped and not truncate:
        whole, _ = build(PromptBuilder(engine.tokenizer, 1 << 40, engine.longest_token, max_tokens))
        message = (
            f"The messages have {len(whole):,} tokens, but only {builder.limit:,} fit: the model's context is "
            f"{engine.context:,} and a reply needs room too. Leave out the oldest ones, or send "
            '"truncation": "auto", which does it.'
        )
        raise ApiError(400, message, "messages", "context_length_exceeded")
    return ids, dropped


def _whole(asked: _Asked, answer: Answer) -> dict[str, Any]:
    choices = [
        {
            "index": reply.index,
            "message": {"role": "assistant", "content": "".join(reply.texts), "refusal": None},
            "logprobs": _log_probabilities(asked, answer, reply.tokens),
            "finish_reason": reply.openai_finish_reason,
            "parakeet": reply.about(),
        }
        for reply in answer.replies
    ]
    head = answer.head("chat.completion")
    return {**head, "choices": choices, "usage": answer.usage(), "parakeet": {"dropped": asked.dropped}}


async def _events(asked: _Asked, answer: Answer) -> AsyncGenerator[Mapping[str, Any], None]:
    head = answer.head("chat.completion.chunk")
    if asked.body.include_usage:
        head["usage"] = None

    def chunk(reply: ReplyChoice, delta: dict[str, str], tokens: list[Scored], end: bool = False) -> dict[str, Any]:
        choice = {
            "index": reply.index,
            "delta": delta,
            "logprobs": _log_probabilities(asked, answer, tokens) if tokens else None,
            "finish_reason": reply.openai_finish_reason if end else None,
        }
        return {**head, "choices": [{**choice, "parakeet": reply.about()} if end else choice]}

    for reply in answer.replies:
        first = chunk(reply, {"role": "assistant", "content": ""}, [])
        yield {**first, "parakeet": {"dropped": asked.dropped}}
    async for reply, step, token in answer.steps():
        if step.text or token:
            yield chunk(reply, {"content": step.text}, [token] if token else [])
        if step.finish_reason:
            yield chunk(reply, {}, [], end=True)
    if asked.body.include_usage:
        yield {**head, "choices": [], "usage": answer.usage()}


def _log_probabilities(asked: _Asked, answer: Answer, tokens: list[Scored]) -> dict[str, Any] | None:
    if not asked.body.logprobs:
        return None
    engine = answer.served.worker.engine
    # The token that ended the reply is no content.
    content = [token for token in tokens if token.token_id not in engine.stop_ids]
    return {"content": [chat_log_probability(engine.tokenizer, token) for token in content], "refusal": None}
