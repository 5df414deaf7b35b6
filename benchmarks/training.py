"""`python -m benchmarks.training`: our training step beside the original's, on the CPU or with --recipe on a GPU.

On the CPU each row of a table adds one change to the row above it, from the original's step to ours: the same model
and the same tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import click
import torch

from benchmarks import gpu_training
from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from benchmarks.original_step import ORIGINAL, OriginalStep
from benchmarks.packing import measure_loader
from parakeet.benchmarks.steps import Measurement, measure_steps
from parakeet.benchmarks.training import Configuration, Row
from parakeet.cli.bench import THREADS
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_percent, render_table
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe import Training
from parakeet.recipe_file import load_recipe
from parakeet.sanitise import sanitise
from parakeet.training.forecast import ExecutionChoice, choose, machine_budget, parse_memory

SHAPES = {
    "3M": ModelConfig(layers=4, heads=4, width=256, context=8192, vocabulary_rows=4160),
    "25M": ModelConfig(layers=16, heads=3, width=192, context=8192, vocabulary_rows=100_288),
}
"""The demo's, and a deep one whose weights are mostly cl100k's embedding."""
LENGTHS = (256, 1024, 4096)
"""Tokens in a sequence. A step has as many tokens as the longest, at each of them."""
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fused attention", {"attention": "fused"}),
    ("products in bf16", {"precision": "bf16"}),
    ("residual in bf16", {"residual": "bf16"}),
    ("MLPs computed again", {"activation_checkpointing": "mlp"}),
    ("whole blocks again", {"activation_checkpointing": "block"}),
)
"""Settings of the recipe; each row has those of the rows above it, too."""
CPU_ROUNDS, GPU_ROUNDS = 3, 15
JUDGED = 4096
"""Sequence length at which speed and memory must be far better, not only as good."""
LEAST_SPEED, LEAST_SPEED_JUDGED, MOST_MEMORY = 0.95, 3.0, 0.25
MOST_GROWTH = 2.1
"""Of the memory when the length doubles: 2 or less is linear, 4 is quadratic."""
LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_SECONDS = 100_000, 300, 3.0
"""120 MB of ids: more than caches hold."""
LOADER_TIMES, LOADER_SPEED = 100, 20.0
GPU_COMMAND = "python -m benchmarks.training --recipe parakeet-378m --memory 11.2GiB"


@click.command("training")
@click.option("--recipe", "recipe_name", help="Measure this recipe's model, on a GPU if there is one.")
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="On the CPU.  [default: both]")
@click.option(
    "--length", "lengths", multiple=True, type=click.IntRange(8), metavar="N",
    help="Sequence length on the CPU, may be repeated.  [default: 256, 1024, 4096]",
)  # fmt: skip
@click.option("--memory", default="", metavar="SIZE", help="Cap on the GPU's memory, as 11.2GiB.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Samples of each number.  [default: 3, on a GPU 15]")
@THREADS
def main(
    recipe_name: str | None,
    shapes: tuple[str, ...],
    lengths: tuple[int, ...],
    memory: str,
    rounds: int | None,
    threads: int,
) -> None:
    """Time training steps and measure their memory, from the original's way to ours.

    On a CPU the rows add one change each, at several sequence lengths. On a GPU the original runs at longer and longer
    sequences until memory runs out, and ours at full length, beside the forecast.
    """
    if recipe_name and shapes:
        raise click.UsageError("--recipe and --shape both choose the model to measure: give one of them.")
    recipe = load_recipe(recipe_name) if recipe_name else None
    with_gpu = recipe is not None and torch.cuda.is_available()
    if memory and not with_gpu:
        where = "without --recipe the CPU is measured" if torch.cuda.is_available() else "there is no CUDA device here"
        raise ParakeetError(f"--memory caps the memory of a GPU, but {where}: leave it out.")
    if with_gpu and recipe is not None:
        gpu_training.run(recipe, parse_memory(memory) if memory else 0, rounds or GPU_ROUNDS, threads)
        return
    shapes_of = {name: SHAPES[name] for name in shapes or SHAPES}
    if recipe is not None:
        shapes_of = {recipe.name: ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))}
    training = (recipe or load_recipe("demo")).training
    _run_on_cpu(shapes_of, training, sorted(set(lengths or LENGTHS)), rounds or CPU_ROUNDS, threads)


def demands_of(name: str, tables: Mapping[int, Sequence[Row]], memory: Mapping[int, int | None]) -> list[Demand]:
    """Speed and memory beside the original's at each length, and how memory grows.

    `memory`: bytes of ours by length; each length is twice the one before.
    """
    demands = []
    for length, rows in tables.items():
        speed = _of_ours(rows, _times)
        demands.append(at_least(f"{name}, speed beside the original's way at {length:,}", speed, LEAST_SPEED, "x"))
        if length == JUDGED:
            demands.append(at_least(f"{name}, the same", speed, LEAST_SPEED_JUDGED, "x"))
            share = _of_ours(rows, _share)
            demands.append(at_most(f"{name}, peak memory beside it at {length:,}", share, MOST_MEMORY, "x"))
    sizes = list(memory.values())
    known = [size for size in sizes if size]
    doubled = [b / a for a, b in pairwise(known)] if len(known) == len(sizes) else []
    growth = max(doubled) if doubled else None
    return [*demands, at_most(f"{name}, peak memory when the length doubles", growth, MOST_GROWTH, "x")]


def rungs(config: ModelConfig, training: Training, sequence_length: int, tokens: int) -> Iterator[Configuration]:
    """The rows for steps of `tokens`, with the fused AdamW in each."""
    budget = machine_budget()
    fixed = {"batch_tokens": tokens, "micro_batch_tokens": tokens, "optimizer": "adamw", "compile": False}
    settings = training.model_copy(update=fixed)
    count = tokens // sequence_length
    base = Measurement(config, settings, count, sequence_length, count)
    plain: dict[str, Any] = {
        "attention": "reference",
        "precision": "fp32",
        "residual": "fp32",
        "activation_checkpointing": "none",
    }

    def chosen(changes: Mapping[str, Any]) -> ExecutionChoice:
        return choose(config, settings.model_copy(update=changes), sequence_length, budget, cuda=False)

    automatic = {"attention": "auto", "activation_checkpointing": "auto", "residual": "fp32", "micro_batch_tokens": 0}
    auto = {precision: chosen(automatic | {"precision": precision}) for precision in ("fp32", "bf16")}
    ours = [(choice.execution, choice.micro_batch_tokens) for choice in auto.values()]
    # Logits, their log-softmax and its gradient, in fp32.
    logits = 3 * 4 * tokens * config.vocabulary_rows
    original = replace(base, backward=f"{OriginalStep.__module__}:{OriginalStep.__name__}")
    yield Configuration(ORIGINAL, original, None, chosen(plain).forecast.total + logits)

    passes = auto["fp32"].micro_batch_tokens
    changes: list[tuple[str, dict[str, Any]]] = [
        ("loss in pieces", plain),
        (f"passes of {passes:,} tokens", {"micro_batch_tokens": passes}),
        *CHANGES,
    ]
    merged: dict[str, Any] = {}
    steps = []
    for name, change in changes:
        merged |= change
        steps.append((name, chosen(merged)))
    steps += [(f"auto in {precision}", choice) for precision, choice in auto.items()]
    seen = []
    for name, choice in steps:
        computed = (choice.execution, choice.micro_batch_tokens)
        if computed not in seen:
            seen.append(computed)
            pass_rows = choice.micro_batch_tokens // sequence_length
            measurement = replace(base, execution=choice.execution, pass_rows=pass_rows)
            yield Configuration.of_choice(name, measurement, choice, computed in ours)


def measure_rungs(configurations: Sequence[Configuration], rounds: int, threads: int) -> list[Row]:
    """Measure every row that fits the machine, one step of each in turn."""
    budget = machine_budget()
    able = [one.measurement for one in configurations if one.needed <= budget]
    measured = iter(measure_steps(able, rounds, threads))
    return [
        Row.of(one, next(measured))
        if one.needed <= budget
        else Row(one, refused=f"not measured: it needs about {format_bytes(one.needed)}")
        for one in configurations
    ]


def ours_among(rows: Sequence[Row]) -> Row | None:
    """The faster of what the trainer chooses in fp32 and in bf16."""
    able = [row for row in rows if row.configuration.auto and row.speed]
    return max(able, key=lambda row: row.speed.median if row.speed else 0.0, default=None)


def _run_on_cpu(
    shapes: Mapping[str, ModelConfig], training: Training, lengths: Sequence[int], rounds: int, threads: int
) -> None:
    tokens = max(lengths)
    if unfit := [length for length in lengths if tokens % length]:
        raise ParakeetError(f"--length {unfit[0]} does not divide a step of {tokens:,} tokens, the longest length.")
    result: dict[str, Any] = {"benchmark": "training", "device": "cpu", "tokens": tokens, "shapes": {}}
    demands: list[Demand] = []
    speeds = []
    with Progress().task("Measuring on cpu", len(shapes) * (len(lengths) + 1), "tables") as task:
        for name, config in shapes.items():
            click.echo(
                f"{sanitise(name)}: {config.layers} layers, {config.heads} heads, width {config.width}, "
                f"{config.vocabulary_rows:,} vocabulary rows, {config.parameter_count:,} parameters; {tokens:,} tokens "
                "a step, AdamW\n"
            )
            tables: dict[int, list[Row]] = {}
            for length in lengths:
                tables[length] = measure_rungs(list(rungs(config, training, length, tokens)), rounds, threads)
                task.advance()
                _print_table(f"{tokens // length} × {length:,} tokens", tables[length])
            ours = ours_among(tables[tokens])
            growth = {} if ours is None else _measure_growth(ours.configuration, threads)
            task.advance()
            demands += demands_of(name, tables, growth)
            speeds += [row.speed.median for rows in tables.values() for row in rows if row.speed]
            rows = {length: [row.as_json() for row in rows] for length, rows in tables.items()}
            result["shapes"][name] = {"parameters": config.parameter_count, "lengths": rows, "growth": growth}
    loader = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, min(1024, tokens), LOADER_SECONDS)
    fastest = max(speeds, default=0.0)
    demands += [
        at_least("loader alone", loader / 1e6, LOADER_SPEED, " M tokens/s"),
        at_least("loader beside the fastest row above", loader / fastest if fastest else None, LOADER_TIMES, "x"),
    ]
    click.echo(f"CUDA: not measured. Where there is a device: {GPU_COMMAND}")
    print_demands(result | {"rounds": rounds, "loader_tokens_per_second": loader}, demands, threads)


def _measure_growth(ours: Configuration, threads: int) -> dict[int, int | None]:
    """Bytes above weights and optimizer state by length, in a step of one sequence; None where it was refused."""
    longest = ours.measurement.sequence_length
    found: dict[int, int | None] = {}
    for length in (longest // 4, longest // 2, longest, 2 * longest):
        # One at a time: all of them together might not fit the machine.
        one = replace(ours.measurement, rows=1, pass_rows=1, sequence_length=length)
        (steps,) = measure_steps([one], 1, threads)
        found[length] = None if steps.refused else steps.above
    spans = ", ".join(f"{length:,}: {format_bytes(n) if n else 'refused'}" for length, n in found.items())
    click.echo(f"Peak memory of ours ({ours.name}), one sequence of so many tokens: {spans}\n")
    return found


def _print_table(title: str, rows: Sequence[Row]) -> None:
    original, ours = rows[0], ours_among(rows)
    columns = (title, "tokens/s", "low to high", "x original", "peak memory", "forecast", "of original", "")
    table: list[list[object]] = []
    for row in rows:
        if row.speed is None:
            table.append([row.configuration.name, *[""] * 6, row.refused])
            continue
        times, share, forecast = _times(row, original), _share(row, original), row.configuration.forecast
        table.append(
            [
                row.configuration.name,
                round(row.speed.median),
                f"{row.speed.low:,.0f} to {row.speed.high:,.0f}",
                "" if times is None else f"{times:.2f}",
                "" if row.memory is None else format_bytes(row.memory),
                "" if forecast is None else format_bytes(forecast),
                "" if share is None else format_percent(share),
                "<- ours" if row is ours else "",
            ]
        )
    click.echo(f"{render_table(columns, table, right=range(1, 7))}\n")


def _of_ours(rows: Sequence[Row], ratio: Callable[[Row, Row], float | None]) -> float | None:
    original = next((row for row in rows if row.configuration.name == ORIGINAL), None)
    ours = ours_among(rows)
    return ratio(ours, original) if original and ours else None


def _times(row: Row, original: Row) -> float | None:
    return row.speed.median / original.speed.median if row.speed and original.speed else None


def _share(row: Row, original: Row) -> float | None:
    return row.memory / original.memory if row.memory is not None and original.memory else None


if __name__ == "__main__":
    run_command(main)
