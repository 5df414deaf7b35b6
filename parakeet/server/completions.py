"""/v1/completions: texts, or ids, that are continued without the chat template."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from parakeet.chat.prompt_builder import PromptBuilder
from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request, Scored
from parakeet.server.bodies import (
    CompletionBody,
    biases,
    check_kept,
    check_stream,
    checked,
    read,
    sampling,
    seeded,
    shown,
)
from parakeet.server.errors import ApiError
from parakeet.server.replies import INLINE_TOKENS, Answer, CompletionLogProbabilities, ReplyChoice
from parakeet.server.served import Served

MOST_REPLIES = 32
"""To all prompts together."""


@dataclass(frozen=True)
class _Prompt:
    ids: list[int]
    text: str
    hidden: int = 0
    """Ids at the beginning that are no part of the text: that with which documents begin, before a text."""


@dataclass(frozen=True)
class _Asked:
    body: CompletionBody
    prompts: list[_Prompt]
    requests: list[Request]
    only_prompt: bool
    """With max_tokens 0, the prompt is scored. A token is drawn all the same, and not shown."""


async def completions(request: HttpRequest) -> Response:
    served: Served = request.app.state.served
    asked = await read(request, lambda values: _asked(served, values))
    answer = Answer("cmpl", served, asked.requests)
    return await answer.respond(
        request, asked.body.stream, partial(_events, asked, answer), partial(_whole, asked, answer)
    )


def _asked(served: Served, values: dict[str, Any]) -> _Asked:
    body = checked(CompletionBody, values, served.name)
    check_stream(body)
    if body.best_of not in (None, body.n):
        message = f"best_of must be n ({body.n}), not {body.best_of:,}: all replies are returned."
        raise ApiError(400, message, "best_of", "unsupported")
    # Not True == 1 and False == 0.
    only_prompt = body.echo and type(values.get("max_tokens")) is int and values["max_tokens"] == 0
    settings = sampling({**values, "max_tokens": 1} if only_prompt else values, served.release.generation)
    check_kept(body, settings, body.logprobs is not None)
    bias = biases(body, served.worker.engine.tokenizer.rows)
    prompts = _prompts(served, body.prompt, body.n, 0 if only_prompt else settings.max_tokens)
    scored, top = body.logprobs is not None, body.logprobs or 0
    replies = seeded(settings, body.n, served.worker.batch)
    requests = [Request(prompt.ids, replies, scored, top, body.echo and scored, bias) for prompt in prompts]
    return _Asked(body, prompts, requests, only_prompt)


def _prompts(served: Served, given: Any, n: int, max_tokens: int) -> list[_Prompt]:
    """Raises ApiError for prompts of the wrong form, too many of them, or one that does not fit the context."""
    several = isinstance(given, list) and not all(_is_id(each) for each in given)
    named = {f"prompt[{place}]": one for place, one in enumerate(given)} if several else {"prompt": given}
    if len(named) * n > MOST_REPLIES:
        message = f"{len(named):,} prompts with {n} replies each are too many: at most {MOST_REPLIES} replies in all."
        raise ApiError(400, message, "prompt")
    return [_prompt(served, one, where, max_tokens) for where, one in named.items()]


def _prompt(served: Served, given: Any, where: str, max_tokens: int) -> _Prompt:
    engine = served.worker.engine
    tokenizer = engine.tokenizer
    if isinstance(given, str):
        builder = PromptBuilder(tokenizer, engine.context, engine.longest_token, max_tokens)
        try:
            return _Prompt(builder.raw(given), given, hidden=1)
        except ParakeetError as error:
            raise ApiError(400, str(error), where, "context_length_exceeded") from None
    if not isinstance(given, list) or not all(_is_id(each) for each in given):
        raise ApiError(400, f"{where} must be a text or a list of token ids, not {shown(given)}.", where)
    if not given:
        raise ApiError(400, f"{where} is empty: there is nothing to continue.", where)
    wrong = next((each for each in given if not 0 <= each < tokenizer.rows), None)
    if wrong is not None:
        message = f"{where} has the id {shown(wrong)}, but the vocabulary has the ids 0 to {tokenizer.rows - 1:,}."
        raise ApiError(400, message, where)
    if len(given) + min(1, max_tokens) > engine.context:
        message = (
            f"{where} has {len(given):,} tokens, but the model's context is {engine.context:,} and a reply needs room "
            "too. Shorten it."
        )
        raise ApiError(400, message, where, "context_length_exceeded")
    return _Prompt(given, tokenizer.decode(given))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Shown:
    """What a client sees of one reply: text and log-probabilities, with the prompt before them if it is echoed."""

    def __init__(self, asked: _Asked, answer: Answer, reply: ReplyChoice) -> None:
        self.asked, self.reply = asked, reply
        self.prompt = asked.prompts[reply.index // asked.body.n]
        self._lists = CompletionLogProbabilities(answer.served.worker.engine.tokenizer, asked.body.logprobs or 0)

    def choice(self, text: str, tokens: Sequence[Scored], end: bool = False) -> dict[str, Any]:
        choice = {
            "index": self.reply.index,
            "text": text,
            "logprobs": self._lists.lists(tokens) if tokens else None,
            "finish_reason": None,
        }
        if not end:
            return choice
        about = self.reply.about()
        if self.asked.only_prompt:
            about |= {"finish_reason": "length", "tokens": 0}
            return {**choice, "finish_reason": "length", "parakeet": about}
        return {**choice, "finish_reason": self.reply.openai_finish_reason, "parakeet": about}

    def echo(self) -> tuple[str, list[Scored]]:
        """The prompt, if it is to be shown. Its scores are there from the first token on."""
        if not self.asked.body.echo:
            return "", []
        return self.prompt.text, self.reply.stream.prompt_scores[self.prompt.hidden :]

    def reply_so_far(self) -> tuple[str, list[Scored]]:
        return ("", []) if self.asked.only_prompt else ("".join(self.reply.texts), self.reply.tokens)


def _usage(asked: _Asked, answer: Answer) -> dict[str, Any]:
    usage = answer.usage()
    return usage | {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]} if asked.only_prompt else usage


def _whole(asked: _Asked, answer: Answer) -> dict[str, Any]:
    choices = []
    for reply in answer.replies:
        one = _Shown(asked, answer, reply)
        (prompt, before), (text, tokens) = one.echo(), one.reply_so_far()
        choices.append(one.choice(prompt + text, [*before, *tokens], end=True))
    return {**answer.head("text_completion"), "choices": choices, "usage": _usage(asked, answer)}


async def _events(asked: _Asked, answer: Answer) -> AsyncGenerator[Mapping[str, Any], None]:
    head = answer.head("text_completion")
    if asked.body.include_usage:
        head["usage"] = None
    replies = [_Shown(asked, answer, reply) for reply in answer.replies]
    begun: set[int] = set()
    async for reply, step, token in answer.steps():
        one = replies[reply.index]
        if reply.index not in begun and (step.token_id is not None or step.finish_reason):
            begun.add(reply.index)
            if asked.body.echo:
                text, scored = one.echo()
                yield {**head, "choices": [one.choice(text, scored[:INLINE_TOKENS])]}
                for begin in range(INLINE_TOKENS, len(scored), INLINE_TOKENS):
                    await asyncio.sleep(0)  # other requests go on
                    yield {**head, "choices": [one.choice("", scored[begin : begin + INLINE_TOKENS])]}
        if (step.text or token) and not asked.only_prompt:
            yield {**head, "choices": [one.choice(step.text, [token] if token else [])]}
        if step.finish_reason:
            yield {**head, "choices": [one.choice("", [], end=True)]}
    if asked.body.include_usage:
        yield {**head, "choices": [], "usage": _usage(asked, answer)}
