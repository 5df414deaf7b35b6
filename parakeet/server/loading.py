"""The model that is served, and the newer one that takes its place without a request being lost."""

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette

from parakeet.chat.models import ModelOpener, OpenedModel, find_release
from parakeet.chat.storage import session_header
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.release.listing import latest_model_folder
from parakeet.server.metrics import MeasuredWorker
from parakeet.server.served import Served

T = TypeVar("T")

FOLLOW_SECONDS = 1.0
"""Between two looks at where the pointer of the promoted release leads."""


@dataclass
class Loading:
    """Opens the model that was asked for, and opens it again when it may be another one."""

    app: Starlette
    opener: ModelOpener
    model: str | None
    """A release's folder or name. None is the promoted one."""
    run: str | None
    batch: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._unusable: Path | None = None
        """The promoted release that could not be loaded."""

    @property
    def present(self) -> Served | None:
        found: Served | None = self.app.state.served
        return found

    @property
    def is_running(self) -> bool:
        """Whether a model is being opened."""
        return self._lock.locked()

    async def load(self) -> Served:
        """Open the model for the first time. Raises ParakeetError if it cannot be opened."""
        async with self._lock:
            self.app.state.served = served = self._served(await in_thread(self._open))
            return served

    async def reload(self) -> None:
        """Take up the model that is meant now, if it is another one. If it cannot be loaded, the present one stays."""
        async with self._lock:
            old = self.present
            if old is None:
                return
            folder: Path | None = None
            try:
                folder = await in_thread(self._folder)
                if folder is not None and folder == old.release.directory.resolve():
                    self.say(f"{old.name} ({old.release.directory.name}) is still the newest.")
                    return
                opened = await in_thread(lambda: self._open_after(old, folder))
            except (ParakeetError, OSError, RuntimeError, MemoryError) as error:  # such as no memory on a GPU
                self._unusable = folder
                why = str(error) or type(error).__name__
                self.say(f"{old.name} is served on: the newer model cannot be loaded. {why}")
                return
            if folder is None and opened.release.weights_sha256 == old.release.weights_sha256:
                self.say(f"{old.name} ({old.release.directory.name}) is still the newest.")
                return
            self.app.state.served = new = self._served(opened)
            self.say(f"Now serving {new.name} ({new.release.directory.name}, {opened.engine.dtype}).")
            closing = asyncio.create_task(self._close(old))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def follow(self) -> None:
        """Take up each release that is promoted, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            old = self.present
            try:
                folder = await in_thread(self._folder)
            except (ParakeetError, OSError):
                continue  # a store that is cleaned or moved at this moment
            if old is not None and folder not in (old.release.directory.resolve(), self._unusable):
                await self.reload()

    async def close(self) -> None:
        """End the workers, once they have finished what they were given."""
        await asyncio.gather(*self._closing)
        if self.present is not None:
            await self.present.worker.close()

    async def _close(self, old: Served) -> None:
        """End a worker that is no longer served, once no request can give it work."""
        await self.app.state.traffic.finished()
        await old.worker.close()
        del old
        gc.collect()

    def _folder(self) -> Path | None:
        """The release that is meant now; None if a run is."""
        if self.run is not None:
            return None
        root = self.opener.root
        return (latest_model_folder(root) if self.model is None else find_release(root, self.model)).resolve()

    def _open(self) -> OpenedModel:
        opened = self.opener.open(self.model, self.run)
        opened.engine.model.hold_embedding()
        return opened

    def _open_after(self, old: Served, folder: Path | None) -> OpenedModel:
        """Open the model that is meant now. One of the same shape runs with the precision of the old one."""
        engine, release = old.worker.engine, old.release
        opener = self.opener
        if folder is None or ModelConfig.load(folder) == engine.model.config:
            # `auto` measures, and a server that is generating would be measured with it.
            opener = opener.as_recorded(session_header(engine, release.name, release.weights_sha256))
        opened = opener.open(self.model, self.run)
        opened.engine.model.hold_embedding()
        return opened

    def _served(self, opened: OpenedModel) -> Served:
        for note in opened.notes:
            self.say(note)
        worker = MeasuredWorker(opened.engine, self.app.state.metrics, self.batch)
        created = int(opened.release.directory.stat().st_mtime)
        return Served(opened.release, worker, self.opener.root, created)


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, in a thread that does not keep the process when it is told to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(set_it: Callable[[], None]) -> None:
        if not future.cancelled():
            set_it()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            fault = error
            done = partial(finish, lambda: future.set_exception(fault))
        else:
            done = partial(finish, lambda: future.set_result(result))
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(done)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await future
