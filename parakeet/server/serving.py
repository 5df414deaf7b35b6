"""`parakeet serve`: the application on a port, from the first request to the last."""

import asyncio
import errno
import ipaddress
import logging
import os
import resource
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from parakeet.api_key import read_key
from parakeet.chat.models import ModelOpener
from parakeet.errors import INTERRUPTED, ParakeetError, os_reason
from parakeet.home import home
from parakeet.server.app import make_app
from parakeet.server.guards import LOOPBACK_NAMES, Access, Traffic
from parakeet.server.limits import Limits
from parakeet.server.loading import Loading, in_thread
from parakeet.server.protocol import Protocol
from parakeet.server.session_routes import close_sessions

BACKLOG = 1024
"""Connections that the system keeps for a server that is busy."""


@dataclass(frozen=True)
class ServeOptions:
    """The options of `parakeet serve`, by the names that parakeet/cli/serve.py gives them."""

    model: str | None = None
    """A release's folder or name, None for the promoted one."""
    run: str | None = None
    """A training run, KEY or KEY@STEP, in place of a release."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 is any free one."""
    api_key_file: Path | None = None
    no_key: bool = False
    """Whether other machines may connect without a key."""
    batch: int = 8
    dtype: str = "auto"
    cache_dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    follow: bool = False
    """Whether each newly promoted release is taken up."""
    open_browser: bool = False
    limits: Limits = field(default_factory=Limits)


def serve(options: ServeOptions, say: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit status. `say` prints a line, `warn` one to standard error.

    Raises ParakeetError if the port cannot be used, the key cannot be read, or there is no such model.
    """
    key = None if options.api_key_file is None else read_key(options.api_key_file).encode("ascii")
    listener = listen(options.host, options.port)
    address = listener.getsockname()[0]
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback and key is None:
        if not options.no_key:
            listener.close()
            raise ParakeetError(
                f"Other machines can reach {options.host}: give a key with --api-key-file, or --no-key if everybody "
                "who reaches this machine may use the model, and read, change and delete your conversations."
            )
        warn(
            f"There is no API key: everybody who reaches {options.host} can use the model, and read, change and delete "
            "your conversations."
        )
    own = socket.gethostname().lower()
    access = Access(key, LOOPBACK_NAMES | {options.host.lower(), own, f"{own}.local"})
    _allow_many_files()
    # It warns of each write to a client that has gone.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return asyncio.run(_serve(options, access, listener, say, warn))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ParakeetError if the address is not one of this machine, or taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ParakeetError(f"There is no host {host!r}: give --host an address of this machine.") from None
    # "localhost" is two addresses, and some programs try only the older kind.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    # asyncio turns Nagle's algorithm off for sockets of this protocol only: with it, answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ParakeetError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is taken: end the program that uses it, or give another one with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: give --host one of its own, such as 127.0.0.1."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} needs an administrator's rights: give one above 1023 with --port."
    return f"Nothing can be served on {host}, port {port}: {os_reason(error)}."


def url_of(host: str, listener: socket.socket) -> str:
    """The address for a browser on this machine."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "localhost"
        elif address.version == 6:
            host = f"[{host}]"
    return f"http://{host}:{listener.getsockname()[1]}/"


def _allow_many_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 unless a program asks for more."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, min(most, 1 << 16)), most))


async def _serve(
    options: ServeOptions,
    access: Access,
    listener: socket.socket,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> int:
    url = url_of(options.host, listener)
    app = make_app(None, access, options.limits)
    opener = ModelOpener(home(), options.device, options.dtype, options.threads or 0, options.cache_dtype)
    loading = Loading(app, opener, options.model, options.run, options.batch, _unless_closed(warn))
    server = _Server(configuration(app, options.limits), app.state.traffic, options.limits.drain_seconds)
    others: list[asyncio.Task[None]] = []
    with _signals(server) as caught:
        _reload_at_hangup(loading, server)
        serving = asyncio.create_task(server.serve([listener]))
        first = asyncio.create_task(loading.load())
        await asyncio.wait([serving, first], return_when=asyncio.FIRST_COMPLETED)
        if first.done() and first.exception() is None and not server.should_exit:
            served = first.result()
            say(f"Serving {served.name} ({served.worker.engine.dtype}) at {url}  (Ctrl-C ends)")
            if options.follow:
                others.append(asyncio.create_task(loading.follow()))
            if options.open_browser:
                others.append(asyncio.create_task(in_thread(partial(_open_browser, url))))
        else:
            server.should_exit = True
        await serving
    for task in others:
        task.cancel()
    status = INTERRUPTED if signal.SIGINT in caught else 0
    if not first.done():
        os._exit(status)  # the thread that loads cannot be ended, and nothing is open
    first.result()
    await close_sessions(app)
    await loading.close()
    if loading.is_running:
        os._exit(status)  # as above
    return status


def configuration(app: Starlette, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs the application: with our protocol, and quiet."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=partial(Protocol, limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(limits.keep_alive_seconds),
        # The server ends requests itself before that.
        timeout_graceful_shutdown=round(limits.drain_seconds) + 5,
    )


class _Server(uvicorn.Server):
    """Tells the requests that still run after `drain_seconds`, or at a second signal, that the server stops."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic, drain_seconds: float) -> None:
        super().__init__(config)
        self._traffic, self._drain_seconds = traffic, drain_seconds
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._loop.call_soon_threadsafe(self._traffic.stop)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stop = self._loop.call_later(self._drain_seconds, self._traffic.stop)
        await super().shutdown(sockets)
        stop.cancel()
        # uvicorn waits for nothing after a second Ctrl-C.
        self._traffic.stop()
        await self._traffic.finished()


@contextmanager
def _signals(server: uvicorn.Server) -> Iterator[list[int]]:
    """Notes SIGINT and SIGTERM. uvicorn, which handles them while it serves, raises them once more at its end."""
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)
        server.should_exit = True  # also if uvicorn does not serve yet

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reload_at_hangup(loading: Loading, server: uvicorn.Server) -> None:
    """SIGHUP takes up a newer model. If it comes because the terminal was closed, the server ends."""
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]
    tasks = set()

    def hang_up() -> None:
        if terminals and not any(os.isatty(number) for number in terminals):
            server.should_exit = True
            return
        task = asyncio.create_task(loading.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def _open_browser(url: str) -> None:
    webbrowser.open(url)


def _unless_closed(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` for messages that nobody need read: the server goes on without its terminal."""

    def say_if_possible(text: str) -> None:
        with suppress(OSError):
            say(text)

    return say_if_possible
