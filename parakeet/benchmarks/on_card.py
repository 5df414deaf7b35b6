"""Training on a card: how long a row the original's way can take, and ours at full length under the same cap.

Every configuration is measured by a process of its own, since one that ran out of memory would leave fragments.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from parakeet.benchmarks.apart import OUT_OF_MEMORY
from parakeet.benchmarks.decoding import Sample
from parakeet.benchmarks.demands import Demand, at_least, at_most, print_demands
from parakeet.benchmarks.ladder import ORIGINAL
from parakeet.benchmarks.ways import Measurement, Way, take
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe, Training
from parakeet.sanitise import sanitise
from parakeet.training.forecast import choose
from parakeet.training.gpus import find_gpu
from parakeet.training.memory import GIB

SECONDS = 240.0
"""After which a configuration is given up: compiling takes most of it."""


@dataclass(frozen=True)
class Preset:
    """Settings of the recipe, and the most that they may take at 8,192 tokens, if that is demanded."""

    name: str
    settings: dict[str, Any]
    limit_gib: float | None = None


PRESETS = (
    Preset("fp32 AdamW, blocks again", {"optimizer": "adamw", "residual": "fp32", "recompute": "block"}, 8.6),
    Preset("8-bit AdamW, MLPs again", {"optimizer": "adamw_8bit", "residual": "bf16", "recompute": "mlp"}, 9.0),
    Preset(
        "8-bit AdamW, compiled",
        {"optimizer": "adamw_8bit", "residual": "bf16", "recompute": "none", "compile": True},
        10.3,
    ),
)
WITHOUT_8_BIT = Preset(
    "fp32 AdamW, MLPs again, compiled",
    {"optimizer": "adamw", "residual": "bf16", "recompute": "mlp", "compile": True},
)
"""The fastest that fits where bitsandbytes is missing."""


@dataclass(frozen=True)
class Lengths:
    """Tokens in a row. `original`: one row, longer and longer until memory runs out. `ours`: all presets, steps of as
    many tokens as the longest. `longest`: one row of the first preset."""

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


@dataclass(frozen=True)
class Configuration:
    """What one process measures; `forecast` in bytes, None for the original's way."""

    name: str
    measurement: Measurement
    forecast: int | None

    @property
    def row_tokens(self) -> int:
        return self.measurement.row_tokens


@dataclass(frozen=True)
class Row:
    """A configuration as it was measured: tokens a second, bytes allocated at most, and shares of the card's peak with
    attention counted causally and as in the PaLM paper (None for a card that is not in the table)."""

    configuration: Configuration
    device: str = ""
    speed: Sample | None = None
    peak: int | None = None
    mfu: float | None = None
    mfu_palm: float | None = None
    refused: str = ""

    @property
    def out_of_memory(self) -> bool:
        return self.refused.startswith(OUT_OF_MEMORY)

    @property
    def deviation(self) -> float | None:
        """Of the forecast from what was measured."""
        forecast = self.configuration.forecast
        return None if forecast is None or not self.peak else forecast / self.peak - 1

    def as_json(self) -> dict[str, Any]:
        measurement = self.configuration.measurement
        return {
            "name": self.configuration.name,
            "row_tokens": measurement.row_tokens,
            "rows": measurement.rows,
            "optimizer": measurement.training.optimizer,
            "tokens_per_second": self.speed.as_json() if self.speed else None,
            "peak_bytes": self.peak,
            "forecast_bytes": self.configuration.forecast,
            "mfu": self.mfu,
            "mfu_palm": self.mfu_palm,
            "refused": self.refused,
        }


def run(
    recipe: Recipe, memory: int, rounds: int, threads: int, device: str = "cuda", lengths: Lengths = LENGTHS
) -> dict[str, Any]:
    """Measure and print each configuration; the JSON line's values. `memory` caps the allocator, 0 does not."""
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    cap = f"the allocator capped at {memory / GIB:.2f} GiB" if memory else "the allocator not capped"
    click.echo(f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights, {cap}\n")
    _print_head()
    rows: list[Row] = []
    for configuration in _configurations(config, recipe.training, memory, device, lengths):
        if configuration.name == ORIGINAL and rows and rows[-1].out_of_memory:
            continue  # a longer one will run out, too
        rows.append(_measured(configuration, rounds, threads))
        _print_row(rows[-1])
    name = next((row.device for row in rows if row.device), "")
    known = find_gpu(name)
    peak = f"{known.tflops_bf16:g} TFLOPS of dense bf16" if known else "not in the table: its MFU is unknown"
    click.echo(f"\n{sanitise(name)}: {peak}\n")
    demands = demands_of(rows, memory) if config.parameter_count == ORIGINAL_PARAMETERS else []
    if demands:
        print_demands(demands)
    return {
        "benchmark": "train",
        "device": name,
        "recipe": recipe.name,
        "parameters": config.parameter_count,
        "memory_bytes": memory,
        "rows": [row.as_json() for row in rows],
        "demands": [demand.as_json() for demand in demands],
    }


def demands_of(rows: Sequence[Row], memory: int) -> list[Demand]:
    """What the original's shape is held to under a cap of 11.2 GiB."""
    demands = [_original_demand([row for row in rows if row.configuration.name == ORIGINAL], memory)]
    ours = [row for row in rows if row.configuration.name != ORIGINAL]
    demands += [_peak_demand(preset, _row(ours, preset.name, FULL)) for preset in PRESETS]
    row = _row(ours, PRESETS[0].name, LONGEST)
    met = None if row is None or (row.refused and not row.out_of_memory) else not row.refused
    demands.append(Demand(f"{PRESETS[0].name}: runs at {LONGEST:,}", row.refused if row else "", met))
    off = [abs(row.deviation) for row in ours if row.deviation is not None]
    demands.append(at_most("forecast beside the measured peak, off by", _percent(off), 100 * MOST_DEVIATION, " %"))
    for length, share in LEAST_MFU.items():
        best = [row.mfu for row in ours if row.configuration.row_tokens == length and row.mfu is not None]
        demands.append(at_least(f"best MFU at {length:,}", _percent(best), 100 * share, " %"))
    return demands


def _peak_demand(preset: Preset, row: Row | None) -> Demand:
    assert preset.limit_gib is not None
    peak = row.peak / GIB if row and row.peak else None
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
    ran = [row.configuration.row_tokens for row in rows if not row.refused]
    ended = [row.configuration.row_tokens for row in rows if row.refused]
    found = f"ran at {_listed(ran)}; out of memory at {_listed(ended)}"
    return Demand(text, found, ORIGINAL_BEGINS in ran and any(length <= ORIGINAL_ENDS for length in ended))


def _configurations(
    config: ModelConfig, training: Training, memory: int, device: str, lengths: Lengths
) -> Iterator[Configuration]:
    def measurement(settings: Training, way: Way, row_tokens: int) -> Measurement:
        rows = settings.batch_tokens // row_tokens
        return Measurement(config, settings, rows, row_tokens, way, device, memory)

    # The original's 8-bit state; where bitsandbytes is missing, the rows say which they had instead.
    eight_bit = importlib.util.find_spec("bitsandbytes") is not None
    optimizer = "adamw_8bit" if eight_bit else "adamw"
    for length in lengths.original:
        settings = training.model_copy(update={"batch_tokens": length, "optimizer": optimizer})
        yield Configuration(ORIGINAL, measurement(settings, Way(ORIGINAL, None, 1), length), None)
    full = max(lengths.ours)
    presets = PRESETS if eight_bit else (*PRESETS, WITHOUT_8_BIT)
    wanted = [(preset, length) for length in lengths.ours for preset in presets]
    wanted += [(PRESETS[0], length) for length in lengths.longest]
    for preset, length in wanted:
        tokens = max(full, length)
        fixed = {"batch_tokens": tokens, "micro_batch_tokens": tokens, "precision": "bf16", "compile": False}
        settings = training.model_copy(update=fixed | preset.settings)
        choice = choose(config, settings, length, memory, cuda=device != "cpu")
        way = Way(preset.name, choice.execution, choice.micro_batch_tokens // length)
        yield Configuration(preset.name, measurement(settings, way, length), choice.forecast.total)


def _measured(configuration: Configuration, rounds: int, threads: int) -> Row:
    measurement = configuration.measurement
    (taken,) = take([measurement], rounds, threads, SECONDS)
    if taken.refused:
        missing = "bitsandbytes" in taken.refused
        return Row(configuration, refused="not measured: " * missing + taken.refused)
    tokens, length = measurement.rows * measurement.row_tokens, measurement.row_tokens
    speed = Sample.of([tokens / seconds for seconds in taken.seconds])
    known = find_gpu(taken.device)
    causal = palm = None
    if known:
        per_flop = speed.median / (known.tflops_bf16 * 1e12)
        causal = measurement.config.flops_per_token(length) * per_flop
        # PaLM counts every score, the causal count half of them: the latter's at twice the length.
        palm = measurement.config.flops_per_token(2 * length) * per_flop
    return Row(configuration, taken.device, speed, taken.peak, causal, palm)


def _print_head() -> None:
    click.echo(
        f"{'':<34}{'T':>7}{'rows':>5}{'peak GiB':>9}{'forecast':>9}{'off':>7}{'tokens/s':>10}{'low to high':>20}"
        f"{'MFU':>9}{'PaLM':>9}"
    )


def _print_row(row: Row) -> None:
    measurement = row.configuration.measurement
    name = row.configuration.name
    if name == ORIGINAL:
        name += ", 8-bit AdamW" if measurement.training.optimizer == "adamw_8bit" else ", fp32 AdamW"
    begin = f"{name:<34}{measurement.row_tokens:>7,}{measurement.rows:>5}"
    if row.speed is None:
        click.echo(f"{begin}  {sanitise(row.refused)}")
        return
    forecast = row.configuration.forecast
    span = f"{row.speed.low:,.0f} to {row.speed.high:,.0f}"
    click.echo(
        f"{begin}{_gib(row.peak):>9}{_gib(forecast):>9}{'' if row.deviation is None else f'{row.deviation:+.1%}':>7}"
        f"{row.speed.median:>10,.0f}{span:>20}{_mfu(row.mfu):>9}{_mfu(row.mfu_palm):>9}"
    )


def _row(rows: Sequence[Row], name: str, row_tokens: int) -> Row | None:
    found = (row for row in rows if (row.configuration.name, row.configuration.row_tokens) == (name, row_tokens))
    return next(found, None)


def _percent(shares: Sequence[float]) -> float | None:
    return 100 * max(shares) if shares else None


def _gib(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / GIB:.2f}"


def _mfu(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _listed(lengths: Sequence[int]) -> str:
    return " and ".join(f"{length:,}" for length in lengths) or "none"
