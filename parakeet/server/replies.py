"""Replies as they grow, with what OpenAI's answers tell of them: usage, log-probabilities, why they ended."""

import asyncio
import codecs
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request, Scored
from parakeet.generation.reply import Step
from parakeet.server.errors import ApiError
from parakeet.server.event_stream import EventStream, failure, while_connected
from parakeet.server.served import Served
from parakeet.server.worker import Busy, Stream
from parakeet.tokenizer import Tokenizer

UNLIKELY = -9999.0
"""Stands for ln 0, which JSON has no number for. OpenAI's documentation names it."""

INLINE_TOKENS = 256
"""With more tokens that are scored, an answer is written in a thread, or in several events: 8,192 with 20 others each
take half a second."""


class ReplyChoice:
    """One reply of an answer."""

    def __init__(self, index: int, stream: Stream, place: int) -> None:
        """`place` is its number among the replies to its prompt, `index` that among all of the answer."""
        self.index, self.stream, self.place = index, stream, place
        self.texts: list[str] = []
        self.tokens: list[Scored] = []
        """With `log_probabilities`: what was drawn, with the token that ended it. Neither is kept of a stream."""
        self.finish_reason: str | None = None
        """The engine's."""

    def add(self, step: Step) -> Scored | None:
        """Take a step up; returns its token if it has one and is scored."""
        self.finish_reason = step.finish_reason or self.finish_reason
        if step.token_id is None or step.log_probability is None:
            return None
        return Scored(step.token_id, step.log_probability, step.top)

    @property
    def openai_finish_reason(self) -> str | None:
        return "length" if self.finish_reason == "context" else self.finish_reason

    def about(self) -> dict[str, Any]:
        """What OpenAI's answers have no field for."""
        timing = self.stream.timings[self.place]
        rate = timing.decode_rate
        return {
            "finish_reason": self.finish_reason,
            "seed": self.stream.request.settings[self.place].seed,
            "tokens": timing.reply_tokens,
            "first_token_seconds": round(timing.first_token_seconds, 6),
            "tokens_per_second": None if rate is None else round(rate, 3),
            "timing": asdict(timing),
        }


class Answer:
    """The replies to the prompts of one request of a client."""

    def __init__(self, kind: str, served: Served, requests: Sequence[Request]) -> None:
        """Submits the requests; `kind` begins the id. Raises Busy, or ApiError, with none of them submitted."""
        self.served = served
        self.streams: list[Stream] = []
        try:
            for request in requests:
                self.streams.append(served.worker.submit(request))
        except ParakeetError as error:
            self.cancel()
            # The prompts were checked before, so it is no fault of theirs.
            raise error if isinstance(error, Busy) else ApiError(503, str(error)) from None
        replies = [(stream, place) for stream in self.streams for place in range(len(stream.request.settings))]
        self.replies = [ReplyChoice(index, stream, place) for index, (stream, place) in enumerate(replies)]
        self._head = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": fingerprint(served),
        }

    def head(self, kind: str) -> dict[str, Any]:
        """The fields that every part of the answer has."""
        return {**self._head, "object": kind}

    async def steps(self) -> AsyncIterator[tuple[ReplyChoice, Step, Scored | None]]:
        """The steps of all replies, those to one prompt after those to the one before: all are computed meanwhile."""
        for stream in self.streams:
            own = [reply for reply in self.replies if reply.stream is stream]
            async for place, step in stream:
                yield own[place], step, own[place].add(step)

    async def respond(
        self,
        request: HttpRequest,
        stream: bool,
        events: Callable[[], AsyncGenerator[Mapping[str, Any], None]],
        whole: Callable[[], Mapping[str, Any]],
    ) -> Response:
        """The replies as `events`, or as `whole` once they are complete. Raises ApiError if the generation fails."""
        if stream:
            return EventStream(events(), self.cancel)
        try:
            await while_connected(request, self._finish())
        except ParakeetError as error:
            raise failure(error) from None
        finally:
            self.cancel()
        scored = sum(len(stream.prompt_scores) for stream in self.streams) + sum(
            len(one.tokens) for one in self.replies
        )
        if scored <= INLINE_TOKENS:
            return JSONResponse(whole())
        return await asyncio.to_thread(lambda: JSONResponse(whole()))

    async def _finish(self) -> None:
        async for reply, step, token in self.steps():
            reply.texts.append(step.text)
            reply.tokens += [token] if token else []

    def cancel(self) -> None:
        for stream in self.streams:
            stream.cancel()

    def usage(self) -> dict[str, Any]:
        """Tokens so far. The replies to one prompt share it."""
        prompt = sum(len(stream.request.prompt_ids) for stream in self.streams)
        reply = sum(timing.reply_tokens for stream in self.streams for timing in stream.timings)
        kept = sum(max((timing.kept_tokens for timing in stream.timings), default=0) for stream in self.streams)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
            "prompt_tokens_details": {"cached_tokens": kept},
        }


def fingerprint(served: Served) -> str:
    """Changes with the weights and their precision: a seed gives the same reply while it stays."""
    return f"fp_{served.release.weights_sha256[:12]}_{served.worker.engine.dtype}"


def chat_log_probability(tokenizer: Tokenizer, token: Scored) -> dict[str, Any]:
    """A token as chat completions show it."""

    def shown(token_id: int, log_probability: float | None) -> dict[str, Any]:
        data = tokenizer.token_bytes(token_id)
        text = data.decode("utf-8", "replace") if data else control_name(tokenizer, token_id)
        return {"token": text, "logprob": _number(log_probability), "bytes": list(data) if data else None}

    return {
        **shown(token.token_id, token.log_probability),
        "top_logprobs": [shown(token_id, value) for token_id, value in token.top],
    }


class CompletionLogProbabilities:
    """Tokens as completions show them: lists, and where in the text each begins."""

    def __init__(self, tokenizer: Tokenizer, top: int, offset: int = 0) -> None:
        """`top` likeliest beside each token; the text before the first one has `offset` characters."""
        self.tokenizer, self.top, self.offset = tokenizer, top, offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def lists(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """Of the next tokens."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            found["tokens"].append(self._name(token.token_id))
            found["token_logprobs"].append(_number(token.log_probability))
            found["top_logprobs"].append(self._likeliest(token))
            found["text_offset"].append(self.offset)
            self.offset += len(self._decoder.decode(self.tokenizer.token_bytes(token.token_id)))
        return found

    def _likeliest(self, token: Scored) -> dict[str, float | None] | None:
        """By name; with the token itself, as OpenAI's have it."""
        if not self.top or token.log_probability is None:
            return None
        pairs = [*token.top, (token.token_id, token.log_probability)]
        return {self._name(token_id): _number(value) for token_id, value in pairs}

    def _name(self, token_id: int) -> str:
        """Unlike those of chat completions, names of different tokens differ: they are keys."""
        data = self.tokenizer.token_bytes(token_id)
        if not data:
            return control_name(self.tokenizer, token_id)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def control_name(tokenizer: Tokenizer, token_id: int) -> str:
    return next((name for name, control in tokenizer.controls.items() if control == token_id), f"<{token_id}>")


def _number(log_probability: float | None) -> float | None:
    return None if log_probability is None else max(log_probability, UNLIKELY)
