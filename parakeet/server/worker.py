"""The thread that computes: requests in, steps out."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request, Scored
from parakeet.generation.engine import Engine, Step, Timing


class Busy(ParakeetError):
    """The queue is full."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"All places in the queue are taken: try again in {seconds:.0f} s.")
        self.seconds = seconds


class Stream:
    """The replies to one request, as they grow."""

    def __init__(self, worker: "Worker", request: Request) -> None:
        self.request = request
        self.timings: list[Timing] = [Timing() for _ in request.settings]
        """Of each reply, complete at its last step."""
        self.prompt_scores: list[Scored] = []
        """With `score_prompt`: of each token of the prompt, before the first step."""
        self.cancelled = False
        self.queue: asyncio.Queue[tuple[int, Step] | Exception | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        return self._steps()

    async def _steps(self) -> AsyncIterator[tuple[int, Step]]:
        """(number of the reply, step); raises ParakeetError if generation fails."""
        try:
            while (found := await self.queue.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give its place up. Nothing more is computed for it after the present step."""
        self.cancelled = True


class Worker:
    """Generates for all requests on a thread of its own. Its methods are for the event loop that made it."""

    def __init__(self, engine: Engine, batch: int = 8, most_waiting: int = 64) -> None:
        """At most `batch` replies at once, and `most_waiting` more replies wait."""
        self.engine = engine
        self.most_waiting = most_waiting
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Stream] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """Start a request.

        Raises Busy if too many wait, and ParakeetError if the prompt is empty or does not fit the context.
        """
        self.engine.check_prompt(request.prompt_ids)
        stream = Stream(self, request)
        with self._wake:
            if sum(len(each.request.settings) for each in self._waiting) >= self.most_waiting:
                raise Busy(5)
            self._waiting.append(stream)
            self._wake.notify()
        return stream

    async def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if not self._waiting:
                    return
                stream = self._waiting.popleft()
            try:
                for index, settings in enumerate(stream.request.settings):
                    for step in self.engine.generate(stream.request.prompt_ids, settings, True):
                        if stream.cancelled:
                            break
                        stream.timings[index] = self.engine.timing
                        self._loop.call_soon_threadsafe(stream.queue.put_nowait, (index, step))
            except ParakeetError as error:
                self._loop.call_soon_threadsafe(stream.queue.put_nowait, error)
            self._loop.call_soon_threadsafe(stream.queue.put_nowait, None)
