"""`parakeet serve`: the application on a port, from the first request to the last."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvicorn
from starlette.applications import Starlette

from parakeet.chat.models import ModelOpener, OpenedModel
from parakeet.errors import INTERRUPTED, ParakeetError, os_reason
from parakeet.home import home
from parakeet.server.app import make_app
from parakeet.server.limits import Limits

if TYPE_CHECKING:
    from parakeet.server.served import Served

T = TypeVar("T")


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
    batch: int = 8
    dtype: str = "auto"
    cache_dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    open_browser: bool = False
    limits: Limits = field(default_factory=Limits)


def serve(options: ServeOptions, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit status. `say` prints a line.

    Raises ParakeetError if the port cannot be used, or there is no such model.
    """
    listener = listen(options.host, options.port)
    return asyncio.run(_Serving(options, listener, say).run())


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ParakeetError if the address is not one of this machine, or taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ParakeetError(f"There is no host {host!r}: give --host an address of this machine.") from None
    # "localhost" is two addresses, and more programs try the older kind alone than the newer alone.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
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
    port = listener.getsockname()[1]
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "localhost"
        elif address.version == 6:
            host = f"[{host}]"
    except ValueError:
        pass  # a name
    return f"http://{host}:{port}/"


class _Serving:
    """One run of the server."""

    def __init__(self, options: ServeOptions, listener: socket.socket, say: Callable[[str], None]) -> None:
        self.options, self.listener, self.say = options, listener, say
        self.root: Path = home()
        self.opener = ModelOpener(self.root, options.device, options.dtype, options.threads or 0, options.cache_dtype)
        self.app: Starlette = make_app(None)
        limits = options.limits
        self.server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                workers=1,
                timeout_keep_alive=limits.keep_alive_seconds,
                timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
            )
        )

    async def run(self) -> int:
        # uvicorn has handlers of its own while it serves. At its end it raises what it caught once more.
        caught: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: caught.append(received))
        serving = asyncio.create_task(self.server.serve([self.listener]))
        loading = asyncio.create_task(self._load())
        await asyncio.wait([serving, loading], return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None:
            self.server.should_exit = True
            await serving
            loading.result()
        await serving
        if self.app.state.served is not None:
            await self.app.state.served.worker.close()
        status = INTERRUPTED if signal.SIGINT in caught else 0
        if not loading.done():
            # A thread that imports torch cannot be ended, and nothing is open.
            os._exit(status)
        return status

    async def _load(self) -> None:
        opened = await in_thread(lambda: self.opener.open(self.options.model, self.options.run))
        for note in opened.notes:
            self.say(note)
        self.app.state.served = self._served(opened)
        url = url_of(self.options.host, self.listener)
        self.say(f"Serving {opened.release.name} ({opened.engine.dtype}) at {url}  (Ctrl-C ends)")
        sys.stdout.flush()
        if self.options.open_browser:
            await in_thread(lambda: webbrowser.open(url))

    def _served(self, opened: OpenedModel) -> "Served":
        from parakeet.server.served import Served
        from parakeet.server.worker import Worker

        created = int(opened.release.directory.stat().st_mtime)
        return Served(opened.release, Worker(opened.engine, self.options.batch), self.root, created)


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, in a thread that does not keep the process when it is told to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_unless_cancelled(set_it: Callable[[], None]) -> None:
        if not future.cancelled():
            set_it()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            fault = error
            loop.call_soon_threadsafe(set_unless_cancelled, lambda: future.set_exception(fault))
        else:
            loop.call_soon_threadsafe(set_unless_cancelled, lambda: future.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await future
