"""Who may ask, and how much, before a route sees a request; and the figures of /metrics."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from parakeet.api_key import read_key
from parakeet.errors import ParakeetError
from parakeet.server.app import make_app
from parakeet.server.errors import as_api_error
from parakeet.server.guards import Access
from parakeet.server.limits import Limits
from parakeet.server.metrics import Metrics
from parakeet.server.page_routes import ROUTES as PAGE_ROUTES

from .conftest import RunningServer

KEY = "a-secret-of-24-characters"


async def echo(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def wrong(request: Request) -> Response:
    raise RuntimeError("the password is 1234")


async def slow(request: Request) -> Response:
    await asyncio.sleep(60)
    raise AssertionError


async def slow_events(request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield 'data: {"text": "begun"}\n\n'
        await asyncio.sleep(60)

    return StreamingResponse(events(), media_type="text/event-stream")


def client_of(server: RunningServer, access: Access | None = None, limits: Limits | None = None) -> TestClient:
    """Of an application with the shared model, and some routes that try it."""
    app = make_app(server.served, access or Access(), limits or Limits())
    for path, route in {"/echo": echo, "/wrong": wrong, "/slow": slow, "/slow_events": slow_events}.items():
        app.router.routes.insert(0, Route(path, route, methods=["GET", "POST"]))
    return TestClient(app, base_url="http://127.0.0.1:8000")


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error in OpenAI's form."""
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST.:1", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.168.1.7:8000", "mine"]
)
def test_addresses_and_own_names_are_answered(server: RunningServer, host: str) -> None:
    client = client_of(server, Access(names=frozenset({"localhost", "mine"})))
    assert client.get("/echo", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[evil"])
def test_a_name_that_leads_here_is_refused_without_a_key(server: RunningServer, host: str) -> None:
    assert error_of(client_of(server).get("/health", headers={"host": host}), 403)["code"] == "host_not_allowed"
    with_key = client_of(server, Access(KEY.encode()))
    assert with_key.get("/echo", headers={"host": host, "authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://127.0.0.1:3000"}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True),
    ],
)
def test_pages_of_other_sites_are_refused(server: RunningServer, headers: dict[str, str], allowed: bool) -> None:
    answer = client_of(server).post("/echo", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 200 if allowed else error_of(answer, 403)["code"] == "origin_not_allowed"


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_health(server: RunningServer) -> None:
    client = client_of(server, Access(KEY.encode()))
    for sent in (None, "", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", "Bearer", "Bearer \xe9"):
        headers = {} if sent is None else {"authorization": sent.encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/api/sessions", "/nowhere"):
            answer = client.get(path, headers=headers)
            assert error_of(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/health").json() == {"status": "ok"}
    for route in PAGE_ROUTES:
        assert client.get(route.path).status_code != 401
    assert client.get("/v1/models", headers={"authorization": f"bearer  {KEY}"}).status_code == 200


def test_what_a_file_of_a_key_must_be(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text, said in (
        (b" \n\n", "is empty"),
        (b"one\ntwo\n", "2 lines"),
        (b"with space", "ASCII"),
        (b"\xe9", "ASCII"),
    ):
        file.write_bytes(text)
        with pytest.raises(ParakeetError, match=said):
            read_key(file)
    with pytest.raises(ParakeetError, match="cannot be read: No such file"):
        read_key(tmp_path / "nothing")
    file.write_bytes(b"\n  sk-1234  \r\n")
    assert read_key(file) == "sk-1234"


def test_bodies_up_to_the_limit_are_read_and_larger_ones_are_not(server: RunningServer) -> None:
    client = client_of(server, limits=Limits(body_bytes=1000, import_bytes=2000))

    def pieces(size: int) -> Iterator[bytes]:
        yield from (b"x" * min(300, size - begin) for begin in range(0, size, 300))

    assert client.post("/echo", content=b"x" * 1000).text == "1000 bytes"
    assert client.post("/echo", content=pieces(1000)).text == "1000 bytes"
    for body in (b"x" * 1001, pieces(1001), pieces(50_000)):
        answer = client.post("/echo", content=body)
        assert error_of(answer, 413)["code"] == "too_large"
        assert "1,000" in answer.text
    assert client.post("/api/sessions/import", content=pieces(1500)).status_code != 413
    assert client.post("/api/sessions/import", content=pieces(2001)).status_code in (404, 413)


def test_a_failure_tells_its_details_to_the_terminal_alone(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = client_of(server).get("/wrong")
    assert error_of(answer, 500)["type"] == "server_error"
    assert "1234" not in answer.text
    assert "RuntimeError: the password is 1234" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{home}/trace/3f-0 is damaged: build it again.", "3f-0 is damaged: build it again."),
        ("No space left on device ('/srv/models/x.jsonl').", "No space left on device ('x.jsonl')."),
        ("{home}: Input/output error in {user}/a/b.", "/…: Input/output error in b."),
        ("12 tokens/s and/or a/b/c, http://127.0.0.1:8000/v1/models, or enter /model NAME", None),
    ],
)
def test_an_error_names_no_folder_of_this_machine(
    said: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"user": tmp_path / "Jane Doe", "home": tmp_path / "Jane Doe" / "own models"}
    monkeypatch.setenv("HOME", str(folders["user"]))
    monkeypatch.setenv("PARAKEET_HOME", str(folders["home"]))
    error = as_api_error(ParakeetError(said.format(**folders)))
    assert error.message == (told or said)


def test_a_request_that_takes_too_long_is_ended(server: RunningServer) -> None:
    client = client_of(server, limits=Limits(request_seconds=0.05))
    assert error_of(client.get("/slow"), 503)["code"] == "timeout"
    events = client.get("/slow_events").text.split("\n\n")
    assert events[0] == 'data: {"text": "begun"}'
    assert events[1].startswith('data: {"error": {"message": "The request took more than 0.05 s."')
    assert events[2:] == [""]


def test_while_the_model_is_loaded_all_but_the_page_is_told_so() -> None:
    client = TestClient(make_app(None), base_url="http://localhost")
    assert client.get("/health").json() == {"status": "loading"}
    for answer in (client.get("/v1/models"), client.post("/v1/completions", json={}), client.get("/api/about")):
        assert error_of(answer, 503)["code"] == "loading"
        assert int(answer.headers["retry-after"]) > 0
    # The page says so too, and waits.
    for path in ("/metrics", "/", "/page/app.js"):
        assert client.get(path).status_code == 200
    assert error_of(client.post("/"), 503)


def test_more_requests_than_are_allowed_are_told_to_come_back(server: RunningServer) -> None:
    client = client_of(server, limits=Limits(requests=0))
    answer = client.get("/v1/models")
    assert error_of(answer, 503)["code"] == "server_overloaded"
    assert int(answer.headers["retry-after"]) > 0
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200


def test_answers_carry_headers_for_safety_and_none_about_the_server(server: RunningServer) -> None:
    for path in ("/health", "/v1/models", "/nowhere", "/v1/nowhere"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? ([0-9.e+-]+|\+Inf)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"')


def parsed(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of Prometheus' text format. Each belongs to a metric whose type was said before it."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    kinds: dict[str, str] = {}
    assert page.endswith("\n")
    for line in page[:-1].split("\n"):
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in kinds
            kinds[name] = kind
            continue
        if line.startswith("# HELP "):
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        family = re.sub("_(bucket|sum|count)$", "", match[1]) if match[1] not in kinds else match[1]
        assert kinds[family] in ("counter", "gauge", "histogram")
        labels = tuple(
            (name, re.sub(r"\\[\\\"n]", lambda escape: ESCAPES[escape[0]], value))
            for name, value in LABEL.findall(match[2] or "")
        )
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[3])
    return found


def test_metrics_count_requests_by_route_and_status(server: RunningServer) -> None:
    client = client_of(server)
    for path in ("/health", "/health", "/nowhere", "/elsewhere", "/v1/models/demo%22"):
        client.get(path)
    client.request("MADEUP", "/health")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = parsed(answer.text)
    requests = {labels: value for (name, labels), value in found.items() if name == "parakeet_requests_total"}
    by_route = {tuple(value for _, value in labels): count for labels, count in requests.items()}
    assert by_route["/health", "GET", "200"] == 2
    assert by_route["/v1/models/{name:path}", "GET", "404"] == 1
    assert by_route["other", "GET", "404"] == 2
    assert by_route["/health", "other", "405"] == 1
    assert sum(by_route.values()) == found["parakeet_request_seconds_count", ()] == 6
    assert found["parakeet_resident_memory_bytes", ()] > 1e6


@settings(max_examples=40)
@given(st.text(), st.lists(st.floats(0, 1e6)))
def test_metrics_of_any_name_and_values_can_be_read_again(name: str, seconds: list[float]) -> None:
    metrics = Metrics()
    for each in seconds:
        metrics.request(name, "GET", 200, each)
    found = parsed(metrics.render(None, None, 0))
    buckets = [value for (sample, _), value in found.items() if sample == "parakeet_request_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["parakeet_request_seconds_count", ()] == len(seconds)
    if seconds and name:
        labels = (("route", name), ("method", "GET"), ("status", "200"))
        assert found["parakeet_requests_total", labels] == len(seconds)
