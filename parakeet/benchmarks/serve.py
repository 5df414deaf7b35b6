"""`parakeet bench serve`: replies of `parakeet serve` over HTTP beside those of `parakeet chat`."""

import asyncio
import math
import os
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import click
import psutil

from parakeet.benchmarks.loopback import Streamed, stream
from parakeet.benchmarks.process import Answer, MeasuringProcess, print_result
from parakeet.benchmarks.processor import this_processor
from parakeet.benchmarks.server_process import ServerProcess
from parakeet.benchmarks.speaking import Messages, write_speaking_release
from parakeet.benchmarks.timing import Sample, rounds_within
from parakeet.chat.models import SPINS
from parakeet.errors import ParakeetError
from parakeet.formatting import render_table
from parakeet.home import home
from parakeet.model.config import ModelConfig
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.verify import open_release
from parakeet.sampling_settings import SamplingSettings
from parakeet.sanitise import sanitise
from parakeet.tokenizer import Tokenizer

BUDGET = 400.0
"""Seconds from the start, after which no third round begins."""
STREAMS, BESIDE = 8, 4
"""Replies at once; and those that go on while a long prompt is read."""
TOKENS = 64
"""Of each reply."""
SETTLED = 8
"""Tokens of each stream before gaps are measured beside a long prompt."""
SHORT, LONG = 16, 512
"""Tokens of the prompts whose first token is timed."""
ARRIVING = (512, 2000)
"""Tokens of the prompts that arrive while others stream."""
CHAT_SHARE, FIRST_TOKEN_RATIO, AT_ONCE_RATIO = 0.95, 1.1, 3.0
"""What is wanted: of chat's decode rate, of its time to the first token, and of one stream's rate."""
SECONDS = 600.0
"""A server that takes longer for one sample is given up."""


def run(recipe: Recipe, dtypes: Sequence[str], threads: int, rounds: int) -> None:
    """Measure random weights of the recipe's shape in each of the dtypes; tables, then one JSON line.

    The server answers real requests on loopback. A process that generates as `parakeet chat` does takes turns with it:
    other load on the machine slows both alike.
    """
    began = time.perf_counter()
    served: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "release")
        config = write_speaking_release(recipe, folder)
        click.echo(f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights")
        click.echo(f"processor: {sanitise(str(this_processor()))}\n")
        for dtype in dtypes:
            measured = _measure(folder, config, dtype, threads, rounds, BUDGET / len(dtypes), served)
            if measured is None:
                click.echo(f"{dtype} is a dtype that was measured already.\n")
                continue
            facts, figures = measured
            click.echo(f"{dtype}: {facts['reason']}, {facts['cache_dtype']} cache")
            click.echo(f"{figures.rounds} rounds\n\n{_tables(figures)}\n")
            served[facts["dtype"]] = {**facts, **figures.as_json()}
    result = {"benchmark": "serve", "recipe": recipe.name, "parameters": config.parameter_count, "served": served}
    result |= {**asdict(this_processor()), "seconds": round(time.perf_counter() - began, 1)}
    print_result(result, facts["threads"])


@dataclass(frozen=True)
class Case:
    """A message, and how its reply is drawn."""

    message: str
    max_tokens: int
    seed: int

    def body(self, model: str, settings: SamplingSettings) -> dict[str, Any]:
        """As a request to `/v1/chat/completions`."""
        names = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")
        return {
            "model": model,
            "messages": [{"role": "user", "content": self.message}],
            **{name: getattr(settings, name) for name in names},
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def chat(request: Mapping[str, Any]) -> Iterator[Answer]:
    """In a process of its own: open the release as `parakeet chat` does and report how; then reply to each of `cases`."""
    from parakeet.chat.models import ModelOpener
    from parakeet.chat.session import Session

    opened = ModelOpener(home(), "auto", request["dtype"], request["threads"]).open(request["folder"])
    engine = opened.engine
    assert engine.choice is not None
    yield {
        "dtype": engine.dtype, "cache_dtype": engine.cache_dtype, "device": engine.device,
        "reason": engine.choice.reason, "used_threads": engine.threads,
    }  # fmt: skip
    for case in (Case(**values) for values in request["cases"]):
        settings = replace(opened.release.generation, max_tokens=case.max_tokens, seed=case.seed)
        reply, spent = Streamed(), time.process_time()
        for step in Session(engine, settings).reply(case.message):
            reply.take({"content": step.text})
        spent = time.process_time() - spent
        yield {"first_token": reply.first_token_seconds, "rate": reply.decode_rate, "text": reply.text, "cpu": spent}


@dataclass(frozen=True)
class Plan:
    """Sizes that fit the model's context, in tokens."""

    short: int
    long: int
    tokens: int
    arriving: tuple[int, ...]
    beside: int
    """The longest reply of those that a long prompt arrives beside."""

    @classmethod
    def of(cls, context: int) -> "Plan":
        most = context // 2
        arriving = tuple(sorted({min(tokens, most) for tokens in ARRIVING}))
        return cls(min(SHORT, context // 4), min(LONG, most), min(TOKENS, context // 4), arriving, most)


@dataclass
class Figures:
    """What was measured, one value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)
    gaps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds between tokens, of all streams and rounds."""
    different: int = 0
    """Replies whose text is not that of chat."""
    client_seconds: float = 0.0
    """CPU time of the client while `client_tokens` came."""
    client_tokens: int = 0
    rounds: int = 0

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, one: str, other: str) -> float:
        """The median over rounds of one by the other."""
        return statistics.median(a / b for a, b in zip(self.values[one], self.values[other], strict=True))

    def as_json(self) -> dict[str, Any]:
        return {
            "figures": {name: Sample.of(values).as_json() for name, values in self.values.items()},
            "ratios": {name: float(f"{ratio:.4g}") for name, ratio, _, _ in self.verdicts()},
            "gaps": {name: _quantiles(gaps) for name, gaps in self.gaps.items()},
            "different_texts": self.different,
            "client_cpu_seconds_per_token": float(f"{self.client_seconds / max(1, self.client_tokens):.3g}"),
            "rounds": self.rounds,
        }

    def verdicts(self) -> Iterator[tuple[str, float, str, bool]]:
        """Name, ratio, what is wanted, and whether it is met."""
        rate = self.ratio("server, tokens/s", "chat, tokens/s")
        yield "one stream beside chat", rate, f"at least {CHAT_SHARE}", rate >= CHAT_SHARE
        for prompt in ("short", "long"):
            seconds = self.ratio(f"server, first token, {prompt}", f"chat, first token, {prompt}")
            wanted = f"at most {FIRST_TOKEN_RATIO}"
            yield f"first token of the {prompt} prompt beside chat", seconds, wanted, seconds <= FIRST_TOKEN_RATIO
        at_once = self.ratio("at once, tokens/s", "server, tokens/s")
        yield f"{STREAMS} streams beside one", at_once, f"at least {AT_ONCE_RATIO:g}", at_once >= AT_ONCE_RATIO


def _measure(
    folder: Path, config: ModelConfig, dtype: str, threads: int, rounds: int, seconds: float, known: Collection[str]
) -> tuple[Answer, Figures] | None:
    """None if the dtype is one of those `known`."""
    plan, release = Plan.of(config.context), open_release(folder)
    messages = Messages(Tokenizer.load(folder))
    alone = [
        (
            Case(messages.text(plan.short, 2 * number), plan.tokens, number),
            Case(messages.text(plan.long, 2 * number + 1), 2, number),
        )
        for number in range(rounds)
    ]
    warming = Case(messages.text(plan.short, 1_000_000), 4, 0)
    cases = [asdict(case) for case in (warming, *chain.from_iterable(alone))]
    # Of the model's opener, which sets it too late for a process that has torch already.
    environment = {"PARAKEET_HOME": str(folder.parent)}
    if "OMP_WAIT_POLICY" not in os.environ:
        environment["GOMP_SPINCOUNT"] = SPINS
    request = {"folder": str(folder), "dtype": dtype, "threads": threads, "cases": cases}
    with MeasuringProcess(f"{__name__}:chat", request, threads, SECONDS, environment) as process:
        facts = _answer(process)
        if facts["dtype"] in known:
            return None
        options = ["--dtype", facts["dtype"], "--threads", str(facts["used_threads"]), "--batch", str(STREAMS)]
        with ServerProcess(folder, options, environment) as server:
            client = Client(psutil.Process(server.pid), server.port, release.name, release.generation, messages, plan)
            figures, began = Figures(), time.perf_counter()
            asyncio.run(client.warm_up())
            _answer(process)
            with Progress().task(f"Measuring {facts['dtype']}", rounds, "rounds") as task:
                for number in rounds_within(rounds, seconds, began):
                    for name, case in zip(("short", "long"), alone[number], strict=True):
                        # Neither is always the first.
                        chat = _answer(process) if number % 2 else None
                        served = asyncio.run(client.alone(figures, name, case))
                        _compare(figures, name, chat or _answer(process), served)
                    asyncio.run(client.at_once(figures, number))
                    for tokens in plan.arriving:
                        asyncio.run(client.beside(figures, number, tokens))
                    figures.rounds += 1
                    task.advance()
    return facts, figures


def _answer(process: MeasuringProcess) -> Answer:
    answer = process.ask()
    if "refused" in answer:
        raise ParakeetError(f"The server cannot be measured: {answer['refused']}.")
    return answer


def _compare(figures: Figures, prompt: str, chat: Answer, served: Streamed) -> None:
    figures.different += chat["text"] != served.text
    figures.add(f"chat, first token, {prompt}", chat["first_token"])
    figures.add(f"server, first token, {prompt}", served.first_token_seconds)
    if prompt == "short":
        figures.add("chat, tokens/s", chat["rate"])
        figures.add("server, tokens/s", served.decode_rate)
        figures.add("chat, CPU time/token", chat["cpu"] / len(served.arrivals))
        figures.gaps.setdefault("1 stream", []).extend(served.gaps())


@dataclass(frozen=True)
class Client:
    process: psutil.Process
    port: int
    model: str
    settings: SamplingSettings
    messages: Messages
    plan: Plan

    async def reply(self, case: Case, reply: Streamed | None = None) -> Streamed:
        return await stream(self.port, "/v1/chat/completions", case.body(self.model, self.settings), reply)

    async def alone(self, figures: Figures, prompt: str, case: Case) -> Streamed:
        spent = self._cpu_seconds()
        reply = await self.reply(case)
        if prompt == "short":
            figures.add("server, CPU time/token", (self._cpu_seconds() - spent) / len(reply.arrivals))
        return reply

    async def warm_up(self) -> None:
        """Let the server use all its batch once."""
        await asyncio.gather(*(self.reply(self._case(4, 1_000 + number)) for number in range(STREAMS)))

    async def at_once(self, figures: Figures, number: int) -> None:
        """STREAMS replies at once. The rate is that while all of them stream."""
        spent, served = time.process_time(), self._cpu_seconds()
        cases = [self._case(self.plan.tokens, 100 * number + place) for place in range(STREAMS)]
        replies = await asyncio.gather(*map(self.reply, cases))
        figures.client_seconds += time.process_time() - spent
        tokens = sum(len(reply.arrivals) for reply in replies)
        figures.client_tokens += tokens
        figures.add("at once, CPU time/token", (self._cpu_seconds() - served) / tokens)
        since, until = max(reply.arrivals[0] for reply in replies), min(reply.arrivals[-1] for reply in replies)
        gaps = [gap for reply in replies for gap in reply.gaps(since, until)]
        figures.add("at once, tokens/s", len(gaps) / (until - since))
        began, ended = min(reply.began for reply in replies), max(reply.arrivals[-1] for reply in replies)
        figures.add("at once with prompts, tokens/s", tokens / (ended - began))
        figures.gaps.setdefault(f"{STREAMS} streams", []).extend(gaps)

    async def beside(self, figures: Figures, number: int, tokens: int) -> None:
        """A prompt of so many tokens arrives while BESIDE replies stream: their gaps before and until its first token.

        The replies are then stopped by closing their connections.
        """
        replies = [Streamed() for _ in range(BESIDE)]
        cases = [self._case(self.plan.beside, 100 * number + 50 + place) for place in range(BESIDE)]
        tasks = [asyncio.create_task(self.reply(*each)) for each in zip(cases, replies, strict=True)]
        try:
            await self._until(tasks, replies, SETTLED)
            settled = time.perf_counter()
            await self._until(tasks, replies, 3 * SETTLED)
            arriving = Case(self.messages.text(tokens, 10_000 + 100 * number + tokens), 2, number)
            long = await self.reply(arriving)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        figures.add(f"first token of {tokens:,} tokens beside {BESIDE} streams", long.first_token_seconds)
        before = [gap for reply in replies for gap in reply.gaps(settled, long.began)]
        during = [gap for reply in replies for gap in reply.gaps(long.began, long.arrivals[0])]
        figures.gaps.setdefault(f"{BESIDE} streams", []).extend(before)
        figures.gaps.setdefault(f"{BESIDE} streams, a prompt of {tokens:,} arrives", []).extend(during)

    def _cpu_seconds(self) -> float:
        """Of the server, all threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    async def _until(self, tasks: Sequence["asyncio.Task[Streamed]"], replies: Sequence[Streamed], tokens: int) -> None:
        """Wait until each reply has so many tokens, or one of them ends."""
        while min(len(reply.arrivals) for reply in replies) < tokens:
            ended = [task for task in tasks if task.done()]
            if ended:
                ended[0].result()  # raises what went wrong
                return
            await asyncio.sleep(0.02)

    def _case(self, max_tokens: int, seed: int) -> Case:
        return Case(self.messages.text(self.plan.short, 1_000_000 + seed), max_tokens, seed)


def _quantiles(gaps: Sequence[float]) -> dict[str, float]:
    """Seconds, and the number of gaps."""
    if not gaps:
        return {"number": 0}
    ordered = sorted(gaps)
    # The nearest rank.
    at = {"p50": 0.5, "p99": 0.99, "most": 1.0}
    found = {name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for name, share in at.items()}
    return {**{name: float(f"{value:.4g}") for name, value in found.items()}, "number": len(ordered)}


def _tables(figures: Figures) -> str:
    rows = [[name, *_cells(name, figures.values[name])] for name in figures.values]
    speeds = render_table(("", "median", "least", "most"), rows, right=range(1, 4))
    verdicts = [
        [name, f"{ratio:.3f}", wanted, "met" if met else "NOT MET"] for name, ratio, wanted, met in figures.verdicts()
    ]
    gaps = [
        [name, *(f"{1e3 * found[key]:.0f}" for key in ("p50", "p99", "most")), f"{found['number']}"]
        for name, all_gaps in figures.gaps.items()
        if (found := _quantiles(all_gaps))["number"]
    ]
    between = render_table(("ms between tokens", "p50", "p99", "most", "gaps"), gaps, right=range(1, 5))
    cost = figures.client_seconds / max(1, figures.client_tokens)
    texts = (
        "The replies are those of chat" if not figures.different else f"{figures.different} replies differ from chat"
    )
    return "\n\n".join(
        (
            speeds,
            render_table(("median of the rounds", "", "wanted", ""), verdicts, right=[1]),
            between,
            f"{texts}. The client took {1e3 * cost:.2f} ms of CPU a token.",
        )
    )


def _cells(name: str, values: Sequence[float]) -> list[str]:
    sample = Sample.of(values)
    rate = name.endswith("tokens/s")
    return [f"{value:.1f}" if rate else f"{1e3 * value:.1f} ms" for value in (sample.median, sample.low, sample.high)]
