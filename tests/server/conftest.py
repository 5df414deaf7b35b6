"""A tiny trained model and servers of it on loopback. Read the shared ones, never change them."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from parakeet.generation.engine import Engine, load_engine
from parakeet.release.verify import Release, open_release
from parakeet.server.app import ANYONE, make_app
from parakeet.server.guards import Access
from parakeet.server.served import Served
from parakeet.server.worker import Worker

from ..export.conftest import conversations, trained_release

__all__ = ["conversations", "trained_release"]


@dataclass(frozen=True)
class RunningServer:
    """A real server in a thread of this process."""

    url: str
    """Such as http://127.0.0.1:40123"""
    port: int
    root: Path
    """The folder of artefacts and sessions."""
    served: Served
    client: httpx2.Client
    """With `url` as its base."""

    @property
    def release(self) -> Release:
        return self.served.release

    def events(self, path: str, body: Any) -> list[Any]:
        """The data of each event of a streamed answer, up to and without [DONE]."""
        with self.client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            data = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(each) for each in data[:-1]]


@contextmanager
def running_server(
    folder: Path, root: Path, batch: int = 4, most_waiting: int = 16, access: Access = ANYONE
) -> Iterator[RunningServer]:
    """A server of the release in `folder` on a free port, in fp32."""
    release = open_release(folder)
    engine = load_engine(folder, "cpu", "fp32", threads=1)
    # Told that it is TCP, or asyncio would not turn off Nagle's algorithm: 40 ms for each answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    started = threading.Event()
    found: list[tuple[Served, uvicorn.Server]] = []

    async def serve() -> None:
        served = Served(release, Worker(engine, batch, most_waiting), root, created=1_700_000_000)
        config = uvicorn.Config(make_app(served, access), http="h11", log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        found.append((served, server))
        started.set()
        await server.serve(sockets=[listener])
        await served.worker.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    assert started.wait(60)
    served, server = found[0]
    url = f"http://127.0.0.1:{port}"
    try:
        # The socket listens already: the first request waits until the server takes it.
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield RunningServer(url, port, root, served, client)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def served_model(trained_release: Path) -> Path:
    """The folder of a release: 3 layers, width 64, a BPE of 500 tokens, context 640; its replies are words."""
    return trained_release


@pytest.fixture(scope="session")
def served_engine(served_model: Path) -> Engine:
    """The same model for what a reply should be, in fp32 as the server has it."""
    return load_engine(served_model, "cpu", "fp32", threads=1)


@pytest.fixture(scope="session")
def server(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Shared by all tests of a session: leave no session files, requests or settings behind."""
    with running_server(served_model, tmp_path_factory.mktemp("served_root")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> httpx2.Client:
    """Of the shared server."""
    return server.client
