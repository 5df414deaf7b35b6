"""A server under every kind of client at once, for minutes: nothing fails, leaks, or reaches another's reply.

    .venv/bin/python -m benchmarks.soak
    .venv/bin/python -m benchmarks.soak --home FOLDER     # the promoted release of a copy of a home

The clients read replies whole and streamed, leave in the middle, stop, send what is no request, read slowly, hold
sessions, and look at the other routes. What each request is answered without load is asked first.
"""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import psutil

from benchmarks.demands import Demand, at_most, print_demands, run_command
from benchmarks.soak_requests import BAD, OTHERS, Probe, probes
from parakeet.benchmarks.loopback import HOST, Exchange
from parakeet.benchmarks.server_process import ServerProcess
from parakeet.benchmarks.speaking import write_speaking_release
from parakeet.formatting import format_bytes
from parakeet.machine import usable_cores
from parakeet.recipe_file import load_recipe

SECONDS = 300.0
"""A request that takes longer is a violation."""
SAMPLE_SECONDS = 5.0
GROWTH = 0.05
"""Of the memory, from the second quarter of the time to the last one."""
POOL = min(32, usable_cores() + 4)
"""Threads that asyncio starts for work that would block it, when they are first needed."""
MOST_SHOWN = 20
IDLE_SECONDS = 60.0
"""After the last client, until the server must have nothing to do."""


@click.command("soak")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=30.0, show_default=True)
@click.option("--clients", type=click.IntRange(1, 100), default=16, show_default=True)
@click.option("--dtype", default="fp32", show_default=True, help="Precision of the weights.")
@click.option("--batch", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shape of the model, with --home not.")
@click.option(
    "--home", type=click.Path(exists=True, file_okay=False, resolve_path=True), metavar="FOLDER",
    help="Serve what is promoted there. Sessions called soak-… are made in it and removed.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Of what the clients do.")
def main(minutes: float, clients: int, dtype: str, batch: int, recipe_name: str, home: str | None, seed: int) -> None:
    """Load a server for minutes, and compare every reply with the one without load."""
    with tempfile.TemporaryDirectory() as scratch:
        release = None
        if home is None:
            release = Path(scratch, "release")
            write_speaking_release(load_recipe(recipe_name), release)
        options = ["--dtype", dtype, "--batch", str(batch)]
        with ServerProcess(release, options, {"PARAKEET_HOME": home or scratch}) as server:
            soak = Soak(server, seed)
            asyncio.run(soak.run(60 * minutes, clients))
        soak.check_end(server.errors)
    result = {"benchmark": "soak", "clients": clients, "dtype": dtype, "batch": batch, **soak.as_json()}
    print_demands(result, soak.demands(judged=minutes >= 4))
    if soak.violations:
        raise SystemExit(1)


@dataclass(frozen=True)
class Sample:
    """Of the server's process."""

    seconds: float
    resident: int
    files: int
    threads: int


@dataclass
class Soak:
    server: ServerProcess
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    """What clients did, by kind."""
    compared: Counter[str] = field(default_factory=Counter)
    """Replies that were compared, greedy and sampled, and those that differ."""
    differences: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    idle: list[Sample] = field(default_factory=list)
    """Before the load and after it."""
    tokens: int = 0

    def __post_init__(self) -> None:
        self.process = psutil.Process(self.server.pid)
        self.began = time.perf_counter()

    async def run(self, seconds: float, clients: int) -> None:
        about = await self._json("GET", "/api/about")
        self.probes = probes(about["model"], about["context"])
        click.echo(f"{about['model']}: {about['parameters']:,} parameters, {about['dtype']}, batch {about['batch']}")
        for probe in self.probes:
            probe.expected = await self._answer(probe, streamed=False)
        # The same once more, and what else clients do, so that what a first request makes is there.
        for probe in self.probes:
            self._compare(probe, await self._answer(probe, streamed=True), "streamed, without load")
        for other in OTHERS:
            await self._ask(*other)
        self.idle.append(await self._idle())
        click.echo(f"{len(self.probes)} requests without load; then {clients} clients for {seconds / 60:g} minutes\n")
        self.began = time.perf_counter()
        watching = asyncio.create_task(self._watch(seconds))
        await asyncio.gather(*(self._client(number, seconds) for number in range(clients)), watching)
        self.idle.append(await self._idle())

    # ---- clients ----

    async def _client(self, number: int, seconds: float) -> None:
        draw = random.Random(f"{self.seed} {number}")
        kinds = {
            self._whole: 30, self._streamed: 30, self._leave: 15, self._slow: 3, self._bad: 15, self._other: 8,
            self._break_off: 4, self._session: 10,
        }  # fmt: skip
        while time.perf_counter() - self.began < seconds and self.server.running:
            (kind,) = draw.choices([*kinds], [*kinds.values()])
            name = kind.__name__.strip("_")
            try:
                async with asyncio.timeout(SECONDS):
                    await kind(draw)
                self.done[name] += 1
            except Busy as busy:
                self.done["busy"] += 1
                await asyncio.sleep(min(busy.seconds, 5))
            except Exception as error:
                self._violation(f"{name}: {type(error).__name__}: {error}")
        if not self.server.running:
            self._violation("the server ended")

    async def _whole(self, draw: random.Random) -> None:
        probe = draw.choice(self.probes)
        self._compare(probe, await self._answer(probe, streamed=False), "whole")

    async def _streamed(self, draw: random.Random) -> None:
        probe = draw.choice(self.probes)
        self._compare(probe, await self._answer(probe, streamed=True), "streamed")

    async def _slow(self, draw: random.Random) -> None:
        """Read a reply with pauses."""
        probe = draw.choice(self.probes)
        pauses = [draw.random() / 4 for _ in range(8)]
        self._compare(probe, await self._answer(probe, streamed=True, pauses=pauses), "read slowly")

    async def _leave(self, draw: random.Random) -> None:
        """Close the connection in the middle of a reply. What came must be the beginning of the expected one."""
        probe, most = draw.choice(self.probes), draw.randrange(12)
        texts = await self._answer(probe, streamed=True, most=most)
        for (text, _), (expected, _) in zip(texts, probe.expected, strict=True):
            if not expected.startswith(text):
                self._differs(probe, text, expected, "left in the middle")

    async def _break_off(self, draw: random.Random) -> None:
        """Close the connection in the middle of a request."""
        _, writer = await asyncio.open_connection(HOST, self.server.port)
        body = json.dumps(draw.choice(self.probes).body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        request = head + body
        writer.write(request[: draw.randrange(len(request))])
        await writer.drain()
        writer.transport.abort()

    async def _bad(self, draw: random.Random) -> None:
        """Something that is no request must be answered as an error, in OpenAI's form."""
        bad = draw.choice(BAD)
        async with Exchange(self.server.port, bad.method, bad.path, bad.body, bad.headers) as exchange:
            answer = await exchange.read()
        self._raise_if_busy(exchange, answer)
        if exchange.status not in bad.statuses:
            raise AssertionError(f"{bad.name} was answered {exchange.status}: {answer[:300]!r}")
        error = json.loads(answer)["error"]
        if set(error) != {"message", "type", "param", "code"} or "/tmp/" in str(error):
            raise AssertionError(f"{bad.name} was answered {answer[:300]!r}")

    async def _other(self, draw: random.Random) -> None:
        await self._ask(*draw.choice(OTHERS))

    async def _ask(
        self, method: str, path: str, body: bytes | Mapping[str, Any] | None, statuses: Sequence[int]
    ) -> None:
        async with Exchange(self.server.port, method, path, body) as exchange:
            answer = await exchange.read()
        if exchange.status not in statuses:
            raise AssertionError(f"{method} {path} was answered {exchange.status}: {answer[:300]!r}")

    async def _session(self, draw: random.Random) -> None:
        """A conversation of the page: a reply to its end or to a stop, then another one to the same message."""
        name = f"soak-{draw.getrandbits(48):012x}"
        path = f"/api/sessions/{name}"
        await self._json("POST", "/api/sessions", {"name": name}, 201)
        try:
            probe = draw.choice([probe for probe in self.probes if probe.message])
            body = {"kind": "reply", "message": probe.message, "settings": probe.settings}
            most = draw.choice([3, 10_000])
            shown = await self._session_reply(f"{path}/replies", body, most)
            expected = probe.expected[0][0]
            if not expected.startswith(shown) or (most > 3 and shown != expected):
                self._differs(probe, shown, expected, "session")
            self.compared["greedy" if probe.greedy else "sampled"] += most > 3
            # A reply that was stopped is kept at once, but the server learns of the stop a moment later.
            for _ in range(100):
                kept = (await self._json("GET", path))["exchanges"]
                if kept or not shown.strip():
                    break
                await asyncio.sleep(0.1)
            if shown.strip() and not (kept and kept[0]["reply"].startswith(shown)):
                raise AssertionError(f"{name} shows {shown!r} and has kept {kept}")
        finally:
            # Open while the stopped reply ends.
            async with Exchange(self.server.port, "DELETE", path) as exchange:
                answer = await exchange.read()
        if exchange.status not in (204, 404):
            raise AssertionError(f"{name} was not removed, {exchange.status}: {answer[:300]!r}")

    async def _session_reply(self, path: str, body: Mapping[str, Any], most: int) -> str:
        text = ""
        async with Exchange(self.server.port, "POST", path, body) as exchange:
            if exchange.status != 200:
                self._raise(exchange, await exchange.read())
            pieces = 0
            async for event in exchange.events():
                if "error" in event:
                    raise RuntimeError(str(event)[:300])
                if event["type"] == "text":
                    text += event["text"]
                    pieces += 1
                    if pieces >= most:
                        return text
        return text

    # ---- requests and their comparison ----

    async def _answer(
        self, probe: Probe, streamed: bool, most: int | None = None, pauses: list[float] | None = None
    ) -> list[tuple[str, str]]:
        """Text and finish reason of each reply; with `most`, of the first so many events."""
        texts: dict[int, str] = dict.fromkeys(range(probe.replies), "")
        reasons: dict[int, str] = dict.fromkeys(range(probe.replies), "")
        async with Exchange(self.server.port, "POST", probe.path, {**probe.body, "stream": streamed}) as exchange:
            if exchange.status != 200:
                self._raise(exchange, await exchange.read())
            if not streamed:
                choices = json.loads(await exchange.read())["choices"]
                self._compare_numbers(probe, [each["logprobs"] for each in choices])
                return [
                    (each["text"] if "text" in each else each["message"]["content"], each["finish_reason"])
                    for each in choices
                ]
            count = 0
            async for event in exchange.events():
                if "error" in event:
                    raise RuntimeError(str(event)[:300])
                for choice in event["choices"]:
                    texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
                    reasons[choice["index"]] = choice["finish_reason"] or ""
                    self.tokens += 1
                count += 1
                if most is not None and count > most:
                    break
                if pauses:
                    await asyncio.sleep(pauses.pop())
        return [(texts[index], reasons[index]) for index in range(probe.replies)]

    def _compare(self, probe: Probe, found: list[tuple[str, str]], how: str) -> None:
        for (text, reason), (expected, expected_reason) in zip(found, probe.expected, strict=True):
            self.compared["greedy" if probe.greedy else "sampled"] += 1
            if (text, reason) != (expected, expected_reason):
                self._differs(probe, text, expected, how)

    def _compare_numbers(self, probe: Probe, found: list[Any]) -> None:
        """The log-probabilities, to their last bit."""
        if not any(found):
            return
        if not probe.numbers:
            probe.numbers = found
        self.compared["log-probabilities"] += 1
        self.compared["log-probabilities, different"] += found != probe.numbers

    def _differs(self, probe: Probe, text: str, expected: str, how: str) -> None:
        kind = "greedy" if probe.greedy else "sampled"
        self.compared[f"{kind}, different"] += 1
        pairs = enumerate(zip(text, expected, strict=False))
        place = next((index for index, (one, other) in pairs if one != other), min(len(text), len(expected)))
        self.differences.append({"request": probe.name, "how": how, "character": place, "of": len(expected)})
        if probe.greedy:
            self._violation(f"{how}: the reply to {probe.name} differs from character {place}: {text[place:][:60]!r}")

    async def _json(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with Exchange(self.server.port, method, path, body) as exchange:
            answer = await exchange.read()
        if exchange.status != status:
            self._raise(exchange, answer)
        return json.loads(answer)

    def _raise(self, exchange: Exchange, answer: bytes) -> None:
        self._raise_if_busy(exchange, answer)
        raise AssertionError(f"answered {exchange.status}: {answer[:300]!r}")

    def _raise_if_busy(self, exchange: Exchange, answer: bytes) -> None:
        if exchange.status in (429, 503) and "retry-after" in exchange.headers and b'"error"' in answer:
            raise Busy(float(exchange.headers["retry-after"]))

    # ---- the process ----

    async def _watch(self, seconds: float) -> None:
        """Sample the process, and print a row each minute."""
        click.echo(_row("minute", "requests", "events", "memory", "files", "threads", "violations"))
        minute = 0
        while (passed := time.perf_counter() - self.began) < seconds and self.server.running:
            self.samples.append(self._sample())
            if passed >= 60 * minute:
                last = self.samples[-1]
                counts = (sum(self.done.values()), self.tokens)
                what = (format_bytes(last.resident), last.files, last.threads, len(self.violations))
                click.echo(_row(minute, *counts, *what))
                minute += 1
            await asyncio.sleep(min(SAMPLE_SECONDS, seconds / 12))

    def _sample(self) -> Sample:
        with self.process.oneshot():
            return Sample(
                time.perf_counter() - self.began,
                self.process.memory_info().rss,
                self.process.num_fds(),
                self.process.num_threads(),
            )

    async def _idle(self) -> Sample:
        """Once the server has nothing to do. All places must be given up within a minute."""
        until = time.perf_counter() + IDLE_SECONDS
        while True:
            async with Exchange(self.server.port, "GET", "/metrics") as exchange:
                text = (await exchange.read()).decode()
            figures = dict(line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))
            if {figures["parakeet_running"], figures["parakeet_waiting"]} == {"0"}:
                await asyncio.sleep(1)
                return self._sample()
            if time.perf_counter() > until:
                self._violation(f"requests are left without clients: {figures['parakeet_running']} running")
                return self._sample()
            await asyncio.sleep(0.2)

    def check_end(self, errors: str) -> None:
        """What the server printed to standard error is a violation."""
        if errors:
            self._violation(f"the server printed: {errors[-2000:]}")

    def _violation(self, text: str) -> None:
        self.violations.append(text)
        if len(self.violations) <= MOST_SHOWN:
            click.echo(f"  {text}")

    # ---- results ----

    def demands(self, judged: bool) -> list[Demand]:
        """`judged`: whether the time was long enough to judge the memory."""
        before, after = self.idle if len(self.idle) == 2 else (self.samples[0], self.samples[-1])
        found = [
            at_most("violations", float(len(self.violations)), 0),
            at_most("greedy replies that differ from those without load", float(self.compared["greedy, different"]), 0),
            at_most("open files more than before", float(after.files - before.files), 2),
            at_most("threads more than before", float(after.threads - before.threads), POOL),
            at_most("growth of the memory", self.growth if judged else None, GROWTH),
        ]
        self.violations += [f"{demand.text}: {demand.found}" for demand in found[2:] if demand.met is False]
        return found

    @property
    def growth(self) -> float:
        """Share by which the memory grew from the second quarter of the time to the last."""
        quarter = max(1, len(self.samples) // 4)
        second, last = self.samples[quarter : 2 * quarter] or self.samples, self.samples[-quarter:]
        return median(each.resident for each in last) / median(each.resident for each in second) - 1

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.samples[-1].seconds, 1), "requests": dict(self.done), "events": self.tokens,
            "compared": dict(self.compared), "differences": self.differences[:MOST_SHOWN],
            "violations": self.violations[:MOST_SHOWN], "growth": round(self.growth, 4),
            "idle": [vars(sample) for sample in self.idle],
            "samples": [vars(sample) for sample in self.samples[:: max(1, len(self.samples) // 40)]],
        }  # fmt: skip


class Busy(Exception):
    """The server asks to try again later, which is no error of its own."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def _row(*cells: object) -> str:
    return "".join(f"{cell!s:>12}" for cell in cells)


if __name__ == "__main__":
    run_command(main)
