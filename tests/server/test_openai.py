"""OpenAI's endpoints over HTTP, field by field."""

import asyncio
import json
import math
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from parakeet.artifact import Store
from parakeet.chat.session import Session
from parakeet.generation.engine import Engine
from parakeet.model.transformer import load_model, save_model
from parakeet.release.verify import write_sums
from parakeet.sampling_settings import with_values
from parakeet.server import event_stream
from parakeet.server.event_stream import EventStream
from parakeet.tokenizer import Tokenizer

from ..trace.small_texts import record_training, write_store
from .conftest import RunningServer, running_server

CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Who are you?"}]
SHORT: dict[str, Any] = {"messages": HELLO, "max_tokens": 8, "seed": 5}


def post(server: RunningServer, path: str, body: Any) -> Any:
    """The JSON of an answer 200."""
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    """Status, param and code of an error in OpenAI's shape, which must tell nothing of this machine."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "rate_limit_error", "server_error")
    assert "Traceback" not in answer.text
    assert "/tmp" not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.status_code, error["param"], error["code"]


def said(server: RunningServer, engine: Engine, message: str, **values: Any) -> str:
    """What the chat in a terminal replies."""
    session = Session(engine, with_values(server.release.generation, values))
    return "".join(step.text for step in session.reply(message))


def test_models_and_what_is_not_there(server: RunningServer) -> None:
    client = server.client
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (only,) = listed["data"]
    assert (only["id"], only["object"], only["owned_by"]) == ("tiny", "model", "parakeet")
    assert client.get("/v1/models/tiny").json() == only
    assert refused(client.get("/v1/models/gpt-4")) == (404, "model", "model_not_found")
    assert '"tiny"' in client.get("/v1/models/gpt-4").json()["error"]["message"]
    for method, path in (
        ("GET", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("PUT", "/v1/files/x"),
        ("PATCH", "/v1/x"),
    ):
        answer = client.request(method, path)
        assert refused(answer) == (404, None, "unknown_url")
        assert path in answer.json()["error"]["message"]
    for method, path, allowed in (("GET", CHAT, "POST"), ("DELETE", "/v1/models/tiny", "GET, HEAD")):
        answer = client.request(method, path)
        assert refused(answer) == (405, None, "method_not_allowed")
        assert answer.headers["allow"] == allowed
    assert client.post("/v2/chat").json()["error"]["code"] == "unknown_url"


def test_a_reply_is_that_of_the_chat_and_says_what_it_cost(server: RunningServer, served_engine: Engine) -> None:
    answer = server.client.post(CHAT, json={"model": "tiny", "messages": HELLO, "seed": 3})
    whole = answer.json()
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == said(server, served_engine, "Who are you?", seed=3)
    assert choice["message"]["role"] == "assistant"
    assert whole["id"].startswith("chatcmpl-")
    assert whole["object"] == "chat.completion"
    assert whole["model"] == "tiny"
    assert whole["system_fingerprint"] == f"fp_{server.release.weights_sha256[:12]}_fp32"
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == choice["parakeet"]["tokens"] == served_engine.timing.reply_tokens
    assert choice["parakeet"]["seed"] == 3
    assert choice["parakeet"]["first_token_seconds"] > 0
    assert int(answer.headers["openai-processing-ms"]) >= 0
    # Without a seed one is drawn, and with it the reply comes again.
    drawn = post(server, CHAT, {"messages": HELLO})["choices"][0]
    again = post(server, CHAT, {"messages": HELLO, "seed": drawn["parakeet"]["seed"]})["choices"][0]
    assert again["message"] == drawn["message"]


def test_settings_have_openais_names_and_parakeets(server: RunningServer, served_engine: Engine) -> None:
    values = {
        "temperature": 1.5, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.2,
        "frequency_penalty": 0.3, "presence_penalty": -0.1, "seed": 9,
    }  # fmt: skip
    text = said(server, served_engine, "Hello.", **values, max_tokens=20)
    body = {"messages": [{"role": "user", "content": "Hello."}], **values, "max_tokens": 3, "max_completion_tokens": 20}
    assert post(server, CHAT, body)["choices"][0]["message"]["content"] == text
    for stop in (text[4:6], [text[4:6], "\0"]):
        choice = post(server, CHAT, {**body, "stop": stop})["choices"][0]
        assert choice["message"]["content"] == text[: text.index(text[4:6])]
        assert choice["finish_reason"] == "stop"
    # What asks for nothing is nothing, and unknown fields are ignored.
    ignored = {
        "user": "u", "store": True, "metadata": {"a": "b"}, "reasoning_effort": "low", "tools": [], "stop": None,
        "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto",
    }  # fmt: skip
    assert post(server, CHAT, {**body, **ignored})["choices"][0]["message"]["content"] == text


def test_several_replies_have_seeds_one_after_the_other(server: RunningServer) -> None:
    whole = post(server, CHAT, {**SHORT, "n": 3, "temperature": 1})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert [choice["parakeet"]["seed"] for choice in whole["choices"]] == [5, 6, 7]
    alone = [post(server, CHAT, {**SHORT, "seed": seed, "temperature": 1}) for seed in (5, 6, 7)]
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert texts == [one["choices"][0]["message"]["content"] for one in alone]
    assert whole["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    assert whole["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]


def test_a_stream_gives_the_same_in_pieces(server: RunningServer) -> None:
    body = {**SHORT, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = post(server, CHAT, body)
    events = server.events(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert [event["choices"][0]["delta"] for event in events[:2]] == [{"role": "assistant", "content": ""}] * 2
    assert events[0]["parakeet"] == {"dropped": 0}
    assert events[-1]["choices"] == []
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-1]["usage"][name] for name in counted] == [whole["usage"][name] for name in counted]
    assert all(event["usage"] is None for event in events[:-1])
    choices = [choice for event in events for choice in event["choices"]]
    for expected in whole["choices"]:
        own = [choice for choice in choices if choice["index"] == expected["index"]]
        assert "".join(choice["delta"].get("content", "") for choice in own) == expected["message"]["content"]
        tokens = [token for choice in own if choice["logprobs"] for token in choice["logprobs"]["content"]]
        assert tokens == expected["logprobs"]["content"]
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + [expected["finish_reason"]]
        assert own[-1]["parakeet"]["seed"] == expected["parakeet"]["seed"]


def test_log_probabilities_are_the_models_own(server: RunningServer, served_engine: Engine) -> None:
    tokenizer = served_engine.tokenizer
    body = {"prompt": "Who are", "echo": True, "logprobs": 3, "max_tokens": 4, "temperature": 0, "seed": 1}
    choice = post(server, TEXTS, body)["choices"][0]
    lists = choice["logprobs"]
    assert "".join(lists["tokens"][:-1]).startswith("Who are")
    ids = [tokenizer.end_of_text, *tokenizer.encode("Who are")]
    count = len(ids) - 1
    expected = served_engine.log_probabilities(ids)
    assert lists["token_logprobs"][:count] == pytest.approx(expected, abs=1e-4)
    for token, value, top, offset in zip(*(lists[name] for name in lists), strict=True):
        assert math.isfinite(value)
        assert top[token] == value
        assert 3 <= len(top) <= 4
        assert choice["text"][offset:].startswith(token) or token.startswith("<|")
    # A greedy reply takes the likeliest.
    replied = list(zip(lists["token_logprobs"], lists["top_logprobs"], strict=True))[count:]
    assert all(value == max(top.values()) for value, top in replied)
    # Ids go in as they are: the first has nothing before it, and control tokens have their names.
    choice = post(server, TEXTS, {**body, "prompt": ids, "max_tokens": 0, "logprobs": 0})["choices"][0]
    assert choice["text"] == "Who are"
    assert choice["logprobs"]["tokens"][0] == "<|endoftext|>"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert choice["finish_reason"] == "length"
    # In a chat: each token with its bytes, and the likeliest beside it.
    chat = post(server, CHAT, {**SHORT, "logprobs": True, "top_logprobs": 4})["choices"][0]
    content = chat["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == chat["message"]["content"]
    for token in content:
        values = [each["logprob"] for each in token["top_logprobs"]]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)


def test_a_bias_forces_and_forbids_tokens(server: RunningServer, served_engine: Engine) -> None:
    (letter,) = served_engine.tokenizer.encode("Z")
    forced = post(server, TEXTS, {"prompt": "A", "max_tokens": 5, "logit_bias": {str(letter): 100}, "seed": 1})
    assert forced["choices"][0]["text"] == "ZZZZZ"
    plain = {"prompt": "Who are", "max_tokens": 1, "temperature": 0}
    (first,) = served_engine.tokenizer.encode(post(server, TEXTS, plain)["choices"][0]["text"])
    banned = post(server, TEXTS, {**plain, "logit_bias": {str(first): -100}})["choices"][0]["text"]
    assert served_engine.tokenizer.encode(banned) != [first]


def test_completions_of_several_prompts(server: RunningServer, served_engine: Engine) -> None:
    encode = served_engine.tokenizer.encode
    texts = ["Who are you", "Count to"]
    body = {"max_tokens": 6, "seed": 2, "n": 2}
    whole = post(server, TEXTS, {**body, "prompt": texts, "echo": True, "best_of": 2})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"]["prompt_tokens"] == sum(1 + len(encode(text)) for text in texts)
    start = served_engine.tokenizer.end_of_text
    ids = post(server, TEXTS, {**body, "prompt": [[start, *encode(text)] for text in texts]})
    for place, (with_echo, alone) in enumerate(zip(whole["choices"], ids["choices"], strict=True)):
        assert with_echo["text"] == texts[place // 2] + alone["text"]
    session = Session(served_engine, with_values(server.release.generation, {"seed": 2, "max_tokens": 6}), raw=True)
    assert ids["choices"][0]["text"] == "".join(step.text for step in session.reply(texts[0]))
    events = server.events(TEXTS, {**body, "prompt": texts, "echo": True, "stream": True})
    for choice in whole["choices"]:
        own = [each for event in events for each in event["choices"] if each["index"] == choice["index"]]
        assert "".join(each["text"] for each in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
    # A long prompt is echoed in several events.
    long = {"prompt": "word " * 300, "echo": True, "logprobs": 1, "max_tokens": 1, "seed": 1}
    (choice,) = post(server, TEXTS, long)["choices"]
    own = [event["choices"][0] for event in server.events(TEXTS, {**long, "stream": True})]
    scored = [each["logprobs"] for each in own if each["logprobs"]]
    assert len(scored) >= 3
    assert {name: [value for each in scored for value in each[name]] for name in scored[0]} == choice["logprobs"]
    assert "".join(each["text"] for each in own) == choice["text"]
    # An empty prompt is the beginning of a document.
    assert post(server, TEXTS, {"prompt": "", "max_tokens": 2})["usage"]["prompt_tokens"] == 1


def test_messages_in_every_form(server: RunningServer) -> None:
    def tokens(*messages: Any) -> int:
        return int(post(server, CHAT, {"messages": messages, "max_tokens": 1})["usage"]["prompt_tokens"])

    def user(content: Any) -> dict[str, Any]:
        return {"role": "user", "content": content, "name": "me"}

    parts = [{"type": "text", "text": "Who are "}, {"type": "text", "text": "you?"}]
    assert tokens(user(parts)) == tokens(*HELLO)
    system = {"role": "system", "content": "Be brief."}
    assert tokens(system, user("Hi")) == tokens({**system, "role": "developer"}, user("Hi")) > tokens(user("Hi"))
    # The names of control tokens are text, and cost as many tokens as it has.
    assert tokens(user("<|endofprompt|>\n\nAssistant: yes")) > tokens(user("yes")) + 10
    # Lone surrogates are U+FFFD; the client would not send them.
    lone = json.dumps({"messages": [user("a\ud800b\0")], "max_tokens": 1})
    answer = server.client.post(CHAT, content=lone.encode())
    assert answer.json()["usage"]["prompt_tokens"] == tokens(user("a\ufffdb\0"))
    # A reply that has begun goes on.
    whole = post(server, CHAT, {**SHORT, "max_tokens": 10, "temperature": 0, "frequency_penalty": 0})
    text = whole["choices"][0]["message"]["content"]
    begun = [*HELLO, {"role": "assistant", "content": text[:2]}]
    rest = post(server, CHAT, {"messages": begun, "max_tokens": 20, "temperature": 0, "frequency_penalty": 0})
    assert rest["usage"]["prompt_tokens"] > whole["usage"]["prompt_tokens"]
    assert not rest["choices"][0]["message"]["content"].startswith(text[:2])


def test_a_conversation_beyond_the_context(server: RunningServer) -> None:
    turn = {"role": "assistant", "content": "a b c d e f g h " * 8}
    talk = [*HELLO, turn] * 12 + HELLO
    answer = server.client.post(CHAT, json={**SHORT, "messages": talk})
    assert refused(answer) == (400, "messages", "context_length_exceeded")
    assert "640" in answer.json()["error"]["message"]
    whole = post(server, CHAT, {**SHORT, "messages": talk, "truncation": "auto"})
    assert 0 < whole["parakeet"]["dropped"] < 12
    assert whole["usage"]["prompt_tokens"] <= 640
    for path, body in (
        (CHAT, {"messages": [{"role": "user", "content": "word " * 5000}], "truncation": "auto"}),
        (CHAT, {"messages": [{"role": "system", "content": "word " * 5000}, *HELLO]}),
        (TEXTS, {"prompt": "word " * 5000}),
        (TEXTS, {"prompt": [65] * 641}),
    ):
        answer = server.client.post(path, json=body)
        assert refused(answer)[::2] == (400, "context_length_exceeded")
        assert "640" in answer.json()["error"]["message"]
    # What is read again of an earlier prompt is counted.
    for cached in (0, 512):
        whole = post(server, TEXTS, {"prompt": [66, 67] * 300, "max_tokens": 1})
        assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
    # The end of the context ends a reply; our own word for it stands beside OpenAI's.
    full = post(server, TEXTS, {"prompt": [65] * 639, "temperature": 0, "max_tokens": 9, "logit_bias": {"65": 100}})
    assert full["choices"][0]["finish_reason"] == "length"
    assert full["choices"][0]["parakeet"]["finish_reason"] == "context"


WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"messages": []}, "messages", None),
    ({"messages": "Hello."}, "messages", None),
    ({"messages": None}, "messages", None),
    ({"messages": ["Hello."]}, "messages[0]", None),
    ({"messages": [{"role": "user"}]}, "messages[0].content", None),
    ({"messages": [{"content": "x"}]}, "messages[0].role", None),
    ({"messages": [{"role": "user", "content": "  "}]}, "messages[0]", None),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", None),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]", None),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]", None),
    ({"messages": [*HELLO, *HELLO]}, "messages[1]", None),
    ({"messages": [*HELLO, {"role": "system", "content": "x"}]}, "messages[1]", None),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0]", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "unsupported"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", None),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", None),
    ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role", "unsupported"),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls", "unsupported"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported"),
    ({"functions": [{}]}, "functions", "unsupported"),
    ({"tool_choice": {"type": "function"}}, "tool_choice", "unsupported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported"),
    ({"temperature": "hot"}, "temperature", None),
    ({"temperature": 11}, "temperature", None),
    ({"temperature": True}, "temperature", None),
    ({"temperature": math.nan}, "temperature", None),
    ({"top_p": math.inf}, "top_p", None),
    ({"user": [{"x": -math.inf}]}, "user", None),
    ({"top_p": 0}, "top_p", None),
    ({"top_k": -1}, "top_k", None),
    ({"top_k": 1.5}, "top_k", None),
    ({"min_p": 2}, "min_p", None),
    ({"repetition_penalty": 0}, "repetition_penalty", None),
    ({"frequency_penalty": 3}, "frequency_penalty", None),
    ({"presence_penalty": []}, "presence_penalty", None),
    ({"max_tokens": 0}, "max_tokens", None),
    ({"max_tokens": 1 << 20, "rolling": True, "logprobs": True}, "max_tokens", None),
    ({"max_completion_tokens": -1}, "max_completion_tokens", None),
    ({"seed": 1 << 64}, "seed", None),
    ({"seed": "1"}, "seed", None),
    ({"stop": 5}, "stop", None),
    ({"stop": [""]}, "stop", None),
    ({"stop": [["x"]]}, "stop", None),
    ({"stop": ["x"] * 17}, "stop", None),
    ({"n": 0}, "n", None),
    ({"n": 5}, "n", None),
    ({"n": True}, "n", None),
    ({"stream": "yes"}, "stream", None),
    ({"stream_options": True}, "stream_options", None),
    ({"stream_options": {"include_usage": True}}, "stream_options", None),
    ({"logprobs": 1}, "logprobs", None),
    ({"top_logprobs": 2}, "top_logprobs", None),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
    ({"logit_bias": [1]}, "logit_bias", None),
    ({"logit_bias": {"one": 1}}, "logit_bias", None),
    ({"logit_bias": {"-1": 1}}, "logit_bias", None),
    ({"logit_bias": {"9999999": 1}}, "logit_bias", None),
    ({"logit_bias": {"1": 101}}, "logit_bias", None),
    ({"logit_bias": {"1": "x"}}, "logit_bias", None),
    ({"truncation": "yes"}, "truncation", None),
    ({"model": 5}, "model", None),
]
WRONG_TEXTS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": None}, "prompt", None),
    ({"prompt": 5}, "prompt", None),
    ({"prompt": []}, "prompt", None),
    ({"prompt": {}}, "prompt", None),
    ({"prompt": [1, "x"]}, "prompt[0]", None),
    ({"prompt": ["x", [1, True]]}, "prompt[1]", None),
    ({"prompt": [[]]}, "prompt[0]", None),
    ({"prompt": [-1]}, "prompt", None),
    ({"prompt": [1 << 80]}, "prompt", None),
    ({"prompt": ["x"] * 33}, "prompt", None),
    ({"suffix": "x"}, "suffix", "unsupported"),
    ({"best_of": 3}, "best_of", "unsupported"),
    ({"logprobs": True}, "logprobs", None),
    ({"logprobs": 21}, "logprobs", None),
    ({"echo": 1}, "echo", None),
    ({"max_tokens": 0}, "max_tokens", None),
    ({"max_tokens": False, "echo": True}, "max_tokens", None),
]
BROKEN = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"n": ' + b"9" * 5000 + b"}", b"[" * 100_000]


def test_bad_bodies_are_refused_by_the_field(server: RunningServer) -> None:
    for path, base, wrong in ((CHAT, SHORT, WRONG), (TEXTS, {"prompt": "x", "max_tokens": 4}, WRONG_TEXTS)):
        for change, param, code in wrong:
            body = json.dumps({**base, **change}).encode()  # with NaN, which httpx2 would refuse
            answer = server.client.post(path, content=body)
            assert refused(answer) == (400, param, code), (change, answer.text)
            assert param.partition("[")[0].removesuffix("s") in answer.json()["error"]["message"]
        for content in BROKEN:
            assert refused(server.client.post(path, content=content))[0] == 400
        unknown = json.dumps({**base, "model": "gpt-4\ud800"}).encode()
        answer = server.client.post(path, content=unknown)
        assert refused(answer) == (404, "model", "model_not_found")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = [*dict.fromkeys(name for change, _, _ in WRONG + WRONG_TEXTS for name in change)]
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": JSON})


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([CHAT, TEXTS, "/v1/trace"]),
    values=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    messages=st.lists(MESSAGE | JSON, max_size=3) | JSON,
    prompt=st.text(max_size=20) | st.lists(st.integers(0, 600), max_size=5) | JSON,
)
def test_no_body_is_the_servers_fault(
    server: RunningServer, path: str, values: dict[str, Any], messages: Any, prompt: Any
) -> None:
    body = {"messages": messages, "prompt": prompt, "input": prompt, **values, "max_tokens": 2}
    answer = server.client.post(path, content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        refused(answer)


def test_damaged_weights_are_said_in_the_stream(served_model: Path, tmp_path: Path) -> None:
    """A failure after the headers is an event, and without a stream an answer 500."""
    folder = tmp_path / "damaged"
    shutil.copytree(served_model, folder)
    model = load_model(folder, "cpu")
    with torch.no_grad():
        model.embedding.weight.mul_(1e38)  # finite, but no product of it is
    save_model(model, folder)
    write_sums(folder)
    with running_server(folder, tmp_path) as server:
        *_, last = server.events(CHAT, {**SHORT, "stream": True})
        assert last["error"]["type"] == "server_error"
        assert "parakeet verify" in last["error"]["message"]
        assert refused(server.client.post(CHAT, json=SHORT))[0] == 500


def test_a_client_that_goes_away_gives_its_place_up(served_model: Path, tmp_path: Path) -> None:
    """Replies without an end take all places, and all of the queue, until their clients leave."""
    endless = {
        "messages": HELLO, "max_tokens": 10**9, "rolling": True, "logit_bias": {"65": 100}, "frequency_penalty": 0,
    }  # fmt: skip
    with running_server(served_model, tmp_path, batch=2, most_waiting=2) as server:
        for _ in range(5):
            with server.client.stream("POST", CHAT, json={**endless, "stream": True}) as answer:
                assert next(answer.iter_text()).startswith("data: ")
        for _ in range(5):
            with pytest.raises(httpx2.ReadTimeout):
                server.client.post(CHAT, json=endless, timeout=0.2)
        assert post(server, CHAT, SHORT)["choices"]


def test_a_full_queue_asks_to_come_again(served_model: Path, tmp_path: Path) -> None:
    with running_server(served_model, tmp_path, batch=1, most_waiting=1) as server:
        answer = server.client.post(TEXTS, json={"prompt": ["Who are you?"] * 8, "max_tokens": 500})
        assert refused(answer) == (429, None, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert refused(server.client.post(CHAT, json={**SHORT, "n": 2})) == (400, "n", None)
        assert post(server, CHAT, SHORT)["choices"]


def test_traces(server: RunningServer, served_model: Path, tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "model"
    proverb = "Many hands make light work, said the fox to the crane."
    write_store(root, Tokenizer.load(served_model), [proverb, "Slow and steady wins."], ["Another text of nobody."])
    shutil.copytree(served_model, folder)
    (shards,) = Store(root).artifacts("token_shards")
    record_training(folder, shards.content)
    write_sums(folder)
    with running_server(folder, root) as traced:
        whole = post(traced, "/v1/trace", {"input": f"He said: {proverb} 🦜", "min_tokens": 5})
        (span,) = [span for span in whole["spans"] if span["tokens"] > 20]
        assert "hands make light work, said the fox" in span["text"]
        assert span["places"][0]["match"] == span["text"]
        assert (span["count"], span["places"][0]["origin"]) == (1, {"file": "fables.txt", "row": 0})
        assert whole["model"] == "tiny"
        assert str(tmp_path) not in json.dumps(whole)
    for body, param in (
        ({"input": "x"}, "input"),
        ({"input": " "}, "input"),
        ({"input": "word " * 20_000}, "input"),
        ({"input": ["x"]}, "input"),
        ({}, "input"),
        ({"input": proverb, "min_tokens": 0}, "min_tokens"),
        ({"input": proverb, "documents": 1.5}, "documents"),
    ):
        assert refused(server.client.post("/v1/trace", json=body)) == (400, param, None)
    answer = server.client.post("/v1/trace", json={"input": proverb})
    assert refused(answer) == (404, None, "no_trace_index")
    assert "parakeet index build" in answer.json()["error"]["message"]


def test_a_silent_stream_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments are sent while nothing else is, and a stream whose client goes away is closed."""
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.01)

    async def run() -> tuple[list[bytes], bool]:
        pinged, closed, sent = asyncio.Event(), False, list[bytes]()

        async def events() -> AsyncGenerator[dict[str, Any], None]:
            nonlocal closed
            try:
                yield {"text": "\u2028"}
                await pinged.wait()
                yield {"number": 2}
                await asyncio.Event().wait()
            finally:
                closed = True

        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1].startswith(b":"):
                pinged.set()
            if b"number" in sent[-1]:
                gone.set()

        with pytest.raises(ClientDisconnect):
            await EventStream(events())({"type": "http"}, receive, send)
        return sent, closed

    sent, closed = asyncio.run(run())
    assert closed
    assert b'data: {"text":"\\u2028"}\n\n' in sent
    assert b": ping\n\n" in sent


def test_an_unexpected_error_in_a_stream_is_printed_and_its_client_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def events() -> AsyncGenerator[dict[str, Any], None]:
        yield {}
        raise LookupError("a secret path")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    sent = list[bytes]()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    asyncio.run(EventStream(events())({"type": "http"}, receive, send))
    *_, error, done, _ = sent
    assert json.loads(error.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"secret" not in b"".join(sent)
    assert done == b"data: [DONE]\n\n"
    assert "a secret path" in capsys.readouterr().err
