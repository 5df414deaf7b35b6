"""`parakeet serve` beside llama.cpp's server, in one run.

    .venv/bin/python -m benchmarks.serve_llama_cpp

Both serve the same model with random weights over HTTP: Parakeet in its dtypes, llama.cpp from the file that `parakeet
export --format gguf` makes, with its default attention and without flash attention. They get the same requests to
`/v1/completions`, greedy and by token ids, in turn, so that other load on the machine slows all alike.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from benchmarks.llama_cpp import ADVICE, ATTENTIONS, EXPORTED, INSTALLING, PAIRS, SCRIPT
from parakeet.benchmarks.load import BESIDE, STREAMS, Case, Client, Figures, Plan, median_ratio, table
from parakeet.benchmarks.process import AnsweringProcess
from parakeet.benchmarks.processor import this_processor
from parakeet.benchmarks.server_process import ServerProcess
from parakeet.benchmarks.speaking import Messages, write_speaking_release
from parakeet.benchmarks.timing import rounds_within
from parakeet.errors import ParakeetError
from parakeet.export.formats import export_release
from parakeet.machine import usable_cores
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.tokenizer import Tokenizer

BUDGET = 900.0
"""Seconds from the start, after which no third round begins."""
STARTS, START_SECONDS = 3, 120.0
"""llama.cpp's server hangs in some starts. It is then started again, so many times."""
LISTENING_SECONDS = 60.0


@click.command("serve_llama_cpp")
@click.option(
    "--python", default=sys.executable, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help=f"A Python that has xllamacpp. To make one: {INSTALLING}  [default: this one]",
)  # fmt: skip
@click.option("--recipe", "recipe_name", default="parakeet-378m-16h", show_default=True, help="Recipe of the shape.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@click.option(
    "--dtype", "dtypes", type=click.Choice([*PAIRS]), multiple=True, default=("int8",), show_default=True,
    help="Repeatable.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Of each server.  [default: one a core]")
@click.option(
    "--scratch", type=click.Path(exists=True, file_okay=False), metavar="FOLDER",
    help="Where the weights are written, 2 to 5 GB for the default recipe.  [default: the system's]",
)  # fmt: skip
def main(
    python: str, recipe_name: str, rounds: int, dtypes: Sequence[str], threads: int | None, scratch: str | None
) -> None:
    """Time the replies of both servers: one stream, eight at once, and beside a long prompt."""
    began = time.perf_counter()
    recipe, threads = load_recipe(recipe_name), threads or usable_cores()
    with tempfile.TemporaryDirectory(dir=scratch) as folder, ExitStack() as stack:
        release = Path(folder, "release")
        config = write_speaking_release(recipe, release)
        tokenizer, plan = Tokenizer.load(release), Plan.of(config.context)
        click.echo(f"{recipe.name}: {config.parameter_count:,} parameters, random weights, {threads} threads")
        click.echo(f"processor: {this_processor()}\n")
        servers = [
            server
            for dtype in dict.fromkeys(dtypes)
            for server in _servers(stack, release, python, dtype, threads, plan, tokenizer)
        ]
        messages = Messages(tokenizer)
        with Progress().task("Measuring", rounds, "rounds") as task:
            for number in rounds_within(rounds, BUDGET, began):
                for server in servers:
                    _measure(server, number, messages)
                task.advance()
    for server in servers:
        click.echo(f"{server.name}: {server.figures.rounds} rounds\n\n{table(server.figures)}\n")
    result: dict[str, Any] = {"benchmark": "serve_llama_cpp", "recipe": recipe.name}
    result |= {"parameters": config.parameter_count, "processor": str(this_processor())}
    result |= {"servers": {server.name: server.figures.as_json() for server in servers}}
    result["seconds"] = round(time.perf_counter() - began, 1)
    print_demands(result, demands_of({server.name: server.figures for server in servers}, plan), threads)


@dataclass(frozen=True)
class _Server:
    name: str
    client: Client
    figures: Figures = field(default_factory=Figures)


def _servers(
    stack: ExitStack, release: Path, python: str, dtype: str, threads: int, plan: Plan, tokenizer: Tokenizer
) -> list[_Server]:
    """Ours in a dtype, and llama.cpp's with what comes nearest."""
    body, messages = partial(body_of, tokenizer), Messages(tokenizer)

    def server(name: str, pid: int, port: int) -> _Server:
        found = _Server(name, Client(psutil.Process(pid), port, "/v1/completions", body, messages, plan))
        asyncio.run(_first_answer(found.client))
        return found

    options = ["--dtype", dtype, "--threads", str(threads), "--batch", str(STREAMS)]
    ours = stack.enter_context(ServerProcess(release, options, {"PARAKEET_HOME": str(release.parent)}))
    found = [server(dtype, ours.pid, ours.port)]
    kind = PAIRS[dtype]
    path = release.parent / f"{kind}.gguf"
    export_release(release, path, "gguf", EXPORTED[kind], Progress())
    # A slot has a place for the longest prompt, or a whole reply, and some more.
    capacity = max(plan.longest, *plan.arriving) + plan.short + plan.tokens
    for suffix, flash in ATTENTIONS.items():
        request = {"do": "listen", "path": str(path), "flash": flash, "threads": threads}
        process, port = _start(stack, python, request | {"streams": STREAMS, "capacity": capacity})
        found.append(server(name_of(dtype, suffix), process.pid, port))
    return found


def name_of(dtype: str, suffix: str) -> str:
    return f"llama.cpp {PAIRS[dtype]}{suffix}"


def body_of(tokenizer: Tokenizer, case: Case) -> dict[str, Any]:
    """A greedy request that both servers understand; each ignores what only the other knows."""
    return {
        "prompt": tokenizer.encode(case.message), "max_tokens": case.max_tokens, "stream": True, "temperature": 0,
        "top_k": 1, "frequency_penalty": 0, "presence_penalty": 0,
        "samplers": ["top_k"], "ignore_eos": True, "cache_prompt": False,
    }  # fmt: skip


def _start(stack: ExitStack, python: str, request: Mapping[str, Any]) -> tuple[AnsweringProcess, int]:
    for _ in range(STARTS):
        # -I: the script's folder holds modules with the names of others.
        process = AnsweringProcess([python, "-I", str(SCRIPT)], request, os.environ, START_SECONDS)
        answer = process.ask()
        if "refused" not in answer:
            return stack.enter_context(process), answer["port"]
        process.__exit__()
    raise ParakeetError(f"llama.cpp's server does not start: {answer['refused']}. {ADVICE}")


async def _first_answer(client: Client) -> None:
    """Wait until the server listens, and use all its places once."""
    began = time.perf_counter()
    while True:
        try:
            await client.warm_up()
            return
        except ConnectionRefusedError:
            if time.perf_counter() - began > LISTENING_SECONDS:
                raise ParakeetError(f"The server does not listen at port {client.port}.") from None
            await asyncio.sleep(0.1)


def _measure(server: _Server, number: int, messages: Messages) -> None:
    """One round."""
    client, figures, plan = server.client, server.figures, server.client.plan
    short = Case(messages.text(plan.short, 2 * number), plan.tokens, number)
    long = Case(messages.text(plan.long, 2 * number + 1), 2, number)
    asyncio.run(client.alone(figures, "short", short))
    asyncio.run(client.alone(figures, "long", long))
    asyncio.run(client.at_once(figures, number))
    for tokens in plan.arriving:
        asyncio.run(client.beside(figures, number, tokens))
    figures.rounds += 1


def demands_of(servers: Mapping[str, Figures], plan: Plan) -> list[Demand]:
    """Ours beside the better of llama.cpp's two, round by round."""
    demands = []
    for dtype in [name for name in servers if name in PAIRS]:
        ours, others = servers[dtype], [servers[name_of(dtype, suffix)] for suffix in ATTENTIONS]
        for name in ("1 stream, tokens/s", f"{STREAMS} streams, tokens/s"):
            ratio = min(median_ratio(ours.values[name], other.values[name]) for other in others)
            demands.append(at_least(f"{dtype} beside {PAIRS[dtype]}, {name}", ratio, 1.0, " times"))
        beside = f"{BESIDE} streams, a prompt of {max(plan.arriving):,} arrives"
        for name in ("first token, long prompt", f"{beside}: its first token"):
            ratio = max(median_ratio(ours.values[name], other.values[name]) for other in others)
            demands.append(at_most(f"{dtype} beside {PAIRS[dtype]}, {name}", ratio, 1.0, " times"))
        for name in (f"{STREAMS} streams", beside):
            least = min(other.gap(name, 0.99) for other in others)
            demands.append(
                at_most(
                    f"{dtype} beside {PAIRS[dtype]}, p99 of gaps, {name}", ours.gap(name, 0.99) / least, 1.0, " times"
                )
            )
    return demands


if __name__ == "__main__":
    run_command(main)
