"""The thread that computes: requests in, steps out."""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator

import torch

from parakeet.errors import ParakeetError
from parakeet.generation.batch import Batch, Job, Request, Scored
from parakeet.generation.engine import Engine
from parakeet.generation.steps import Step, Timing

SMOOTHING = 0.2
"""Weight of the newest reply in the estimate of how long one takes."""


class Busy(ParakeetError):
    """The queue is full."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"All places in the queue are taken: try again in {max(1, round(seconds))} s.")
        self.seconds = seconds


class Stream:
    """The replies to one request, as they grow. To be read once, in the event loop of its worker."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.timings: list[Timing] = [Timing(prompt_tokens=len(request.prompt_ids)) for _ in request.settings]
        """Of each reply, complete at its last step. `first_token_seconds` counts the time in the queue too."""
        self.prompt_scores: list[Scored] = []
        """With `score_prompt`: of each token of the prompt, before the first step."""
        self.cancelled = False
        self.job: Job | None = None
        """Once it was started. Of the worker's thread."""
        self.submitted = time.perf_counter()
        self.started = 0.0
        """When it left the queue."""
        self._steps: deque[tuple[int, Step]] = deque()
        self._error: Exception | None = None
        self._ended = False
        self._news = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        """(number of the reply, step). Raises ParakeetError if generation fails."""
        try:
            while True:
                while self._steps:
                    yield self._steps.popleft()
                if self._ended:
                    break
                self._news.clear()
                await self._news.wait()
            if self._error is not None:
                raise self._error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give its place up. Nothing more is computed for it after the present step."""
        self.cancelled = True
        if self.job is not None:
            self.job.cancelled = True

    def deliver(self, steps: list[tuple[int, Step]], ended: bool, error: Exception | None = None) -> None:
        """For the worker, in the event loop."""
        self._steps += steps
        self._ended, self._error = ended, error
        self._news.set()


class Worker:
    """Generates for all requests on a thread of its own. Its methods are for the event loop that made it."""

    def __init__(self, engine: Engine, batch: int = 8, most_waiting: int = 64) -> None:
        """At most `batch` replies at once; a request may wait while those that wait have fewer than `most_waiting`."""
        self.engine = engine
        self.batch, self.most_waiting = batch, most_waiting
        self.running = 0
        """Replies that grow, or whose prompt is read."""
        self._loop = asyncio.get_running_loop()
        self._seconds = 5.0
        """How long a reply takes once it has a place, by the latest ones."""
        self._waiting: deque[Stream] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._batch = Batch(engine, batch)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Replies in the queue."""
        with self._changed:
            return sum(max(1, len(stream.request.settings)) for stream in self._waiting if not stream.cancelled)

    def submit(self, request: Request) -> Stream:
        """Start a request, or let it wait for its turn.

        Raises Busy if too many wait, and ParakeetError if the prompt is empty or does not fit the context, or if it
        wants more replies than are made at once.
        """
        self.engine.check_prompt(request.prompt_ids)
        if len(request.settings) > self.batch:
            raise ParakeetError(f"{len(request.settings)} replies were asked for, but {self.batch} are made at once.")
        if self.waiting >= self.most_waiting:
            raise Busy(self.waiting * self._seconds / self.batch)
        stream = Stream(request)
        with self._changed:
            if self._closing:
                raise ParakeetError("The server is stopping.")
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    async def close(self) -> None:
        """Finish what was submitted, then end the thread. Streams that nobody reads must be cancelled first."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        torch.set_num_threads(self.engine.threads)
        streams: list[Stream] = []
        batch = self._batch
        while True:
            with self._changed:
                while not (self._waiting or streams or self._closing):
                    self._changed.wait()
                if self._closing and not (self._waiting or streams):
                    return
                started = self._next(batch)
            try:
                for stream in started:
                    self._start(batch, stream, streams)
                found = batch.advance()
            except Exception as error:  # such as no memory on a GPU: the replies end, and the server goes on
                traceback.print_exception(error)
                batch.abandon()
                self.running = 0
                for stream in {*streams, *started}:
                    self._deliver(
                        stream, [], True, ParakeetError("The generation failed. The server's terminal says why.")
                    )
                streams = []
                continue
            self._hand_out(streams, found)
            streams = [stream for stream in streams if stream.job is not None and not stream.job.done]
            self.running = self.batch - batch.free

    def _next(self, batch: Batch) -> list[Stream]:
        """The streams from the front of the queue that have a place now. The one in front waits for all its places."""
        started, free = [], batch.free
        while self._waiting:
            count = max(1, len(self._waiting[0].request.settings))
            if not self._waiting[0].cancelled and count > free:
                break
            stream = self._waiting.popleft()
            if stream.cancelled:
                continue
            started.append(stream)
            free -= count
        return started

    def _start(self, batch: Batch, stream: Stream, streams: list[Stream]) -> None:
        try:
            job = batch.start(stream.request)
        except ParakeetError as error:
            self._deliver(stream, [], True, error)
            return
        stream.timings, stream.prompt_scores, stream.job = job.timings, job.prompt_scores, job
        stream.started = time.perf_counter()
        if stream.cancelled:  # meanwhile; `cancel` may be setting the same at this moment
            job.cancelled = True
        streams.append(stream)

    def _hand_out(self, streams: list[Stream], found: list[tuple[Job, int, Step]]) -> None:
        for stream in streams:
            job = stream.job
            assert job is not None
            steps = [(index, step) for owner, index, step in found if owner is job]
            for index, step in steps:
                if job.timings[index].reply_tokens == 1 and step.token_id is not None:
                    job.timings[index].first_token_seconds = time.perf_counter() - stream.submitted
            if job.done and not job.cancelled:
                self._seconds += SMOOTHING * (time.perf_counter() - stream.started - self._seconds)
            if steps or job.done:
                self._deliver(stream, steps, job.done, job.error)

    def _deliver(self, stream: Stream, steps: list[tuple[int, Step]], ended: bool, error: Exception | None) -> None:
        # The loop is closed if the process ends without waiting for this thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(stream.deliver, steps, ended, error)
