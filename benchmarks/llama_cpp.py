"""Generation by Parakeet beside llama.cpp, in one run.

    .venv/bin/python -m benchmarks.llama_cpp

Both compute the same model with random weights: Parakeet in each of its dtypes, llama.cpp from the file that `parakeet
export --format gguf` makes in F32, BF16 and Q8_0, with its default attention ("flash") and without. A process of each
stays loaded, and they take samples in turn, so that other load on the machine slows all alike.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from parakeet.benchmarks.decoding import filled_cache
from parakeet.benchmarks.export import write_random_release
from parakeet.benchmarks.process import Answer, AnsweringProcess, MeasuringProcess
from parakeet.benchmarks.processor import ISA_LIMITS, this_processor
from parakeet.benchmarks.timing import Sample, rounds_within
from parakeet.errors import ParakeetError
from parakeet.export.formats import export_release
from parakeet.formatting import format_bytes, render_table
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import load_model
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe

PAIRS = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0"}
"""Precisions of Parakeet, and what comes nearest in llama.cpp."""
EXPORTED = {"F32": "fp32", "BF16": "bf16", "Q8_0": "q8_0"}
"""llama.cpp's types as the export's dtypes."""
ATTENTIONS = {"": True, ", no flash": False}
"""Of llama.cpp. Its default, flash attention, is the slower one in decoding at 512 tokens on some processors."""
PROMPT, CONTEXTS = 500, (16, 512, 2048)
TOKENS = 16
"""Steps in a sample of decoding."""
BUDGET = 450.0
"""Seconds from the start, after which no third round begins."""
FIRST_TOKEN_SECONDS, DECODE_RATE = 3.0, 30.0
"""What the fastest dtype should reach: the first token of the prompt, and tokens/s at the shortest context."""
SCRIPT = Path(__file__).with_name("llama_cpp_process.py")
INSTALLING = "python3 -m venv /tmp/llama && /tmp/llama/bin/pip install xllamacpp"
ADVICE = f"Make an environment for it ({INSTALLING}) and name it: --python /tmp/llama/bin/python"
MEMORY = {"peak": "VmHWM", "anonymous": "RssAnon"}

Figures = dict[str, list[tuple[float, float]]]
"""Samples of one row of the table by figure, "prompt" or a context: seconds and CPU seconds, of a whole prompt or of a
step."""


@click.command("llama_cpp")
@click.option(
    "--python", default=sys.executable, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help=f"A Python that has xllamacpp. To make one: {INSTALLING}  [default: this one]",
)  # fmt: skip
@click.option("--recipe", "recipe_name", default="parakeet-378m-16h", show_default=True, help="Recipe of the shape.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@click.option(
    "--limit",
    type=click.Choice([*ISA_LIMITS]),
    help="Let Parakeet use no newer instructions, as on an older processor.",
)
@click.option(
    "--scratch", type=click.Path(exists=True, file_okay=False), metavar="FOLDER",
    help="Where the weights are written, 5 GB for the default recipe.  [default: the system's]",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True, help="Repeatable.")
def main(
    python: str, recipe_name: str, rounds: int, limit: str | None, scratch: str | None, threads: tuple[int, ...]
) -> None:
    """Time prompts and decoding of Parakeet beside llama.cpp's. Prompts are read with the most threads only."""
    began = time.perf_counter()
    recipe = load_recipe(recipe_name)
    facts = _answer_of(python, {"do": "check"}) | {"processor": str(this_processor()), "limit": limit}
    with tempfile.TemporaryDirectory(dir=scratch) as folder, ExitStack() as stack:
        config = write_random_release(recipe, Path(folder, "release"))
        measured = _measured(config, threads)
        click.echo(f"{recipe.name}: {config.parameter_count:,} parameters, random weights, batch 1")
        click.echo(f"processor: {facts['processor']}")
        click.echo(f"llama.cpp of xllamacpp {facts['xllamacpp']}, built with {facts['llama_cpp']}")
        if limit:
            click.echo(f"torch in Parakeet's processes is limited to {limit}. The limit does not reach llama.cpp.")
        contenders: list[_Contender] = []
        count = len(PAIRS) * (1 + len(ATTENTIONS) * len(measured["threads"]))
        with Progress().task("Writing and loading weights", count, "models") as task:
            for contender in _contenders(Path(folder), python, measured, limit):
                contenders.append(contender)
                stack.enter_context(contender.process)
                contender.process.ask()
                task.advance()
        samples, left_out = _measure(contenders, measured, rounds, began)
        memory = {row: _memory_of(contender.process.pid) for contender in contenders for row in contender.rows.values()}
    taken = min((len(found) for figures in samples.values() for found in figures.values()), default=0)
    click.echo(f"{taken} rounds; median (least to most)\n\n{_table(samples, memory, measured)}")
    for name, reason in left_out.items():
        click.echo(f"{name} is left out: {reason}")
    result = {"benchmark": "llama_cpp", "recipe": recipe.name, "parameters": config.parameter_count, **facts}
    result |= {"variants": {name: _as_json(figures) for name, figures in samples.items()}, "left_out": left_out}
    result |= {"memory": memory, "rounds": taken, "seconds": round(time.perf_counter() - began, 1), **measured}
    print_demands(result, demands_of(samples, measured["contexts"], measured["threads"]), max(measured["threads"]))


def _measured(config: ModelConfig, threads: Sequence[int]) -> dict[str, Any]:
    """What is measured, up to the model's context: a prompt, and steps after each of `contexts`."""
    most = config.context - TOKENS - 1
    contexts = [context for context in CONTEXTS if context <= most] or [most]
    prompt = min(PROMPT, most)
    return {
        "prompt": prompt, "contexts": contexts, "capacity": max(prompt, *contexts) + TOKENS + 1, "tokens": TOKENS,
        "threads": sorted(set(threads), reverse=True),
    }  # fmt: skip


def row_of(engine: str, threads: int) -> str:
    return f"{engine}, {threads} thread{'s' if threads > 1 else ''}"


@dataclass(frozen=True)
class _Contender:
    """A process, and the rows of the table that it fills by the number of threads."""

    process: AnsweringProcess
    rows: Mapping[int, str]


def _contenders(folder: Path, python: str, measured: Mapping[str, Any], limit: str | None) -> Iterator[_Contender]:
    """Ours, which take samples with every number of threads, and llama.cpp's, with one each."""
    release, threads = folder / "release", measured["threads"]
    for dtype, kind in PAIRS.items():
        request = {"directory": str(release), "dtype": dtype, **measured}
        environment = ISA_LIMITS[limit] if limit else None
        ours = MeasuringProcess("benchmarks.llama_cpp:sample_ours", request, max(threads), environment=environment)
        yield _Contender(ours, {number: row_of(dtype, number) for number in threads})
        path = folder / f"{kind}.gguf"
        export_release(release, path, "gguf", EXPORTED[kind], Progress())
        for suffix, flash in ATTENTIONS.items():
            for number in threads:
                prompts = number == max(threads)
                serving = {"do": "serve", "path": str(path), "flash": flash, "prompts": prompts, **measured}
                process = _script(python, serving | {"threads": number})
                yield _Contender(process, {number: row_of(f"llama.cpp {kind}{suffix}", number)})


def _script(python: str, request: Mapping[str, Any]) -> AnsweringProcess:
    # -I: the script's folder holds modules with the names of others.
    return AnsweringProcess([python, "-I", str(SCRIPT)], request, os.environ)


def _answer_of(python: str, request: Mapping[str, Any]) -> Answer:
    """The one answer of the script. ParakeetError if it cannot run with this Python, or fails."""
    try:
        with _script(python, request) as process:
            answer = process.ask()
    except OSError as error:
        raise ParakeetError(f"{python} cannot be run as a Python ({error.strerror}). {ADVICE}") from None
    if "refused" in answer:
        raise ParakeetError(f"{python} cannot run llama.cpp: {answer['refused']}. {ADVICE}")
    return answer


def sample_ours(request: dict[str, Any]) -> Iterator[Answer]:
    """In a process of Parakeet: load; then one sample after the other, greedily: of the prompt, and of each context
    with each number of threads."""
    began = time.perf_counter()
    decoder = Decoder(load_model(Path(request["directory"]), "cpu"), request["dtype"])
    cache = filled_cache(decoder, request["capacity"])
    yield {"seconds": time.perf_counter() - began}
    ids = [number * 37 % 250 for number in range(request["prompt"])]
    while True:
        torch.set_num_threads(max(request["threads"]))
        cache.lengths = [0]
        with _Clock() as clock:
            token = int(decoder.prefill(ids, cache).argmax())
        yield clock.per(1)
        for context in request["contexts"]:
            for threads in request["threads"]:
                torch.set_num_threads(threads)
                cache.lengths = [context]
                with _Clock() as clock:
                    for _ in range(request["tokens"]):
                        token = int(decoder.step([token], cache)[0].argmax())
                yield clock.per(request["tokens"])


class _Clock:
    """Seconds and CPU seconds of a `with` block."""

    def __enter__(self) -> "_Clock":
        self._cpu, self._seconds = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu, self._seconds = time.process_time() - self._cpu, time.perf_counter() - self._seconds

    def per(self, count: int) -> Answer:
        return {"seconds": self._seconds / count, "cpu_seconds": self._cpu / count}


def _measure(
    contenders: Sequence[_Contender], measured: Mapping[str, Any], rounds: int, began: float
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Samples of each row by figure ("prompt", or a context), and why rows are left out.

    What is compared is measured one after the other: all that have the same number of threads, at the same context.
    """
    asked = [("prompt", max(measured["threads"]))]
    asked += [(str(context), number) for context in measured["contexts"] for number in measured["threads"]]
    samples: dict[str, Figures] = {}
    left_out: dict[str, str] = {}
    with Progress().task("Measuring", rounds, "rounds") as task:
        for _ in rounds_within(rounds, BUDGET, began):
            for figure, number in asked:
                for contender in contenders:
                    if (row := contender.rows.get(number)) is None:
                        continue
                    answer = contender.process.ask()
                    if "refused" in answer:
                        left_out |= {name: str(answer["refused"]) for name in contender.rows.values()}
                    else:
                        found = samples.setdefault(row, {}).setdefault(figure, [])
                        found.append((answer["seconds"], answer["cpu_seconds"]))
            task.advance()
    return {row: figures for row, figures in samples.items() if row not in left_out}, left_out


def _table(samples: Mapping[str, Figures], memory: Mapping[str, Answer], measured: Mapping[str, Any]) -> str:
    contexts = [str(context) for context in measured["contexts"]]
    columns = ["", f"prompt of {measured['prompt']}, tokens/s", "first token s"]
    columns += [f"decode at {context}, tokens/s" for context in contexts]
    columns += [f"CPU ms a token at {contexts[0]}", "peak memory", "anonymous"]
    rows = []
    for name, figures in sorted(samples.items(), key=lambda item: item[0].rpartition(", ")[2]):
        prompt = figures.get("prompt")
        row = [name, _rate(prompt, measured["prompt"]), f"{_seconds(prompt).median:.2f}"] if prompt else [name, "", ""]
        row += [_rate(figures[context], 1) for context in contexts]
        row.append(f"{1e3 * median(cpu for _, cpu in figures[contexts[0]]):.1f}")
        rows.append(row + [format_bytes(n) if n else "" for n in memory[name].values()])
    return render_table(columns, rows, right=range(1, len(columns)))


def _rate(samples: Sequence[tuple[float, float]], tokens: int) -> str:
    rate = Sample.of([tokens / seconds for seconds, _ in samples])
    digits = 0 if rate.median >= 100 else 1
    return f"{rate.median:.{digits}f} ({rate.low:.{digits}f} to {rate.high:.{digits}f})"


def _seconds(samples: Sequence[tuple[float, float]]) -> Sample:
    return Sample.of([seconds for seconds, _ in samples])


def _as_json(figures: Figures) -> dict[str, Any]:
    return {
        figure: {"seconds": _seconds(found).as_json(), "cpu_seconds": Sample.of([cpu for _, cpu in found]).as_json()}
        for figure, found in figures.items()
    }


def _memory_of(pid: int) -> Answer:
    """Bytes of a process on Linux: the most that was resident, and what is now resident but not mapped from a file."""
    text = ""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = {key: re.search(rf"^{line}:\s+(\d+) kB$", text, re.MULTILINE) for key, line in MEMORY.items()}
    return {key: 1024 * int(match[1]) if match else None for key, match in found.items()}


def demands_of(samples: Mapping[str, Figures], contexts: Sequence[int], threads: Sequence[int]) -> list[Demand]:
    """Decoding beside the faster attention of llama.cpp, round by round; prompts beside fp32's."""

    def times_as_fast(row: str, others: Sequence[str], figure: str) -> float | None:
        """The median over rounds, beside the fastest of the others."""
        known = [samples[name][figure] for name in others if name in samples]
        if not known or row not in samples:
            return None
        fastest = min(known, key=lambda found: _seconds(found).median)
        return median(theirs / ours for (theirs, _), (ours, _) in zip(fastest, samples[row][figure], strict=True))

    demands = []
    most = max(threads)
    for dtype, kind in PAIRS.items():
        for number in threads:
            others = [row_of(f"llama.cpp {kind}{suffix}", number) for suffix in ATTENTIONS]
            for context in contexts:
                ratio = times_as_fast(row_of(dtype, number), others, str(context))
                text = row_of(f"{dtype} beside {kind}, decode at {context:,}", number)
                demands.append(at_least(text, ratio, 1.0, " times"))
        if dtype != "fp32":
            ratio = times_as_fast(row_of(dtype, most), [row_of("fp32", most)], "prompt")
            demands.append(at_least(f"{dtype} beside fp32, prompt", ratio, 0.9, " times"))
    mine = [samples[row] for dtype in PAIRS if (row := row_of(dtype, most)) in samples]
    first = min((_seconds(figures["prompt"]).median for figures in mine), default=None)
    step = min((_seconds(figures[str(contexts[0])]).median for figures in mine), default=None)
    return [
        *demands,
        at_most("first token, fastest dtype", first, FIRST_TOKEN_SECONDS, " s"),
        at_least(f"decode at {contexts[0]}, fastest dtype", step and 1 / step, DECODE_RATE, " tokens/s"),
    ]


if __name__ == "__main__":
    run_command(main)
