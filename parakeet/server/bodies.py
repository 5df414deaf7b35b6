"""What clients send: JSON to checked values. Fields that are not known are ignored, as OpenAI's clients send many."""

import asyncio
import json
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from parakeet.chat.events import encodable
from parakeet.chat.session import SEED_BITS
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import OPTIONS, SamplingSettings, with_values
from parakeet.server.errors import ApiError

T = TypeVar("T")
B = TypeVar("B", bound="Body")

MOST_REPLIES = 4
MOST_TOP = 20
"""Likeliest tokens beside each token of a reply."""
MOST_BIASES = 1_000
MOST_KEPT = 1 << 15
"""Scored tokens of a reply that is not streamed and has no end of its own. With 20 others each, they take 80 MB."""
MOST_SHOWN = 60
"""Characters of a client's value in a message."""
LARGEST_EXACT = 1 << 53
INLINE_BYTES = 16 << 10
"""A larger body is read in a thread: one of 1 MB takes a second until it is checked and encoded."""


class Body(BaseModel):
    """A field's description completes "NAME must be …"."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = Field(None, description="a text")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class GenerationBody(Body):
    """What both ways to generate share. The sampling settings are not in here: see `sampling`."""

    n: int = Field(1, ge=1, le=MOST_REPLIES, description=f"a whole number from 1 to {MOST_REPLIES}")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(None, description='an object such as {"include_usage": true}')
    logit_bias: dict[str, float] = Field({}, description="an object of token ids and numbers from -100 to 100")

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(GenerationBody):
    messages: list[Any] = Field(description='a list of objects such as {"role": "user", "content": "Hello."}')
    logprobs: bool = Field(False, description="true or false")
    truncation: str = Field("disabled", pattern="^(auto|disabled)$", description='"auto" or "disabled"')
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP, description=f"a whole number from 0 to {MOST_TOP}")


class CompletionBody(GenerationBody):
    prompt: Any = Field(description="a text, a list of texts, a list of token ids, or a list of such lists")
    echo: bool = Field(False, description="true or false")
    best_of: int | None = Field(None, description="a whole number")
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP, description=f"a whole number from 0 to {MOST_TOP}")


class TraceBody(Body):
    input: str = Field(description="a text")
    min_tokens: int = Field(8, ge=1, le=1000, description="a whole number from 1 to 1000")
    documents: int = Field(3, ge=0, le=20, description="a whole number from 0 to 20")


def _is_text(value: object) -> bool:
    return value == {"type": "text"} or value == "text"


_UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    # The values that ask for nothing.
    "tools": lambda value: value == [],
    "functions": lambda value: value == [],
    "function_call": lambda value: value in ("none", "auto"),
    "tool_choice": lambda value: value in ("none", "auto"),
    "response_format": _is_text,
    "modalities": lambda value: value == ["text"],
    "audio": lambda value: False,
    "web_search_options": lambda value: False,
    "suffix": lambda value: value == "",
}


def shown(value: object) -> str:
    """A client's value in a message, as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"


async def read(request: Request, build: Callable[[dict[str, Any]], T]) -> T:
    """What `build` makes of the request's JSON object, in a thread if it is long."""
    data = await request.body()
    if len(data) <= INLINE_BYTES:
        return build(parse(data))
    return await asyncio.to_thread(lambda: build(parse(data)))


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object without its nulls, which stand for defaults. Lone surrogates become U+FFFD.

    Raises ApiError for anything else, and for NaN and infinite numbers, which Python's JSON reader takes.
    """
    try:
        # Without the byte order mark that some editors write.
        values = json.loads(data.decode("utf-8-sig"))
        if not isinstance(values, dict):
            raise ApiError(400, f"The body must be a JSON object, not {shown(values)}.")
        return {encodable(name): _clean(value, name) for name, value in values.items() if value is not None}
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise ApiError(400, f"The body is no JSON: {where}.", code="invalid_json") from None
    except UnicodeDecodeError as error:
        message = f"The body is not in UTF-8: byte {error.start}. Send JSON in UTF-8."
        raise ApiError(400, message, code="invalid_json") from None
    except ValueError:  # a number of thousands of digits
        raise ApiError(400, "The body holds a number that is too long to be read.", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "The body has lists or objects too deep in each other.", code="invalid_json") from None


def _clean(value: Any, field: str) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_clean(each, field) for each in value]
    if isinstance(value, dict):
        return {encodable(name): _clean(each, field) for name, each in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_EXACT:
        return int(value)  # JSON does not tell 3.0 from 3, and some clients have no other numbers
    if isinstance(value, float) and not math.isfinite(value):
        field = encodable(field)
        raise ApiError(400, f"{field} holds {value}, which is no number of JSON.", field)
    return value


def checked(kind: type[B], values: Mapping[str, Any], served_name: str) -> B:
    """The fields of a body. Raises ApiError that names the first wrong one, or a model that is not served."""
    for name, allowed in _UNSUPPORTED.items():
        if name in values and not allowed(values[name]):
            raise unsupported(name, f"{name} {shown(values[name])}")
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        expected = kind.model_fields[name].description
        if name not in values:
            raise ApiError(400, f"{name} is missing: it must be {expected}.", name) from None
        raise ApiError(400, f"{name} must be {expected}, not {shown(values[name])}.", name) from None
    check_model(body.model, served_name)
    return body


def check_model(asked: str | None, served_name: str) -> None:
    """Raise ApiError if another model is asked for than the one served. None is that one."""
    if asked is not None and asked != served_name:
        message = f"The model {shown(asked)} is not here: this server has {shown(served_name)}."
        raise ApiError(404, message, "model", "model_not_found")


def check_stream(body: GenerationBody) -> None:
    """Raise ApiError for the options of a stream without a stream, as OpenAI does."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, 'stream_options needs "stream": true.', "stream_options")


def check_kept(body: GenerationBody, settings: SamplingSettings, scored: bool) -> None:
    """Raise ApiError for a reply without an end whose log-probabilities would all have to be kept."""
    if scored and settings.rolling and settings.max_tokens > MOST_KEPT and not body.stream:
        message = f'With rolling and logprobs, max_tokens must be {MOST_KEPT:,} at most, or "stream" true.'
        raise ApiError(400, message, "max_tokens")


def unsupported(param: str, what: str, instead: str = "Leave it out.") -> ApiError:
    return ApiError(400, f"{what} is not supported: this server generates text alone. {instead}", param, "unsupported")


def sampling(values: Mapping[str, Any], defaults: SamplingSettings) -> SamplingSettings:
    """The release's settings with those of a body, by the names of `SamplingSettings`.

    `max_completion_tokens` is another name of `max_tokens` and wins. The seed is drawn if none is given. Raises
    ApiError that names the first one out of range.
    """
    given = {name: name for name in OPTIONS if name in values}
    if "max_completion_tokens" in values:
        given["max_tokens"] = "max_completion_tokens"
    settings = defaults
    for name, sent in given.items():
        value = values[sent]
        try:
            # [] is no stop, as in OpenAI's own.
            settings = with_values(settings, {name: tuple(value) if isinstance(value, list) else value})
        except ParakeetError:
            raise ApiError(400, f"{sent} must be {OPTIONS[name].expected}, not {shown(value)}.", sent) from None
    return settings if settings.seed is not None else replace(settings, seed=secrets.randbits(SEED_BITS))


def seeded(settings: SamplingSettings, n: int, batch: int) -> list[SamplingSettings]:
    """Of n replies: with the seed, the seed + 1, and so on. Raises ApiError if more than `batch` are wanted."""
    if n > batch:
        message = f"n must be {batch} at most: this server makes {batch:,} replies at once (parakeet serve --batch)."
        raise ApiError(400, message, "n")
    assert settings.seed is not None
    return [replace(settings, seed=(settings.seed + number) % (1 << 64)) for number in range(n)]


def biases(body: GenerationBody, rows: int) -> dict[int, float]:
    """`logit_bias` by id. Raises ApiError for an id outside the vocabulary or a bias outside −100 to 100."""
    if len(body.logit_bias) > MOST_BIASES:
        raise ApiError(400, f"logit_bias has {len(body.logit_bias):,} ids, but at most {MOST_BIASES:,}.", "logit_bias")
    found = {}
    for name, bias in body.logit_bias.items():
        if not re.fullmatch("[0-9]{1,7}", name) or int(name) >= rows:
            message = f"logit_bias has {shown(name)}, but the vocabulary has the ids 0 to {rows - 1:,}."
            raise ApiError(400, message, "logit_bias")
        if not -100 <= bias <= 100:
            message = f"logit_bias of {name} must be a number from -100 to 100, not {shown(bias)}."
            raise ApiError(400, message, "logit_bias")
        found[int(name)] = bias
    return found


def messages_of(body: ChatBody) -> Iterable[dict[str, Any]]:
    """The messages with plain texts as contents, for `read_messages`. Raises ApiError for what is no text."""
    for place, message in enumerate(body.messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            expected = '{"role": "user", "content": "Hello."}'
            raise ApiError(400, f"{where} must be an object such as {expected}, not {shown(message)}.", where)
        role = message.get("role")
        for name in ("tool_calls", "function_call", "audio"):
            if message.get(name):
                raise unsupported(f"{where}.{name}", f"{name} of {where}")
        if role in ("tool", "function"):
            raise unsupported(f"{where}.role", f"The role {shown(role)} of {where}", "Leave the message out.")
        for name in ("role", "content"):
            if message.get(name) is None:
                raise ApiError(400, f"{where} has no {name}.", f"{where}.{name}")
        content = _text_of(message["content"], f"{where}.content")
        yield {"role": "system" if role == "developer" else role, "content": content}


def _text_of(content: object, where: str) -> str:
    """A content that is a text, or parts of a text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{where} must be a text, or a list of parts of a text, not {shown(content)}.", where)
    texts = []
    for place, part in enumerate(content):
        part_at = f"{where}[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            expected = '{"type": "text", "text": "Hello."}'
            raise ApiError(400, f"{part_at} must be an object such as {expected}, not {shown(part)}.", part_at)
        if kind != "text":
            raise unsupported(part_at, f"A part of the type {shown(kind)} in {where}", "Send text.")
        if not isinstance(part.get("text"), str):
            raise ApiError(400, f"{part_at}.text must be a text, not {shown(part.get('text'))}.", part_at)
        texts.append(part["text"])
    return "".join(texts)
