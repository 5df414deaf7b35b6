"""`parakeet chat --server`: the same replies as with a model of one's own."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.chat.pieces import render_chances
from parakeet.chat.prompt_builder import open_turn, raw_ids
from parakeet.chat.remote import RemoteEngine, Server, open_remote
from parakeet.chat.storage import load, session_header
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.generation.engine import Engine
from parakeet.sampling_settings import SamplingSettings

from .conftest import RunningServer

SETTINGS = SamplingSettings(temperature=0.9, top_p=0.9, repetition_penalty=1.1, max_tokens=60, seed=7)


@pytest.fixture(autouse=True)
def cache_of_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "parakeet" / "tokenizers"


def engine_of(server: RunningServer) -> RemoteEngine:
    engine = open_remote(Server.parse(server.url), server.root).engine
    assert isinstance(engine, RemoteEngine)
    return engine


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, temperature=0.0, stop=("the", "a b")),
        replace(SETTINGS, max_tokens=700, rolling=True, top_k=3, min_p=0.1),
        replace(SETTINGS, max_tokens=1, frequency_penalty=0.5, presence_penalty=0.5, seed=(1 << 64) - 1),
    ],
)
def test_replies_are_those_of_an_engine_of_ones_own(
    server: RunningServer, served_engine: Engine, settings: SamplingSettings
) -> None:
    remote = engine_of(server)
    for ids in (open_turn(remote.tokenizer, "Who are you?"), raw_ids(remote.tokenizer, "🦜 said")):
        steps, own = list(remote.generate(ids, settings)), list(served_engine.generate(ids, settings))
        assert "".join(step.text for step in steps) == "".join(step.text for step in own)
        assert steps[-1].finish_reason == own[-1].finish_reason
        ids_of = [[step.token_id for step in each if step.token_id is not None] for each in (steps, own)]
        assert ids_of[0] == ids_of[1]
        for name in ("prompt_tokens", "reply_tokens"):
            assert getattr(remote.timing, name) == getattr(served_engine.timing, name)
        assert remote.timing.first_token_seconds > 0


def test_likeliest_tokens_have_the_probabilities_of_the_model(server: RunningServer, served_engine: Engine) -> None:
    remote = engine_of(server)
    for text in ("Who are", "\n", "\x00\xff é 🦜"):
        ids = raw_ids(remote.tokenizer, text)
        found, own = remote.likeliest(ids, SETTINGS, 10), served_engine.likeliest(ids, SETTINGS, 10)
        assert [token.token_id for token in found] == [token.token_id for token in own]
        assert [token.probability for token in found] == pytest.approx([token.probability for token in own], rel=1e-4)
        assert "unknown" in render_chances(remote.tokenizer, found)


def test_what_a_session_records_is_what_the_server_runs_with(
    server: RunningServer, served_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PARAKEET_MODEL", "another")
    arguments = ["chat", "--server", server.url.replace("http://", ""), "--session", "far", "--seed", "3", "--stats"]
    for message in ("Who are you?", "And who am I?"):
        done = CliRunner().invoke(main, [*arguments, message])
        assert done.exit_code == 0, done.output
        assert "first token" in done.output
    found = load(tmp_path / "home" / "sessions" / "far.jsonl")
    own = session_header(served_engine, server.release.name, server.release.weights_sha256)
    assert {**found.header, "created": ""} == {**own, "created": ""}
    assert [event["event"] for event in found.events] == ["reply", "reply"]
    assert found.events[1]["seed"] == 3
    assert found.events[1]["tokens"] > 0


def test_closing_a_reply_stops_it_on_the_server(server: RunningServer) -> None:
    remote = engine_of(server)
    steps = remote.generate([1, 2, 3], replace(SETTINGS, max_tokens=1_000_000, rolling=True, temperature=1.5))
    while not next(steps).text:
        pass
    steps.close()  # type: ignore[attr-defined]
    assert 0 < remote.timing.reply_tokens < 1_000_000
    while server.served.worker.running:
        pass


def test_a_tokenizer_is_kept_and_checked(server: RunningServer, cache_of_tokenizers: Path) -> None:
    sha256 = engine_of(server).tokenizer.sha256
    kept = cache_of_tokenizers / sha256
    assert {file.name for file in kept.iterdir()} == {"tokenizer.json", "vocabulary.tiktoken"}
    (kept / "vocabulary.tiktoken").write_bytes(b"IQ== 0\n")
    assert engine_of(server).tokenizer.sha256 == sha256
    assert [folder.name for folder in cache_of_tokenizers.iterdir()] == [sha256]
    cache_of_tokenizers.rename(cache_of_tokenizers.with_name("moved"))
    cache_of_tokenizers.write_text("no folder")
    assert engine_of(server).tokenizer.sha256 == sha256


def test_another_model_on_the_server_is_said_and_opened_by_its_name(server: RunningServer) -> None:
    remote = engine_of(server)
    remote.weights_sha256 = "0" * 64
    with pytest.raises(ParakeetError, match=f"serves another model by now: enter /model {server.release.name} to go"):
        list(remote.generate([1, 2, 3], SETTINGS))
    assert open_remote(Server.parse(server.url), server.root, server.release.name).release.name == server.release.name
    with pytest.raises(ParakeetError, match=f"has one model: {server.release.name}"):
        open_remote(Server.parse(server.url), server.root, "another")
    with pytest.raises(ParakeetError, match=r"The server at .* answered: prompt has 10,000 tokens"):
        list(engine_of(server).generate([1] * 10_000, SETTINGS))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "localhost:port", "http://[::1", "x" * 10 + ":99999"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ParakeetError, match="is no address of a server"):
        Server.parse(url)


@pytest.fixture
def program() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """The address of an HTTP server, and the answer that it gives to every request, in a list."""
    answers: list[tuple[int, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = answers[0]
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", answers
        running.shutdown()


def test_what_is_no_parakeet_is_said(program: tuple[str, list[tuple[int, bytes]]], tmp_path: Path) -> None:
    url, answers = program
    for status, body, said in (
        (200, b"<h1>Hello</h1>", "something else than JSON"),
        (200, b"[]", "something else than JSON"),
        (200, b'{"data": [{"id": "gpt"}]}', "it lacks 'parakeet'"),
        (404, b"", "status 404"),
        (401, b"{}", "An API key is needed"),
        (503, json.dumps({"error": {"message": "Loading."}}).encode(), "answered: Loading."),
    ):
        answers[:] = [(status, body)]
        with pytest.raises(ParakeetError, match=said):
            open_remote(Server.parse(url), tmp_path)
    key = tmp_path / "key"
    key.write_text("sk-1\n")
    answers[:] = [(401, b"{}")]
    with pytest.raises(ParakeetError, match="Another API key is needed"):
        open_remote(Server.parse(url, key), tmp_path)
    for text, said in (("one\ntwo\n", "has 2 lines"), ("kéy", "ASCII"), ("", "is empty")):
        key.write_text(text, encoding="utf-8")
        with pytest.raises(ParakeetError, match=said):
            Server.parse(url, key)
    with pytest.raises(ParakeetError, match="cannot be read: No such file"):
        Server.parse(url, tmp_path / "nothing")


def test_a_server_that_goes_away_is_said(
    server: RunningServer, program: tuple[str, list[tuple[int, bytes]]], tmp_path: Path
) -> None:
    url, answers = program
    remote = engine_of(server)
    remote.server = Server.parse(url)
    fingerprint = f"fp_{remote.weights_sha256[:12]}_fp32"
    event = {"system_fingerprint": fingerprint, "choices": [{"text": "Hel", "logprobs": {"tokens": ["H"]}}]}
    answers[:] = [(200, b"data: " + json.dumps(event).encode() + b"\n\n")]
    steps = remote.generate([1], SETTINGS)
    with pytest.raises(ParakeetError, match="ended in the middle of its answer"):
        list(steps)
    assert remote.timing.reply_tokens == 1
    answers[:] = [(200, b'data: {"error": {"message": "The server is stopping."}}\n\n')]
    with pytest.raises(ParakeetError, match=r"stopped: The server is stopping\."):
        list(remote.generate([1], SETTINGS))
    with pytest.raises(ParakeetError, match=r"There is no server at http://127.0.0.1:9 \(.*parakeet serve"):
        open_remote(Server.parse("127.0.0.1:9"), tmp_path)


def test_a_server_that_says_nothing_can_be_left(server: RunningServer) -> None:
    remote = engine_of(server)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote.server = Server.parse(f"127.0.0.1:{silent.getsockname()[1]}")
        steps = remote.generate([1], SETTINGS)
        assert next(steps).text == ""  # the chat looks whether Ctrl-C was pressed
        steps.close()  # type: ignore[attr-defined]
        connection, _ = silent.accept()
        with connection:
            while connection.recv(1 << 16):
                pass  # to its end: it was closed


@pytest.mark.parametrize(
    "arguments", [("--model", "demo"), ("--run", "3fa9"), ("--dtype", "int8"), ("--no-prompt-lookup",)]
)
def test_options_of_loading_a_model_are_refused_beside_a_server(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["chat", "--server", "localhost:8000", *arguments])
    assert done.exit_code == 2
    assert f"leave out {arguments[0]}" in done.output
    assert CliRunner().invoke(main, ["chat", "--api-key-file", "key"]).exit_code == 2


def test_a_chat_with_a_server_imports_no_torch(server: RunningServer) -> None:
    code = (
        "import sys\nfrom parakeet.cli import main\n"
        f"sys.argv = ['parakeet', 'chat', '--server', '{server.url}', '--max-tokens', '3', 'Hi']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*(name for name in sys.modules if name in ('torch', 'uvicorn', 'pydantic', 'starlette')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
