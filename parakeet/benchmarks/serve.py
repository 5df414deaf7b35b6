"""`parakeet bench serve`: replies of `parakeet serve` over HTTP beside those of `parakeet chat`."""

import asyncio
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import psutil

from parakeet.benchmarks.load import STREAMS, Case, Client, Figures, Plan, cells, median_ratio, table
from parakeet.benchmarks.loopback import Streamed
from parakeet.benchmarks.process import Answer, MeasuringProcess, print_result
from parakeet.benchmarks.processor import this_processor
from parakeet.benchmarks.server_process import ServerProcess
from parakeet.benchmarks.speaking import Messages, write_speaking_release
from parakeet.benchmarks.timing import rounds_within
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
            facts = measured.facts
            click.echo(f"{dtype}: {facts['reason']}, {facts['cache_dtype']} cache, {measured.server.rounds} rounds\n")
            click.echo(f"{measured.text()}\n")
            served[facts["dtype"]] = measured.as_json()
    result = {"benchmark": "serve", "recipe": recipe.name, "parameters": config.parameter_count, "served": served}
    result |= {**asdict(this_processor()), "seconds": round(time.perf_counter() - began, 1)}
    print_result(result, facts["used_threads"])


def chat_body(model: str, settings: SamplingSettings, case: Case) -> dict[str, Any]:
    """Of a request to `/v1/chat/completions`."""
    names = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")
    return {
        "model": model,
        "messages": [{"role": "user", "content": case.message}],
        **{name: getattr(settings, name) for name in names},
        "max_tokens": case.max_tokens,
        "seed": case.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def chat(request: Mapping[str, Any]) -> Iterator[Answer]:
    """In a process of its own: open the release as `parakeet chat` does, and report how; then reply to each of
    `cases`."""
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


@dataclass
class Measured:
    """In one dtype."""

    facts: Answer
    server: Figures
    chat: Figures
    different: int = 0
    """Replies of the server whose text is not that of chat."""

    def compare(self, prompt: str, chat: Answer, served: Streamed) -> None:
        self.different += chat["text"] != served.text
        self.chat.add(f"first token, {prompt} prompt", chat["first_token"])
        if prompt == "short":
            self.chat.add("1 stream, tokens/s", chat["rate"])
            self.chat.add("1 stream, CPU time/token", chat["cpu"] / len(served.arrivals))

    def verdicts(self) -> Iterator[tuple[str, float, str, bool]]:
        """Name, the median over rounds of a ratio, what is wanted, and whether it is met."""
        server, chat = self.server.values, self.chat.values
        rate = median_ratio(server["1 stream, tokens/s"], chat["1 stream, tokens/s"])
        yield "1 stream beside chat, tokens/s", rate, f"at least {CHAT_SHARE}", rate >= CHAT_SHARE
        for name in ("first token, short prompt", "first token, long prompt"):
            seconds = median_ratio(server[name], chat[name])
            yield f"{name} beside chat", seconds, f"at most {FIRST_TOKEN_RATIO}", seconds <= FIRST_TOKEN_RATIO
        many = median_ratio(server[f"{STREAMS} streams, tokens/s"], server["1 stream, tokens/s"])
        yield f"{STREAMS} streams beside 1, tokens/s", many, f"at least {AT_ONCE_RATIO:g}", many >= AT_ONCE_RATIO

    def text(self) -> str:
        verdicts = [
            [name, f"{ratio:.3f}", wanted, "met" if met else "NOT MET"] for name, ratio, wanted, met in self.verdicts()
        ]
        different = f"{self.different} replies differ from chat's" if self.different else "The replies are chat's"
        rows = [[f"chat: {name}", *cells(name, values)] for name, values in self.chat.values.items()]
        return "\n\n".join(
            (
                render_table(("", "median", "least", "most"), rows, right=range(1, 4)),
                table(self.server),
                render_table(("median of the rounds", "", "wanted", ""), verdicts, right=[1]),
                f"{different}. The client took {1e3 * self.server.client_cost:.2f} ms of CPU a token.",
            )
        )

    def as_json(self) -> dict[str, Any]:
        ratios = {name: float(f"{ratio:.4g}") for name, ratio, _, _ in self.verdicts()}
        figures = {"server": self.server.as_json(), "chat": self.chat.as_json()["figures"]}
        return {**self.facts, **figures, "ratios": ratios, "different_texts": self.different}


def _measure(
    folder: Path, config: ModelConfig, dtype: str, threads: int, rounds: int, seconds: float, known: Collection[str]
) -> Measured | None:
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
            body = partial(chat_body, release.name, release.generation)
            client = Client(psutil.Process(server.pid), server.port, "/v1/chat/completions", body, messages, plan)
            measured = Measured(facts, Figures(), Figures())
            asyncio.run(client.warm_up())
            _answer(process)
            began = time.perf_counter()
            with Progress().task(f"Measuring {facts['dtype']}", rounds, "rounds") as task:
                for number in rounds_within(rounds, seconds, began):
                    for prompt, case in zip(("short", "long"), alone[number], strict=True):
                        # Neither is always the first.
                        first = _answer(process) if number % 2 else None
                        served = asyncio.run(client.alone(measured.server, prompt, case))
                        measured.compare(prompt, first or _answer(process), served)
                    asyncio.run(client.at_once(measured.server, number))
                    for tokens in plan.arriving:
                        asyncio.run(client.beside(measured.server, number, tokens))
                    measured.server.rounds = measured.chat.rounds = number + 1
                    task.advance()
    return measured


def _answer(process: MeasuringProcess) -> Answer:
    answer = process.ask()
    if "refused" in answer:
        raise ParakeetError(f"The server cannot be measured: {answer['refused']}.")
    return answer
