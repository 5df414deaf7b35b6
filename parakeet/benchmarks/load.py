"""The load that servers are measured with: one stream, many at once, and a long prompt beside others."""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from parakeet.benchmarks.loopback import Streamed, stream
from parakeet.benchmarks.speaking import Messages
from parakeet.benchmarks.timing import Sample
from parakeet.formatting import render_table

STREAMS, BESIDE = 8, 4
"""Replies at once; and those that go on while a long prompt is read."""
TOKENS = 64
"""Of each reply, or of it while it is measured."""
LONGEST = 2048
"""Most tokens of a reply that is stopped. Beside it a long prompt is read, which takes a minute on a busy machine."""
SETTLED = 8
"""Tokens of each stream before anything is measured of it. Prompts are read one after the other."""
SHORT, LONG = 16, 512
"""Tokens of the prompts whose first token is timed."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "most": 1.0}
"""Of the gaps between tokens."""
ARRIVING = (512, 2000)
"""Tokens of the prompts that arrive while others stream."""


@dataclass(frozen=True)
class Case:
    """A message, and how its reply is drawn."""

    message: str
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """Sizes that fit the model's context, in tokens."""

    short: int
    long: int
    tokens: int
    arriving: tuple[int, ...]
    longest: int
    """Most tokens of the replies that are stopped."""

    @classmethod
    def of(cls, context: int) -> "Plan":
        most = context // 2
        arriving = tuple(sorted({min(tokens, most) for tokens in ARRIVING}))
        longest = min(LONGEST, most)
        return cls(min(SHORT, context // 4), min(LONG, most), min(TOKENS, context // 4), arriving, longest)


@dataclass
class Figures:
    """What was measured, one value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)
    gaps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds between tokens, of all streams and rounds."""
    client_seconds: float = 0.0
    """CPU time of the client while `client_tokens` came."""
    client_tokens: int = 0
    rounds: int = 0

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def add_gaps(self, name: str, gaps: Sequence[float]) -> None:
        self.gaps.setdefault(name, []).extend(gaps)

    def gap(self, name: str, share: float) -> float:
        """The gap that so large a share of them does not exceed, by the nearest rank."""
        ordered = sorted(self.gaps[name])
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    @property
    def client_cost(self) -> float:
        """CPU seconds of the client for a token."""
        return self.client_seconds / max(1, self.client_tokens)

    def as_json(self) -> dict[str, Any]:
        return {
            "figures": {name: Sample.of(values).as_json() for name, values in self.values.items()},
            "gaps": {
                name: {key: float(f"{self.gap(name, share):.4g}") for key, share in QUANTILES.items()}
                | {"number": len(gaps)}
                for name, gaps in self.gaps.items()
                if gaps
            },
            "client_cpu_seconds_per_token": float(f"{self.client_cost:.3g}"),
            "rounds": self.rounds,
        }


@dataclass(frozen=True)
class Client:
    """Asks one server. The figures of a round have the same names for every server."""

    process: psutil.Process
    port: int
    path: str
    body: Callable[[Case], dict[str, Any]]
    """Of the request for a case: one that streams."""
    messages: Messages
    plan: Plan

    async def warm_up(self) -> None:
        """Let the server use all its batch once."""
        await asyncio.gather(*(self._reply(self._case(4, 1_000 + number)) for number in range(STREAMS)))

    async def alone(self, figures: Figures, prompt: str, case: Case) -> Streamed:
        """One reply. With the `short` prompt its rate counts, with the `long` one only its first token."""
        spent = self._cpu_seconds()
        reply = await self._reply(case)
        figures.add(f"first token, {prompt} prompt", reply.first_token_seconds)
        if prompt == "short":
            figures.add("1 stream, tokens/s", reply.decode_rate)
            figures.add("1 stream, CPU time/token", (self._cpu_seconds() - spent) / len(reply.arrivals))
            figures.add_gaps("1 stream", reply.gaps())
        return reply

    async def at_once(self, figures: Figures, number: int) -> None:
        """STREAMS replies at once. The rates are those while all of them stream."""
        name = f"{STREAMS} streams"
        async with self._streaming(STREAMS, 100 * number) as streaming:
            await streaming.until(SETTLED)
            since, spent, served = time.perf_counter(), time.process_time(), self._cpu_seconds()
            settled = max(len(reply.arrivals) for reply in streaming.replies)
            before = streaming.tokens
            await streaming.until(settled + self.plan.tokens)
            until, tokens = time.perf_counter(), streaming.tokens - before
            figures.client_seconds += time.process_time() - spent
            figures.client_tokens += tokens
            figures.add(f"{name}, tokens/s", tokens / (until - since))
            figures.add(f"{name}, CPU time/token", (self._cpu_seconds() - served) / tokens)
        replies = streaming.replies
        last = max(reply.arrivals[0] for reply in replies) - min(reply.began for reply in replies)
        figures.add(f"{name}: first token of the last one", last)
        figures.add_gaps(name, [gap for reply in replies for gap in reply.gaps(since, until)])

    async def beside(self, figures: Figures, number: int, tokens: int) -> None:
        """A prompt of so many tokens arrives while BESIDE replies stream: their gaps before and until its first token.

        The replies are then stopped by closing their connections.
        """
        arriving = Case(self.messages.text(tokens, 10_000 + 100 * number + tokens), 2, number)
        async with self._streaming(BESIDE, 100 * number + 50) as streaming:
            await streaming.until(SETTLED)
            settled = time.perf_counter()
            await streaming.until(3 * SETTLED)
            long = await self._reply(arriving)
            # A gap that is open at its first token is one of those that the prompt made.
            await streaming.until(1 + max(len(reply.arrivals) for reply in streaming.replies))
        name, replies = f"{BESIDE} streams, a prompt of {tokens:,} arrives", streaming.replies
        figures.add(f"{name}: its first token", long.first_token_seconds)
        figures.add_gaps(f"{BESIDE} streams", [gap for reply in replies for gap in reply.gaps(settled, long.began)])
        figures.add_gaps(name, [gap for reply in replies for gap in reply.gaps(long.began, long.arrivals[0])])

    @asynccontextmanager
    async def _streaming(self, count: int, seed: int) -> AsyncIterator["_Streaming"]:
        """Long replies that are stopped at the end, by closing their connections."""
        replies = [Streamed() for _ in range(count)]
        cases = [self._case(self.plan.longest, seed + place) for place in range(count)]
        tasks = [asyncio.create_task(self._reply(*each)) for each in zip(cases, replies, strict=True)]
        try:
            yield _Streaming(tasks, replies)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reply(self, case: Case, reply: Streamed | None = None) -> Streamed:
        return await stream(self.port, self.path, self.body(case), reply)

    def _case(self, max_tokens: int, seed: int) -> Case:
        return Case(self.messages.text(self.plan.short, 1_000_000 + seed), max_tokens, seed)

    def _cpu_seconds(self) -> float:
        """Of the server, all threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class _Streaming:
    tasks: Sequence["asyncio.Task[Streamed]"]
    replies: Sequence[Streamed]

    @property
    def tokens(self) -> int:
        return sum(len(reply.arrivals) for reply in self.replies)

    async def until(self, tokens: int) -> None:
        """Wait until each reply has so many tokens, or one of them ends."""
        while any(len(reply.arrivals) < tokens for reply in self.replies):
            if ended := [task for task in self.tasks if task.done()]:
                ended[0].result()  # raises what went wrong
                return
            await asyncio.sleep(0.01)


def median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median over rounds of one by the other."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(figures: Figures) -> str:
    """The figures, and the gaps between tokens."""
    rows = [[name, *cells(name, values)] for name, values in figures.values.items()]
    gaps = [
        [name, *(f"{1e3 * figures.gap(name, share):.0f}" for share in QUANTILES.values()), f"{len(found)}"]
        for name, found in figures.gaps.items()
        if found
    ]
    speeds = render_table(("", "median", "least", "most"), rows, right=range(1, 4))
    between = render_table(("ms between tokens", *QUANTILES, "gaps"), gaps, right=range(1, 5))
    return f"{speeds}\n\n{between}"


def cells(name: str, values: Sequence[float]) -> list[str]:
    """Median, least and most: of a rate or of seconds, by the name."""
    sample = Sample.of(values)
    rate = name.endswith("tokens/s")
    return [f"{value:.1f}" if rate else f"{1e3 * value:.1f} ms" for value in (sample.median, sample.low, sample.high)]
