"""Figures of the server in Prometheus' text format, version 0.0.4."""

import bisect
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import psutil

from parakeet import __version__
from parakeet.generation.batch import Request
from parakeet.generation.engine import Engine
from parakeet.generation.steps import Step
from parakeet.server.worker import Stream, Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REQUEST_SECONDS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Histogram:
    """Counts of values up to each bound, their number and sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server counts from its start. For the event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.request_seconds = Histogram(REQUEST_SECONDS)
        self.tokens_read = self.tokens_kept = self.tokens_written = 0
        self.first_token_seconds = Histogram(FIRST_TOKEN_SECONDS)
        self.token_seconds = Histogram(TOKEN_SECONDS)

    def request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request. What a client may make up, paths and methods that are not known, is `other`."""
        self.requests[route or "other", method if method in METHODS else "other", status] += 1
        self.request_seconds.observe(seconds)

    def render(self, model: str | None, worker: Worker | None, requests_running: int) -> str:
        """The page that Prometheus reads. Without a model while it is loaded."""
        memory = psutil.Process().memory_info().rss
        lines: list[str] = []

        def add(name: str, kind: str, text: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP parakeet_{name} {text}", f"# TYPE parakeet_{name} {kind}"))
            lines.extend(f"parakeet_{sample}" for sample in samples)

        info = {"version": __version__}
        if model is not None and worker is not None:
            info |= {"model": model, "dtype": worker.engine.dtype}
        add("info", "gauge", "What is served.", [f"info{_labels(info)} 1"])
        requests = [
            f"requests_total{_labels({'route': route, 'method': method, 'status': status})} {count}"
            for (route, method, status), count in sorted(self.requests.items())
        ]
        add("requests_total", "counter", "Requests that were answered.", requests)
        for name, text, histogram in (
            ("request_seconds", "Seconds from a request to the end of its answer.", self.request_seconds),
            ("first_token_seconds", "Seconds from a request to its first token.", self.first_token_seconds),
            ("token_seconds", "Seconds between two tokens of a reply.", self.token_seconds),
        ):
            add(name, "histogram", text, histogram.samples(name))
        for name, kind, text, value in (
            ("requests_running", "gauge", "Requests that are being answered.", requests_running),
            ("running", "gauge", "Replies that grow, or whose prompt is read.", worker.running if worker else 0),
            ("waiting", "gauge", "Replies that wait for a place.", worker.waiting if worker else 0),
            ("prompt_tokens_total", "counter", "Tokens of prompts that were read.", self.tokens_read),
            ("kept_tokens_total", "counter", "Tokens of prompts that were read before.", self.tokens_kept),
            ("reply_tokens_total", "counter", "Tokens of replies that have ended.", self.tokens_written),
            ("resident_memory_bytes", "gauge", "Memory of the process.", memory),
        ):
            add(name, kind, text, [f"{name} {value}"])
        return "\n".join(lines) + "\n"


def _labels(values: dict[str, Any]) -> str:
    def quoted(value: Any) -> str:
        text = str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        return f'"{text}"'

    return "{" + ",".join(f"{name}={quoted(value)}" for name, value in values.items()) + "}"


class MeasuredWorker(Worker):
    """A worker whose streams are counted as they are read."""

    def __init__(self, engine: Engine, metrics: Metrics, batch: int) -> None:
        super().__init__(engine, batch)
        self._metrics = metrics

    def submit(self, request: Request) -> Stream:
        return MeasuredStream(super().submit(request), self._metrics)


class MeasuredStream(Stream):
    """Another stream, counted: it has that one's attributes."""

    def __init__(self, inner: Stream, metrics: Metrics) -> None:
        self._inner, self._metrics = inner, metrics
        self._submitted = time.perf_counter()
        self._last: dict[int, float] = {}
        """When the latest token of each reply came."""
        self._counted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        return self._measured()

    async def _measured(self) -> AsyncIterator[tuple[int, Step]]:
        try:
            async for index, step in self._inner:
                self._count(index, step)
                yield index, step
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._inner.cancel()
        if self._counted:
            return
        self._counted = True
        timings = self._inner.timings
        self._metrics.tokens_written += sum(timing.reply_tokens for timing in timings)
        # All replies have one prompt. One that left the queue before its turn was not read.
        for timing in timings[:1] if self._inner.job is not None else ():
            self._metrics.tokens_kept += timing.kept_tokens
            self._metrics.tokens_read += timing.prompt_tokens - timing.kept_tokens

    def _count(self, index: int, step: Step) -> None:
        if step.token_id is None:
            return
        now = time.perf_counter()
        if index in self._last:
            self._metrics.token_seconds.observe(now - self._last[index])
        elif not self._last:
            self._metrics.first_token_seconds.observe(now - self._submitted)
        self._last[index] = now
