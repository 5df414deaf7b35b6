"""What the clients of `benchmarks.soak` send."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GREEDY = {"temperature": 0, "frequency_penalty": 0, "presence_penalty": 0}
WORDS = (
    "the a little horse forest morning story told once upon time river stone found heavy feather home why does sky "
    "tell me about numbers three plus four who are you what is your name please write short poem winter kitchen table"
)

Headers = Mapping[str, str]


@dataclass
class Probe:
    """A request whose answer is known."""

    name: str
    path: str
    body: dict[str, Any]
    replies: int = 1
    message: str = ""
    """If it is one message to the chat: that and its settings, which a session of the page can have too."""
    settings: dict[str, Any] = field(default_factory=dict)
    expected: list[tuple[str, str]] = field(default_factory=list)
    """Text and finish reason of each reply, without load."""

    numbers: list[Any] = field(default_factory=list)
    """Log-probabilities of each reply, without load; empty if it was not asked for them."""

    @property
    def greedy(self) -> bool:
        return self.body.get("temperature") == 0


def probes(model: str, context: int) -> list[Probe]:
    """For the chat and for texts, greedy and sampled, short and long; the same for the same model."""
    draw, known = random.Random(7), WORDS.split()

    def words(count: int) -> str:
        return " ".join(draw.choice(known) for _ in range(count)).capitalize() + "."

    most = context // 3
    found: list[Probe] = []
    settings: list[dict[str, Any]] = [
        GREEDY, GREEDY, GREEDY, {"temperature": 0.8, "seed": 11}, {"temperature": 1.0, "top_k": 40, "seed": 12},
        {"temperature": 1.3, "min_p": 0.05, "top_p": 0.9, "seed": 13, "repetition_penalty": 1.1},
    ]  # fmt: skip
    for place, length in enumerate((3, 9, 30, 90, most // 2, 5, 14, 60, 7, 11, 40, most // 3)):
        message, chosen = words(length), {**settings[place % len(settings)], "max_tokens": draw.choice((8, 24, 60))}
        body = {"model": model, "messages": [{"role": "user", "content": message}], **chosen}
        found.append(Probe(f"chat of {length} words, {chosen}", CHAT, body, 1, message, chosen))
    turns = [{"role": role, "content": words(12)} for role in ("user", "assistant", "user", "assistant", "user")]
    system = [{"role": "system", "content": "Be brief."}]
    more = {"logprobs": True, "top_logprobs": 5, "max_tokens": 20}
    found += [
        Probe("conversation, greedy", CHAT, {"messages": turns, **GREEDY, "max_tokens": 40}),
        Probe("conversation, sampled", CHAT, {"messages": system + turns, "seed": 5, "max_tokens": 40}),
        Probe("three replies", CHAT, {"messages": turns[:1], "seed": 6, "n": 3, "max_tokens": 30}, 3),
        Probe("stop texts", CHAT, {"messages": turns[:3], "seed": 7, "stop": ["e", "\n"], "max_tokens": 30}),
        Probe("log-probabilities, greedy", CHAT, {"messages": turns[:3], **GREEDY, **more}),
        Probe("bias", CHAT, {"messages": turns[:1], **GREEDY, "logit_bias": {"70": 4}, "max_tokens": 20}),
    ]
    text, ids = words(20), [draw.randrange(5, 200) for _ in range(most // 2)]
    both = {"prompt": [text, words(6)], "max_tokens": 16}
    found += [
        Probe("text, greedy", TEXT, {"prompt": text, **GREEDY, "logprobs": 0, "max_tokens": 32}),
        Probe("echo, greedy", TEXT, {"prompt": text, **GREEDY, "echo": True, "logprobs": 3, "max_tokens": 8}),
        Probe("ids, greedy", TEXT, {"prompt": ids, **GREEDY, "max_tokens": 24}),
        Probe("ids again, other length", TEXT, {"prompt": ids[:-7], **GREEDY, "max_tokens": 24}),
        Probe("two texts, two replies", TEXT, {**both, "n": 2, "seed": 8}, 4),
        Probe("only the prompt", TEXT, {"prompt": text, **GREEDY, "echo": True, "logprobs": 0, "max_tokens": 0}),
    ]
    return found


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Bad:
    """What must be refused, with one of the statuses."""

    name: str
    body: bytes | None
    statuses: tuple[int, ...] = (400,)
    path: str = CHAT
    method: str = "POST"
    headers: Headers = field(default_factory=dict)


def _chat(**changes: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **changes}).encode()


BAD = (
    Bad("half of an object", b'{"messages": ['),
    Bad("a list", b"[]"),
    Bad("nothing", b""),
    Bad("not UTF-8", b'{"messages": "\xff\xfe"}'),
    Bad("lists too deep", b"[" * 100_000),
    Bad("a long number", b'{"max_tokens": ' + b"9" * 10_000 + b"}"),
    Bad("no messages", _chat(messages=[])),
    Bad("messages as a text", _chat(messages="Hello.")),
    Bad("roles out of order", _chat(messages=[{"role": "assistant", "content": "a"}] * 2)),
    Bad("an unknown role", _chat(messages=[{"role": "king", "content": "a"}])),
    Bad("an image", _chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
    Bad("tools", _chat(tools=[{"type": "function", "function": {"name": "f"}}])),
    Bad("nine replies", _chat(n=9)),
    Bad("no reply", _chat(n=0)),
    Bad("NaN", b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}'),
    Bad("a temperature as a text", _chat(temperature="hot")),
    Bad("a negative length", _chat(max_tokens=-1)),
    Bad("a stop that is a number", _chat(stop=5)),
    Bad("a bias of no id", _chat(logit_bias={"x": 1})),
    Bad("top_logprobs alone", _chat(top_logprobs=3)),
    Bad("an unknown model", _chat(model="gpt-4o"), (404,)),
    Bad("a long prompt", _chat(messages=[{"role": "user", "content": "word " * 100_000}])),
    Bad("a body that is too large", b'{"messages": "' + b"a" * (2 << 20) + b'"}', (413,)),
    Bad("ids outside the vocabulary", b'{"prompt": [1, 99999999]}', path=TEXT),
    Bad("no such route", b"{}", (404,), "/v1/responses"),
    Bad("a wrong method", None, (405,), "/v1/models", "DELETE"),
    Bad("another Host", None, (403,), "/v1/models", "GET", {"Host": "example.com"}),
    Bad("another site", None, (403,), "/v1/models", "GET", {"Origin": "http://example.com"}),
    Bad("a session that is not there", None, (404,), "/api/sessions/soak-none", "GET"),
    Bad("a name that is a path", b'{"name": "../../etc/passwd"}', (400,), "/api/sessions"),
)

OTHERS: tuple[tuple[str, str, bytes | Mapping[str, Any] | None, tuple[int, ...]], ...] = (
    ("GET", "/health", None, (200,)),
    ("GET", "/metrics", None, (200,)),
    ("GET", "/v1/models", None, (200,)),
    ("GET", "/", None, (200,)),
    ("GET", "/api/about", None, (200,)),
    ("GET", "/api/sessions?search=soak", None, (200,)),
    # Without an index of the training text, it is told how to make one.
    (
        "POST",
        "/v1/trace",
        {"input": "A horse called Tom, who lived in a forest. One morning, Tom saw a comet."},
        (200, 404),
    ),
    # A lone surrogate stands for no character, and is replaced.
    ("POST", CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 3}', (200, 429)),
)
