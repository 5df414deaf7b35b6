"""`parakeet bench train`: how fast a recipe's model trains on this machine, and in how much memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch

from parakeet.benchmarks.process import OUT_OF_MEMORY, print_result
from parakeet.benchmarks.steps import Measurement, Steps, measure_steps
from parakeet.benchmarks.timing import Sample
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_percent
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import best_device
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe, Training
from parakeet.sanitise import sanitise
from parakeet.training.device import memory_budget
from parakeet.training.forecast import ExecutionChoice, choose, parse_memory
from parakeet.training.gpus import find_gpu

SECONDS = 240.0
"""The most for one configuration on a GPU; compiling takes most of it."""
ROUNDS = {"cpu": 3, "cuda": 15}
BESIDE_THE_STEP = ("weights", "optimizer", "checkpoint copy")
"""Parts of a forecast that exist before a step, or that no measured step needs."""


@dataclass(frozen=True)
class Configuration:
    """One row of a table, before it is measured.

    `forecast` is None for what the trainer cannot do. In bytes: on a GPU all that is allocated, on a CPU what a step
    takes above weights and optimizer state, since Python and its libraries hold an unknown amount besides. `needed` is
    the forecast of everything. `auto`: what the trainer chooses when the recipe says `auto`.
    """

    name: str
    measurement: Measurement
    forecast: int | None
    needed: int = 0
    auto: bool = False

    @classmethod
    def of_choice(
        cls, name: str, measurement: Measurement, choice: ExecutionChoice, auto: bool = False
    ) -> "Configuration":
        forecast = choice.forecast
        above = sum(n_bytes for part, n_bytes in forecast.parts.items() if part not in BESIDE_THE_STEP)
        return cls(name, measurement, above if measurement.device == "cpu" else forecast.total, forecast.total, auto)


@dataclass(frozen=True)
class Row:
    """A measured configuration: tokens a second, bytes of memory (as in `Configuration.forecast`), and the share of the
    GPU's peak arithmetic, with causal attention counted as half of it or, as the PaLM paper does, in full."""

    configuration: Configuration
    speed: Sample | None = None
    memory: int | None = None
    device: str = ""
    mfu: float | None = None
    mfu_palm: float | None = None
    refused: str = ""

    @classmethod
    def of(cls, configuration: Configuration, steps: Steps) -> "Row":
        if steps.refused:
            return cls(configuration, refused=steps.refused)
        measurement = configuration.measurement
        tokens, length = measurement.rows * measurement.sequence_length, measurement.sequence_length
        speed = Sample.of([tokens / seconds for seconds in steps.seconds])
        memory = steps.above if measurement.device == "cpu" else steps.peak
        known = find_gpu(steps.device)
        if known is None:
            return cls(configuration, speed, memory, steps.device)
        # PaLM's count at this length is the causal count at twice the length.
        mfu, mfu_palm = (
            measurement.config.flops_per_token(counted) * speed.median / (known.tflops_bf16 * 1e12)
            for counted in (length, 2 * length)
        )
        return cls(configuration, speed, memory, steps.device, mfu, mfu_palm)

    @property
    def length(self) -> int:
        return self.configuration.measurement.sequence_length

    @property
    def out_of_memory(self) -> bool:
        return self.refused.startswith(OUT_OF_MEMORY)

    @property
    def deviation(self) -> float | None:
        """Of the forecast from the measured memory."""
        forecast = self.configuration.forecast
        return None if forecast is None or not self.memory else forecast / self.memory - 1

    def as_json(self) -> dict[str, Any]:
        measurement = self.configuration.measurement
        return {
            "name": self.configuration.name,
            "execution": asdict(measurement.execution) if measurement.execution else None,
            "sequence_length": measurement.sequence_length,
            "rows": measurement.rows,
            "pass_rows": measurement.pass_rows,
            "optimizer": measurement.training.optimizer,
            "auto": self.configuration.auto,
            "tokens_per_second": self.speed.as_json() if self.speed else None,
            "memory_bytes": self.memory,
            "forecast_bytes": self.configuration.forecast,
            "mfu": self.mfu,
            "mfu_palm": self.mfu_palm,
            "refused": self.refused,
        }


def run(recipe: Recipe, memory: str, rounds: int | None, threads: int) -> None:
    """Measure the recipe's step with each kind of activation checkpointing; a table, then one JSON line.

    `memory` ("11.2GiB") caps what a GPU may allocate.
    """
    device = best_device()
    if memory and device == "cpu":
        raise ParakeetError("--memory caps the memory of a GPU, but PyTorch finds no CUDA device here. Leave it out.")
    cap = parse_memory(memory) if memory else 0
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    print_heading(recipe.name, config, device, cap)
    budget = cap or memory_budget(torch.device(device), 1)
    rounds = rounds or ROUNDS[device]
    rows = []
    for configuration in _configurations(config, recipe.training, recipe.packing.sequence_length, budget, device, cap):
        if configuration.needed > budget:
            refused = f"not measured: it needs about {format_bytes(configuration.needed)}"
            rows.append(Row(configuration, refused=refused))
        else:
            rows.append(measured(configuration, rounds, threads))
        print_row(rows[-1])
    click.echo()
    values = {"benchmark": "train", "recipe": recipe.name, "parameters": config.parameter_count, "rounds": rounds}
    values |= {"device": device_of(rows) or device, "memory_bytes": cap, "rows": [row.as_json() for row in rows]}
    print_result(values, threads)


def measured(configuration: Configuration, rounds: int, threads: int) -> Row:
    seconds = None if configuration.measurement.device == "cpu" else SECONDS
    (steps,) = measure_steps([configuration.measurement], rounds, threads, seconds)
    return Row.of(configuration, steps)


def device_of(rows: Sequence[Row]) -> str:
    """The name of the device that rows were measured on; empty when all were refused."""
    return next((row.device for row in rows if row.device), "")


def _configurations(
    config: ModelConfig, training: Training, sequence_length: int, budget: int, device: str, cap: int
) -> list[Configuration]:
    auto = choose(config, training, sequence_length, budget, cuda=device != "cpu")
    # Four passes at most: a step of the recipe may be a minute long.
    tokens = min(training.batch_tokens, 4 * auto.micro_batch_tokens)
    settings = training.model_copy(update={"batch_tokens": tokens})
    found = []
    for activation_checkpointing in ("none", "mlp", "block"):
        choice = choose(
            config,
            settings.model_copy(update={"activation_checkpointing": activation_checkpointing}),
            sequence_length,
            budget,
            cuda=device != "cpu",
        )
        passes = choice.micro_batch_tokens
        measurement = Measurement(
            config, settings, tokens // sequence_length, sequence_length, passes // sequence_length, choice.execution,
            device=device, memory=cap,
        )  # fmt: skip
        name = f"{activation_checkpointing}, {passes:,} tokens a pass"
        found.append(Configuration.of_choice(name, measurement, choice, choice.execution == auto.execution))
    return found


def print_heading(name: str, config: ModelConfig, device: str, cap: int) -> None:
    limit = f", at most {format_bytes(cap)}" if cap else ""
    click.echo(f"{sanitise(name)}: {config.parameter_count:,} parameters, random weights, on {device}{limit}")
    if device == "cpu":
        click.echo("Memory is what a step takes beside weights and optimizer state.")
    click.echo(
        f"\n{'activation checkpointing':<36}{'length':>7}{'rows':>5}{'memory':>11}{'forecast':>11}{'off':>8}"
        f"{'tokens/s':>10}{'low to high':>20}{'MFU':>9}{'PaLM':>9}"
    )


def print_row(row: Row) -> None:
    measurement, forecast = row.configuration.measurement, row.configuration.forecast
    begin = f"{row.configuration.name:<36}{measurement.sequence_length:>7,}{measurement.rows:>5}"
    if row.speed is None:
        click.echo(f"{begin}  {sanitise(row.refused)}")
        return
    off = "" if row.deviation is None else f"{row.deviation:+.1%}"
    span = f"{row.speed.low:,.0f} to {row.speed.high:,.0f}"
    memory, expected = ("" if size is None else format_bytes(size) for size in (row.memory, forecast))
    mfu, palm = ("unknown" if share is None else format_percent(share) for share in (row.mfu, row.mfu_palm))
    click.echo(
        f"{begin}{memory:>11}{expected:>11}{off:>8}{row.speed.median:>10,.0f}{span:>20}"
        f"{mfu:>9}{palm:>9}" + ("  <- auto" if row.configuration.auto else "")
    )
