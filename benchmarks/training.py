"""`python -m benchmarks.training`: our training step beside the original's, on the CPU or with --recipe on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import click
import torch

from benchmarks import gpu_training
from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from benchmarks.ladder import LENGTHS, ORIGINAL, SHAPES, Ladder, measure_growth, ours_among
from benchmarks.packing import measure_loader
from parakeet.benchmarks.process import print_result
from parakeet.benchmarks.training import Row, mebibytes
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress, Task
from parakeet.recipe import Recipe, Training
from parakeet.recipe_file import load_recipe
from parakeet.sanitise import sanitise
from parakeet.training.forecast import parse_memory

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
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: what torch chooses]")
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
        rounds = rounds or GPU_ROUNDS
        result = gpu_training.run(recipe, parse_memory(memory) if memory else 0, rounds, threads)
    else:
        rounds = rounds or CPU_ROUNDS
        training = (recipe or load_recipe("demo")).training
        result = _on_cpu(_shapes(recipe, shapes), training, lengths or LENGTHS, rounds, threads)
    print_result(result | {"rounds": rounds}, threads)


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


def _shapes(recipe: Recipe | None, names: Sequence[str]) -> dict[str, ModelConfig]:
    if recipe is not None:
        return {recipe.name: ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))}
    return {name: SHAPES[name] for name in names or SHAPES}


def _on_cpu(
    shapes: Mapping[str, ModelConfig], training: Training, lengths: Sequence[int], rounds: int, threads: int
) -> dict[str, Any]:
    tokens = max(lengths)
    if unfit := [length for length in lengths if tokens % length]:
        raise ParakeetError(f"--length {unfit[0]} does not divide a step of {tokens:,} tokens, the longest length.")
    result: dict[str, Any] = {"benchmark": "training", "device": "cpu", "tokens": tokens, "shapes": {}}
    demands: list[Demand] = []
    speeds = []
    lengths = sorted(set(lengths))
    with Progress().task("Measuring on cpu", len(shapes) * (len(lengths) + 1), "tables") as task:
        for name, config in shapes.items():
            ladders = [Ladder.of(config, training, length, tokens) for length in lengths]
            tables, memory = _shape(name, ladders, rounds, threads, task)
            result["shapes"][name] = {
                "parameters": config.parameter_count,
                "lengths": {length: [row.as_json() for row in rows] for length, rows in tables.items()},
                "growth": memory,
            }
            demands += demands_of(name, tables, memory)
            speeds += [row.speed.median for rows in tables.values() for row in rows if row.speed]
    loader = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, min(1024, tokens), LOADER_SECONDS)
    fastest = max(speeds, default=0.0)
    demands += [
        at_least("loader alone", loader / 1e6, LOADER_SPEED, " M tokens/s"),
        at_least("loader beside the fastest row above", loader / fastest if fastest else None, LOADER_TIMES, "x"),
    ]
    print_demands(demands)
    click.echo(f"CUDA: not measured. Where there is a device: {GPU_COMMAND}\n")
    return result | {"loader_tokens_per_second": loader, "demands": [demand.as_json() for demand in demands]}


def _shape(
    name: str, ladders: Sequence[Ladder], rounds: int, threads: int, task: Task
) -> tuple[dict[int, list[Row]], dict[int, int | None]]:
    """Measure and print all lengths of one shape, and how its memory grows."""
    config, tokens = ladders[0].config, ladders[0].training.batch_tokens
    click.echo(
        f"{sanitise(name)}: {config.layers} layers, {config.heads} heads, width {config.width}, "
        f"{config.vocabulary_rows:,} rows, {config.parameter_count:,} parameters; {tokens:,} tokens a step, AdamW\n"
    )
    tables: dict[int, list[Row]] = {}
    for ladder in ladders:
        tables[ladder.sequence_length] = ladder.measure(rounds, threads)
        task.advance()
        _print_table(ladder, tables[ladder.sequence_length])
    ours = ours_among(tables[ladders[-1].sequence_length])
    if ours is None:
        return tables, {}
    memory = measure_growth(ours.configuration.measurement, threads)
    task.advance()
    spans = ", ".join(f"{length:,}: {mebibytes(n_bytes)}" for length, n_bytes in memory.items())
    click.echo(f"Peak MiB of ours ({ours.configuration.name}), one sequence of so many tokens: {spans}\n")
    return tables, memory


def _print_table(ladder: Ladder, rows: Sequence[Row]) -> None:
    original, ours = rows[0], ours_among(rows)
    count = ladder.training.batch_tokens // ladder.sequence_length
    title = f"T = {ladder.sequence_length:,}, {count:,} row{'s' if count > 1 else ''}"
    click.echo(
        f"{title:<28}{'tokens/s':>9}{'low to high':>18}{'x original':>11}{'peak MiB':>10}{'forecast':>9}"
        f"{'of original':>12}"
    )
    for row in rows:
        name = f"{row.configuration.name:<28}"
        if row.speed is None:
            click.echo(f"{name}  {sanitise(row.refused)}")
            continue
        span = f"{row.speed.low:,.0f} to {row.speed.high:,.0f}"
        click.echo(
            f"{name}{row.speed.median:>9,.0f}{span:>18}{_shown(_times(row, original), '.2f'):>11}"
            f"{mebibytes(row.memory):>10}{mebibytes(row.configuration.forecast):>9}"
            f"{_shown(_share(row, original), '.1%'):>12}" + ("  <- ours" if row is ours else "")
        )
    click.echo()


def _of_ours(rows: Sequence[Row], ratio: Callable[[Row, Row], float | None]) -> float | None:
    original = next((row for row in rows if row.configuration.name == ORIGINAL), None)
    ours = ours_among(rows)
    return ratio(ours, original) if original and ours else None


def _times(row: Row, original: Row) -> float | None:
    return row.speed.median / original.speed.median if row.speed and original.speed else None


def _share(row: Row, original: Row) -> float | None:
    return row.memory / original.memory if row.memory is not None and original.memory else None


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    run_command(main)
