"""How fast a model trains, in how much memory: on a CPU as a ladder from the original's way to ours, or on a card."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import click
import torch

from parakeet.benchmarks import on_card
from parakeet.benchmarks.demands import Demand, at_least, at_most, print_demands
from parakeet.benchmarks.ladder import LENGTHS, ORIGINAL, SHAPES, Ladder, Row, measure_growth
from parakeet.benchmarks.loader import measure_loader
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress, Task
from parakeet.recipe import Recipe, Training
from parakeet.recipe_file import load_recipe
from parakeet.sanitise import sanitise
from parakeet.training.memory import parse_memory

MIB = 1 << 20
CPU_ROUNDS, CARD_ROUNDS = 3, 15
JUDGED = 4096
"""Row length in tokens at which speed and memory are held to more than keeping up."""
LEAST_SPEED, LEAST_SPEED_JUDGED, MOST_MEMORY = 0.95, 3.0, 0.25
MOST_GROWTH = 2.1
"""Of the memory when the length doubles: 2 or less where it is linear, 4 where it is quadratic."""
LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_SECONDS = 100_000, 300, 3.0
"""120 MB of ids: more than caches hold."""
LOADER_TIMES, LOADER_SPEED = 100, 20.0
CARD_COMMAND = "parakeet bench train --recipe parakeet-378m --memory 11.2GiB"


def run(
    recipe: Recipe | None, shapes: Sequence[str], lengths: Sequence[int], memory: str, rounds: int | None, threads: int
) -> None:
    """Tables, then one JSON line: of a recipe's model on the card if there is one, else on the CPU.

    With no recipe, of some or all SHAPES on the CPU, with the demo's learning rate and so on. `memory`, as "11.2GiB",
    caps what is taken of the card.
    """
    with_card = recipe is not None and torch.cuda.is_available()
    if memory and not with_card:
        where = "with no recipe the CPU is measured" if torch.cuda.is_available() else "torch finds no CUDA device here"
        raise ParakeetError(f"--memory caps what is taken of a card, but {where}: leave it out.")
    if rounds is None:
        rounds = CARD_ROUNDS if with_card else CPU_ROUNDS
    if with_card and recipe is not None:
        result = on_card.run(recipe, parse_memory(memory) if memory else 0, rounds, threads)
    else:
        training = (recipe or load_recipe("demo")).training
        result = _on_cpu(_shapes(recipe, shapes), training, lengths or LENGTHS, rounds, threads)
    result |= {"rounds": rounds, "cpus": os.cpu_count(), "threads": threads or torch.get_num_threads()}
    result |= {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    click.echo(json.dumps(result))


def demands_of(name: str, tables: Mapping[int, Sequence[Row]], memory: Mapping[int, int | None]) -> list[Demand]:
    """Of a shape: speed beside the original's way at every length, more of it at 4,096, memory there and its growth.

    `memory`: bytes of ours by length, each the double of the one before.
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
    unfit = [length for length in lengths if tokens % length]
    if unfit:
        raise ParakeetError(f"--length {unfit[0]} does not go into steps of {tokens:,} tokens, the longest length.")
    ladders = {
        name: [Ladder.of(config, training, length, tokens) for length in sorted(set(lengths))]
        for name, config in shapes.items()
    }
    # Each length, and the growth.
    total = sum(len(some) + 1 for some in ladders.values())
    result: dict[str, Any] = {"benchmark": "train", "device": "cpu", "tokens": tokens, "shapes": {}}
    demands: list[Demand] = []
    fastest = 0.0
    with Progress().task("Measuring on cpu", total, "tables") as task:
        for name, some in ladders.items():
            tables, memory = _shape(name, some, rounds, threads, task)
            result["shapes"][name] = {
                "parameters": some[0].config.parameter_count,
                "lengths": {length: [row.as_json() for row in rows] for length, rows in tables.items()},
                "growth": memory,
            }
            demands += demands_of(name, tables, memory)
            speeds = [row.speed.median for rows in tables.values() for row in rows if row.speed]
            fastest = max([fastest, *speeds])
    loader = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, min(1024, tokens), LOADER_SECONDS)
    demands += [
        at_least("loader alone", loader / 1e6, LOADER_SPEED, " M tokens/s"),
        at_least("loader beside the fastest row above", loader / fastest if fastest else None, LOADER_TIMES, "x"),
    ]
    print_demands(demands)
    click.echo(_about_cards())
    return result | {"loader_tokens_per_second": loader, "demands": [demand.as_json() for demand in demands]}


def _about_cards() -> str:
    if torch.cuda.is_available():
        return f"CUDA: not measured; there is a device: {CARD_COMMAND}\n"
    return f"CUDA: not measured, there is no device here. Where there is one: {CARD_COMMAND}\n"


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
        tables[ladder.row_tokens] = ladder.measure(rounds, threads)
        task.advance()
        _print_table(ladder, tables[ladder.row_tokens])
    ours = next((row.rung.way for row in tables[ladders[-1].row_tokens] if row.ours), None)
    if ours is None:
        return tables, {}
    memory = measure_growth(ladders[-1], ours, threads)
    task.advance()
    spans = ", ".join(f"{length:,}: {_mib(n_bytes)}" for length, n_bytes in memory.items())
    click.echo(f"Peak MiB of ours ({ours.name}), one row of so many tokens: {spans}\n")
    return tables, memory


def _print_table(ladder: Ladder, rows: Sequence[Row]) -> None:
    original = rows[0]
    count = ladder.training.batch_tokens // ladder.row_tokens
    title = f"T = {ladder.row_tokens:,}, {count:,} row{'s' if count > 1 else ''}"
    click.echo(
        f"{title:<28}{'tokens/s':>9}{'low to high':>18}{'x original':>11}{'MFU':>9}"
        f"{'peak MiB':>10}{'forecast':>9}{'of original':>12}"
    )
    for row in rows:
        name = f"{row.rung.way.name:<28}"
        if row.speed is None:
            click.echo(f"{name}  {sanitise(row.refused)}")
            continue
        span = f"{row.speed.low:,.0f} to {row.speed.high:,.0f}"
        click.echo(
            f"{name}{row.speed.median:>9,.0f}{span:>18}{_shown(_times(row, original), '.2f'):>11}{'unknown':>9}"
            f"{_mib(row.above):>10}{_mib(row.rung.forecast):>9}{_shown(_share(row, original), '.1%'):>12}"
            + ("  <- ours" if row.ours else "")
        )
    click.echo()


def _of_ours(rows: Sequence[Row], ratio: Callable[[Row, Row], float | None]) -> float | None:
    original = next((row for row in rows if row.rung.way.name == ORIGINAL), None)
    ours = next((row for row in rows if row.ours), None)
    return ratio(ours, original) if original and ours else None


def _times(row: Row, original: Row) -> float | None:
    return row.speed.median / original.speed.median if row.speed and original.speed else None


def _share(row: Row, original: Row) -> float | None:
    return row.above / original.above if row.above is not None and original.above else None


def _mib(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / MIB:,.0f}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
