"""The server as a process and on raw sockets: signals, deadlines, many connections, a newly promoted release."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
from click.testing import CliRunner
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from parakeet.cli import main
from parakeet.release.verify import write_sums
from parakeet.server.app import make_app
from parakeet.server.limits import Limits
from parakeet.server.serving import configuration, listen

from .conftest import RunningServer
from .test_guards import KEY, echo, parsed

HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
SECONDS = 60
"""Far longer than anything here takes."""


@contextmanager
def served_on(server: RunningServer, limits: Limits, *routes: Route) -> Iterator[int]:
    """The port of a server with these limits, its routes those given and /echo."""
    app = make_app(server.served, limits=limits)
    app.router.routes[:0] = [Route("/echo", echo, methods=["GET", "POST"]), *routes]
    listener = listen("127.0.0.1", 0)
    running = uvicorn.Server(configuration(app, limits))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def all_of(connection: socket.socket) -> bytes:
    """What a server sends until it closes the connection."""
    found = b""
    try:
        while data := connection.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


def read_to(connection: socket.socket, end: bytes) -> None:
    """Read an answer that ends so, and leaves the connection open."""
    found = b""
    while not found.endswith(end):
        data = connection.recv(1 << 16)
        assert data, found
        found += data


def error_in(answer: bytes, status: int) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"\r\nserver:" not in head.lower()
    found: dict[str, str] = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.fixture(scope="module")
def hurried(server: RunningServer) -> Iterator[int]:
    """The port of a server with short deadlines."""
    with served_on(server, Limits(header_seconds=0.3, body_seconds=0.6, keep_alive_seconds=1)) as port:
        yield port


@pytest.mark.parametrize("sent", [HEAD, b"POST /ec", HEAD + b"\r\n12345", HEAD + b"Transfer-"])
def test_a_request_that_does_not_come_to_its_end_is_answered_408(hurried: int, sent: bytes) -> None:
    with connected(hurried) as connection:
        connection.sendall(sent)
        assert error_in(all_of(connection), 408)["code"] == "request_timeout"


def test_slow_bytes_do_not_win_time(hurried: int) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD.replace(b"10", b"1000000") + b"\r\n")
        connection.settimeout(0.05)
        answer = b""
        while not answer:
            try:
                connection.sendall(b"1")
                answer = connection.recv(1 << 16)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


def test_a_silent_connection_is_closed_at_its_beginning_and_after_a_request(hurried: int) -> None:
    with connected(hurried) as connection:
        assert all_of(connection) == b""
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"\r\n0123456789")
        assert all_of(connection).endswith(b"10 bytes")


def test_a_slow_request_on_a_connection_that_is_kept_is_answered_408(hurried: int) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"\r\n0123456789")
        read_to(connection, b"10 bytes")
        connection.sendall(HEAD)
        assert error_in(all_of(connection), 408)


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"\r\n12345"])
def test_a_slow_request_that_came_with_the_one_before_is_answered_408(hurried: int, sent: bytes) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"\r\n0123456789" + sent)
        first, _, second = all_of(connection).partition(b"10 bytes")
        assert first.startswith(b"HTTP/1.1 200")
        assert error_in(second, 408)


def test_a_slow_request_for_the_head_alone_is_ended_too(hurried: int) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD.replace(b"POST", b"HEAD") + b"\r\n12345")
        head, _, body = all_of(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert body == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 600,  # https
    ],
)
def test_what_is_no_request_is_answered_400(hurried: int, sent: bytes) -> None:
    with connected(hurried) as connection:
        connection.sendall(sent)
        assert error_in(all_of(connection), 400)["type"] == "invalid_request_error"


def test_a_client_that_never_reads_is_given_up(server: RunningServer) -> None:
    ended = threading.Event()

    async def endless(request: Request) -> Response:
        async def text() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(text())

    with served_on(server, Limits(send_seconds=0.2), Route("/endless", endless)) as port, connected(port) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(SECONDS)


def test_a_client_that_reads_slowly_gets_its_answer(server: RunningServer) -> None:
    size = 12 << 20

    async def large(request: Request) -> Response:
        return Response(b"x" * size)

    with served_on(server, Limits(send_seconds=1), Route("/large", large)) as port, connected(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = 0
        while data := connection.recv(1 << 18):
            received += len(data)
            time.sleep(0.05)  # so that it takes longer than a client may be silent
        assert received > size


def test_a_thousand_connections_leave_the_server_useful(server: RunningServer) -> None:
    limits = Limits(connections=20, header_seconds=SECONDS)
    with served_on(server, limits) as port:
        connections = [connected(port) for _ in range(1000)]
        try:
            assert [all_of(connection) for connection in connections[-800:]] == [b""] * 800
            first = connections[0]
            first.sendall(HEAD + b"\r\n0123456789")
            read_to(first, b"10 bytes")
            # The first one is idle now, and would give its place to a new one.
            for connection in connections[30:60]:
                connection.sendall(HEAD + b"\r\n0123456789")
            found = [all_of(connection) for connection in connections[30:60]]
            assert all(error_in(answer, 503)["code"] == "server_overloaded" for answer in found)
            assert b"retry-after: 5" in found[0]
        finally:
            for connection in connections:
                connection.close()
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            answers = (client.post("/echo", content=b"x") for _ in range(1000))
            assert any(answer.status_code == 200 for answer in answers)


def failed(*arguments: str, home: Path) -> str:
    """What a command prints that ends with status 1."""
    done = CliRunner().invoke(main, ["serve", *arguments], env={"PARAKEET_HOME": str(home)})
    assert done.exit_code == 1, done.output
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
    return done.output


def test_what_cannot_be_served_is_one_message(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("")
    with closing(listen("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"Port {port} of 127.0.0.1 is taken" in failed("--port", port, home=tmp_path)
    assert "is no address of this machine" in failed("--host", "192.0.2.1", home=tmp_path)
    assert "There is no host '..'" in failed("--host", "..", home=tmp_path)
    assert "--api-key-file, or --no-key" in failed("--host", "0.0.0.0", "--port", "0", home=tmp_path)
    assert "is empty" in failed("--api-key-file", str(key), home=tmp_path)
    assert "parakeet build" in failed("--port", "0", home=tmp_path)
    assert "no file or folder ./nowhere" in failed("./nowhere", "--port", "0", home=tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [("demo", "--run", "3fa9"), ("demo", "--follow"), ("--api-key-file", "key", "--no-key"), ("--port", "65536")],
)
def test_options_that_contradict_each_other_are_refused(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["serve", *arguments]).exit_code == 2


def promote(home: Path, folder: Path, name: str) -> Path:
    """Make a copy of a release the promoted one of a home, under another name."""
    release = home / "releases" / f"{name}-0"
    shutil.copytree(folder, release)
    file = release / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"name": name}), encoding="utf-8")
    write_sums(release)
    latest = home / "releases" / "latest"
    latest.with_suffix(".next").symlink_to(release.name)
    os.replace(latest.with_suffix(".next"), latest)
    return release


@contextmanager
def process_of(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """A server in a process of its own, once it is ready."""
    command = [sys.executable, "-m", "parakeet.cli", "serve", "--port", "0", "--threads", "1", *arguments]
    environment = {**os.environ, "PARAKEET_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    try:
        url = line_with(process, "Serving ").partition(" at ")[2].split()[0]
        with httpx2.Client(base_url=url, timeout=SECONDS) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line of the output with a text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError("".join(lines))


def text_of(lines: Iterator[str]) -> Iterator[dict]:
    """The events of a stream."""
    yield from (json.loads(line[6:]) for line in lines if line.startswith("data: {"))


@contextmanager
def endless_reply(client: httpx2.Client) -> Iterator[Iterator[dict]]:
    """The events of a reply that does not end, after the first."""
    controls = client.get("/v1/tokenizer").json()["controls"]
    body = {"prompt": "Once upon a time", "stream": True, "max_tokens": 1_000_000, "rolling": True}
    body["logit_bias"] = {str(token_id): -100 for token_id in controls.values()}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        events = text_of(answer.iter_lines())
        next(events)
        yield events


def requests_running(client: httpx2.Client) -> float:
    """Apart from the one that asks."""
    return parsed(client.get("/metrics").text)["parakeet_requests_running", ()] - 1


def test_a_promoted_release_is_taken_up_while_replies_go_on(served_model: Path, tmp_path: Path) -> None:
    first = promote(tmp_path, served_model, "first")
    # In int8 the embedding's rows stay in fp32: those are what a file that is cut would take away.
    with process_of(tmp_path, "--follow", "--dtype", "int8") as (process, client):
        with endless_reply(client) as events:
            second = promote(tmp_path, served_model, "second")
            assert "Now serving second (second-0, int8)." in line_with(process, "Now ")
            assert client.get("/v1/models").json()["data"][0]["id"] == "second"
            # The folder may go, and the reply goes on.
            shutil.rmtree(first)
            assert requests_running(client) == 1
            assert {event["model"] for event, _ in zip(events, range(100), strict=False)} == {"first"}
            (second / "model.safetensors").write_bytes(b"")
            body = {"prompt": list(range(400)), "max_tokens": 5}
            assert client.post("/v1/completions", json=body).json()["model"] == "second"
        while requests_running(client):
            pass
        third = promote(tmp_path, served_model, "third")
        (third / "model.safetensors").write_bytes(b"")
        assert "second is served on" in line_with(process, "third")
        process.send_signal(signal.SIGHUP)
        assert "second is served on" in line_with(process, "third")
        assert client.get("/health").json() == {"status": "ok"}
        # What a client is still sent is ended with a message, and the process with status 0.
        with endless_reply(client) as events:
            process.terminate()
            next(events)
            process.terminate()  # waits for nobody
            *_, last = events
            assert last["error"]["code"] == "server_stopping"
        assert process.wait(SECONDS) == 0


def test_a_key_guards_a_process_and_ctrl_c_ends_it(served_model: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    arguments = (str(served_model), "--host", "0.0.0.0", "--api-key-file", str(tmp_path / "key"))
    with process_of(tmp_path, *arguments) as (process, client):
        assert client.get("/v1/models").status_code == 401
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"prompt": "Hello", "max_tokens": 20, "temperature": 0}
        assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
        page = client.get("/metrics", headers=headers).text
        assert 'parakeet_requests_total{route="/v1/completions",method="POST",status="200"} 1' in page
        assert "parakeet_first_token_seconds_count 1" in page
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_a_process_that_loads_its_model_shows_the_page_and_takes_signals(served_model: Path) -> None:
    with closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "parakeet.cli", "serve", str(served_model), "--port", str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client,
    ):
        while not _listens(process.pid):
            assert process.poll() is None
            time.sleep(0.05)  # it needs the processor to come so far
        assert client.get("/").headers["content-type"].startswith("text/html")
        process.send_signal(signal.SIGHUP)  # takes up what is promoted then
        assert client.get("/health").json()["status"] in ("loading", "ok")
        process.terminate()
        output, _ = process.communicate(timeout=SECONDS)
        # It may have been ready just before.
        assert process.returncode == 0, output
        assert "Traceback" not in output


def _listens(pid: int) -> bool:
    """Whether a process has a socket."""
    folder = Path(f"/proc/{pid}/fd")
    links = []
    for file in folder.iterdir():
        try:
            links.append(os.readlink(file))
        except OSError:
            continue
    return any(link.startswith("socket:") for link in links)
