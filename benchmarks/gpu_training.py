"""Training on a GPU: the longest sequences that the original's way can hold, and ours at full length, under one cap.

Every configuration is measured in a process of its own: one that ran out of memory would leave fragments behind.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from benchmarks.demands import Demand, at_least, at_most, print_demands
from benchmarks.original_step import ORIGINAL, OriginalStep
from parakeet.benchmarks.steps import Measurement
from parakeet.benchmarks.training import Configuration, Row, device_of, measured, print_heading, print_row
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe, Training
from parakeet.sanitise import sanitise
from parakeet.training.forecast import GIB, choose
from parakeet.training.gpus import find_gpu


@dataclass(frozen=True)
class Preset:
    """Settings of the recipe, and the memory that they may take at 8,192 tokens, where there is such a limit."""

    name: str
    settings: dict[str, Any]
    limit_gib: float | None = None


PRESETS = (
    Preset(
        "fp32 AdamW, blocks again", {"optimizer": "adamw", "residual": "fp32", "activation_checkpointing": "block"}, 8.6
    ),
    Preset(
        "8-bit AdamW, MLPs again",
        {"optimizer": "adamw_8bit", "residual": "bf16", "activation_checkpointing": "mlp"},
        9.0,
    ),
    Preset(
        "8-bit AdamW, compiled",
        {"optimizer": "adamw_8bit", "residual": "bf16", "activation_checkpointing": "none", "compile": True},
        10.3,
    ),
)
WITHOUT_8_BIT = Preset(
    "fp32 AdamW, MLPs again, compiled",
    {"optimizer": "adamw", "residual": "bf16", "activation_checkpointing": "mlp", "compile": True},
)
"""The fastest that fits where bitsandbytes is missing."""


@dataclass(frozen=True)
class Lengths:
    """Sequence lengths. `original`: one sequence, longer and longer until memory runs out. `ours`: all presets, in
    steps of as many tokens as the longest. `longest`: one sequence with the first preset."""

    original: tuple[int, ...] = (1200, 1280, 1400, 1536)
    ours: tuple[int, ...] = (8192, 1024)
    longest: tuple[int, ...] = (16_384, 24_576)


LENGTHS = Lengths()
FULL, LONGEST = 8192, 24_576
ORIGINAL_PARAMETERS = 378_343_296
ORIGINAL_BEGINS, ORIGINAL_ENDS = 1200, 1400
CAP_GIB = 11.2
MOST_DEVIATION = 0.10
LEAST_MFU = {1024: 0.45, 8192: 0.38}


def run(
    recipe: Recipe, memory: int, rounds: int, threads: int, device: str = "cuda", lengths: Lengths = LENGTHS
) -> None:
    """Measure and print every configuration. `memory` caps the allocator, 0 does not."""
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    print_heading(recipe.name, config, device, memory)
    rows: list[Row] = []
    for configuration in configurations(config, recipe.training, memory, device, lengths):
        if configuration.name == ORIGINAL and rows and rows[-1].out_of_memory:
            continue  # a longer one will run out, too
        rows.append(measured(configuration, rounds, threads))
        print_row(rows[-1])
    name = device_of(rows)
    known = find_gpu(name)
    peak = f"{known.tflops_bf16:g} TFLOPS of dense bf16" if known else "not in the table, so its MFU is unknown"
    click.echo(f"\n{sanitise(name)}: {peak}")
    demands = demands_of(rows, memory) if config.parameter_count == ORIGINAL_PARAMETERS else []
    result = {"benchmark": "training", "device": name, "recipe": recipe.name, "parameters": config.parameter_count}
    result |= {"memory_bytes": memory, "rounds": rounds, "rows": [row.as_json() for row in rows]}
    print_demands(result, demands, threads)


def demands_of(rows: Sequence[Row], memory: int) -> list[Demand]:
    """What the original's shape must reach under a cap of 11.2 GiB."""
    demands = [_original_demand([row for row in rows if row.configuration.name == ORIGINAL], memory)]
    ours = [row for row in rows if row.configuration.name != ORIGINAL]
    demands += [_peak_demand(preset, _row(ours, preset.name, FULL)) for preset in PRESETS]
    row = _row(ours, PRESETS[0].name, LONGEST)
    met = None if row is None or (row.refused and not row.out_of_memory) else not row.refused
    demands.append(Demand(f"{PRESETS[0].name}: runs at {LONGEST:,}", row.refused if row else "", met))
    off = [abs(row.deviation) for row in ours if row.deviation is not None]
    demands.append(at_most("forecast beside the measured peak, off by", _percent(off), 100 * MOST_DEVIATION, " %"))
    for length, share in LEAST_MFU.items():
        best = [row.mfu for row in ours if row.length == length and row.mfu is not None]
        demands.append(at_least(f"best MFU at {length:,}", _percent(best), 100 * share, " %"))
    return demands


def _peak_demand(preset: Preset, row: Row | None) -> Demand:
    assert preset.limit_gib is not None
    peak = row.memory / GIB if row and row.memory else None
    demand = at_most(f"{preset.name}, peak at {FULL:,}", peak, preset.limit_gib, " GiB")
    return replace(demand, found=row.refused, met=False) if row and row.out_of_memory else demand


def _original_demand(rows: Sequence[Row], memory: int) -> Demand:
    text = f"{ORIGINAL} runs at {ORIGINAL_BEGINS:,}, and no longer at {ORIGINAL_ENDS:,}"
    if abs(memory / GIB - CAP_GIB) > 0.05:
        return Demand(text, f"it is meant under --memory {CAP_GIB}GiB", None)
    if any(row.configuration.measurement.training.optimizer != "adamw_8bit" for row in rows):
        return Demand(text, "bitsandbytes, whose 8-bit state it had, is not here", None)
    if any(row.refused and not row.out_of_memory for row in rows):
        return Demand(text, "", None)
    ran = [row.length for row in rows if not row.refused]
    ended = [row.length for row in rows if row.refused]
    found = f"ran at {', '.join(map(str, ran)) or 'none'}; out of memory at {', '.join(map(str, ended)) or 'none'}"
    return Demand(text, found, ORIGINAL_BEGINS in ran and any(length <= ORIGINAL_ENDS for length in ended))


def configurations(
    config: ModelConfig, training: Training, memory: int, device: str, lengths: Lengths
) -> Iterator[Configuration]:
    """What is measured, in this order. `memory` caps the allocator, in bytes; 0 does not."""
    # The original had 8-bit optimizer state. Where bitsandbytes is missing, the rows name what they have instead.
    eight_bit = importlib.util.find_spec("bitsandbytes") is not None
    optimizer = "adamw_8bit" if eight_bit else "adamw"
    backward = f"{OriginalStep.__module__}:{OriginalStep.__name__}"
    for length in lengths.original:
        settings = training.model_copy(update={"batch_tokens": length, "optimizer": optimizer})
        original = Measurement(config, settings, 1, length, 1, None, backward, device, memory)
        yield Configuration(ORIGINAL, original, None)
    presets = PRESETS if eight_bit else (*PRESETS, WITHOUT_8_BIT)
    wanted = [(preset, length) for length in lengths.ours for preset in presets]
    wanted += [(PRESETS[0], length) for length in lengths.longest]
    for preset, length in wanted:
        tokens = max(*lengths.ours, length)
        fixed = {"batch_tokens": tokens, "micro_batch_tokens": tokens, "precision": "bf16", "compile": False}
        settings = training.model_copy(update=fixed | preset.settings)
        choice = choose(config, settings, length, memory, cuda=device != "cpu")
        rows, pass_rows = tokens // length, choice.micro_batch_tokens // length
        measurement = Measurement(config, settings, rows, length, pass_rows, choice.execution, "", device, memory)
        yield Configuration.of_choice(preset.name, measurement, choice)


def _row(rows: Sequence[Row], name: str, sequence_length: int) -> Row | None:
    return next((row for row in rows if (row.configuration.name, row.length) == (name, sequence_length)), None)


def _percent(shares: Sequence[float]) -> float | None:
    return 100 * max(shares) if shares else None
