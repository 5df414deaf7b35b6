"""`parakeet bench generate`: how fast a model of a recipe's shape generates, beside the limits of the machine."""

import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from parakeet.benchmarks.decoding import (
    MATRIX,
    PREFILL_SECONDS,
    STOCK,
    Measured,
    Variant,
    capacity_of,
    filled_cache,
    measure,
    prefill_of,
    products,
    stock,
)
from parakeet.benchmarks.precision import Quality, bits_per_byte_by_precision
from parakeet.benchmarks.process import Answer, MeasuringProcess, MemorySampler, print_result
from parakeet.benchmarks.processor import ISA_LIMITS, this_processor
from parakeet.benchmarks.timing import Sample
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_duration, format_percent, render_table
from parakeet.generation.cache import CACHE_DTYPES
from parakeet.generation.choice import BYTES_PER_WEIGHT
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.matrices import prompt_dtype
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, load_model, save_model
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise

ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 1 << 29
"""Loading may hold this share of the weights' bytes, and so many bytes for Python and torch: never two copies."""


def run(recipe: Recipe, threads: int, rounds: int, root: Path) -> None:
    """Measure random weights of the recipe's shape in each precision that supports them; tables, then one JSON line.

    It takes ten minutes at most: when the time is used up, fewer rounds are taken.
    """
    began = time.perf_counter()
    if threads:
        torch.set_num_threads(threads)
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    result: dict[str, Any] = {"benchmark": "generate", "recipe": recipe.name, "parameters": config.parameter_count}
    result |= _machine()
    click.echo(f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights, batch 1\n")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_random_model(config, directory)
        loading = {dtype: measure_loading(directory, dtype, torch.get_num_threads()) for dtype in DTYPES}
        result["left_out"] = {dtype: loaded["refused"] for dtype, loaded in loading.items() if "refused" in loaded}
        result["loading"] = {dtype: loaded for dtype, loaded in loading.items() if dtype not in result["left_out"]}
        _print_loading(result["loading"], result["left_out"])
        result["cpu"] = measure_device(directory, "cpu", [STOCK, *result["loading"]], rounds, began)
        if torch.cuda.is_available():
            result["cuda"] = measure_device(directory, "cuda", [STOCK, "fp32", "bf16"], rounds)
        else:
            click.echo("CUDA: not measured, there is no device here.\n")
    result["bits_per_byte"] = _quality(root)
    result |= {"rounds": result["cpu"]["rounds"], "seconds": time.perf_counter() - began}
    print_result(result)


def _machine() -> dict[str, Any]:
    """Print and return what the figures depend on."""
    processor, capability = this_processor(), torch.backends.cpu.get_cpu_capability()
    limits = {name: os.environ[name] for name in ISA_LIMITS["avx2"] if name in os.environ}
    limited = f", limited by {' '.join(f'{name}={value}' for name, value in limits.items())}" if limits else ""
    click.echo(f"processor: {sanitise(str(processor))}")
    click.echo(f"torch uses {capability}{limited}, {torch.get_num_threads()} threads")
    click.echo(f"products of a step: {products()}")
    return {
        "processor": processor.name, "flags": processor.flags, "torch_capability": capability, "limits": limits,
        "products": products(),
    }  # fmt: skip


def write_random_model(config: ModelConfig, directory: Path) -> None:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, directory)


def measure_device(
    directory: Path, device: str, variants: list[str], rounds: int, began: float | None = None
) -> dict[str, Any]:
    """Measure one device, print its table, and return its part of the JSON line."""
    model = load_model(directory, "cpu")
    decoders = {name: stock(model, device) if name == STOCK else Decoder(model, name, device) for name in variants}
    capacity = capacity_of(model.config)
    compared = {name: Variant(decoder, filled_cache(decoder, capacity)) for name, decoder in decoders.items()}
    if (quantised := decoders.get("int8")) is not None:
        for dtype in [dtype for dtype in CACHE_DTYPES if dtype != quantised.cache_dtype]:
            compared[f"int8, {dtype} cache"] = Variant(quantised, filled_cache(quantised, capacity, dtype))
    with Progress().task(f"Measuring on {device}", rounds + 1, "rounds") as task:
        measured = measure(compared, device, rounds, lambda: task.advance(1), began)
    _print_speeds(device, measured, prefill_of(model.config))
    if measured.rounds < rounds:
        click.echo(f"{measured.rounds} rounds in place of {rounds}: the time was used up.\n")
    return {
        "variants": {
            name: {
                "decode_seconds": {context: sample.as_json() for context, sample in variant.decode.items()},
                "prefill_tokens": variant.prefill_tokens,
                "prefill_seconds": variant.prefill.as_json(),
                "bytes_per_token": variant.bytes_per_token,
                "cache_bytes_per_token": variant.cache_bytes_per_token,
            }
            for name, variant in measured.speeds.items()
        },
        "read_bandwidth": measured.bandwidth.as_json(),
        "matrix_rate": {dtype: rate.as_json() for dtype, rate in measured.matrix_rates.items()},
        "rounds": measured.rounds,
    }


def measure_loading(directory: Path, dtype: str, threads: int) -> Answer:
    """Load the model in a process of its own: its seconds, its peak memory, the allowed memory, and whether it is over.

    `{"refused": reason}` for a dtype that does not support the model's matrices. ParakeetError when the process failed.
    """
    request = {"directory": str(directory), "dtype": dtype}
    with (
        MeasuringProcess("parakeet.benchmarks.loading:load", request, threads) as process,
        MemorySampler(process.pid) as memory,
    ):
        answer = process.ask()
    if "refused" in answer:
        if answer["refused"].startswith("the process"):
            raise ParakeetError(f"Loading in {dtype} failed: {answer['refused']}.")
        return answer
    limit = ALLOWED_SHARE * answer["parameters"] * BYTES_PER_WEIGHT[dtype] + ALLOWED_BYTES
    peak = memory.main
    return {"seconds": answer["seconds"], "peak_bytes": peak, "limit_bytes": limit, "over": peak > limit}


def _print_speeds(device: str, measured: Measured, prompt: int) -> None:
    speeds, bandwidth, rates = measured.speeds, measured.bandwidth, measured.matrix_rates
    first, *others = speeds[STOCK].decode
    columns = [f"{device} at {first}", "ms/token", "tokens/s", "x stock", "GB/s", "of read"]
    columns += [column for context in others for column in (f"ms at {context:,}", "for the cache")]
    rows: list[list[str]] = []
    for name, variant in speeds.items():
        step = variant.decode[first].median
        rate = variant.bytes_per_token / step
        times = (f"{1e3 * step:.1f}", f"{1 / step:.1f}", f"{speeds[STOCK].decode[first].median / step:.2f}")
        row = [name, *times, f"{rate / 1e9:.1f}", format_percent(rate / bandwidth.median, 0)]
        for context in others:
            share = format_percent(max(0.0, variant.cache_share(context)), 0)
            row += [f"{1e3 * variant.decode[context].median:.1f}", share]
        rows.append(row)
    click.echo(render_table(columns, rows, right=range(1, len(columns))))
    click.echo(f"read bandwidth {_span(bandwidth, 1e9)} GB/s (the sum of 1 GiB)\n")
    rows = []
    for name, variant in speeds.items():
        fp32 = name != STOCK and device == "cpu" and prompt_dtype() == torch.float32
        dtype = "fp32" if fp32 or name == "fp32" else "bf16"
        seconds = variant.prefill.median
        rate = variant.prefill_flops / seconds
        share = f"{format_percent(rate / rates[dtype].median, 0)} of {dtype}'s"
        times = (f"{1e3 * seconds:.1f}", f"{variant.prefill_tokens / seconds:.0f}", f"{rate / 1e12:.2f}")
        rows.append([name, f"{variant.prefill_tokens}", *times, share])
    title = f"{device} prefill of {prompt}"
    columns = [title, "tokens", "ms", "tokens/s", "TFLOP/s", "of the large product"]
    click.echo(render_table(columns, rows, right=range(1, 6)))
    if any(variant.prefill_tokens < prompt for variant in speeds.values()):
        click.echo(f"Fewer tokens where {prompt} would take more than {PREFILL_SECONDS:.0f} seconds.")
    spans = ", ".join(f"{dtype} {_span(rate, 1e12)}" for dtype, rate in rates.items())
    click.echo(f"large products ({MATRIX:,} square, smaller where that takes seconds): {spans} TFLOP/s\n")


def _span(sample: Sample, unit: float) -> str:
    return f"{sample.median / unit:.2f} ({sample.low / unit:.2f} to {sample.high / unit:.2f})"


def _print_loading(loading: dict[str, dict[str, float]], left_out: dict[str, str]) -> None:
    rows = [
        (
            dtype,
            format_duration(loaded["seconds"]),
            format_bytes(loaded["peak_bytes"]),
            format_bytes(loaded["limit_bytes"]),
            "over" if loaded["over"] else "",
        )
        for dtype, loaded in loading.items()
    ]
    click.echo(render_table(("loading", "time", "peak memory", "allowed", ""), rows, right=(1, 2, 3)))
    for dtype, reason in left_out.items():
        click.echo(f"{dtype} is left out: {reason}")
    click.echo()


def _quality(root: Path) -> dict[str, dict[str, float] | None] | None:
    """Print and return it by precision. None when it cannot be measured, since the other results must not be lost."""
    try:
        quality = bits_per_byte_by_precision(root)
    except (ParakeetError, OSError) as error:
        click.echo(f"Held-out bits per byte: not measured: {sanitise(str(error))}")
        return None
    exact = quality["fp32"] or Quality(math.nan, math.nan)
    rows = [
        [name, f"{found.prompts:.4f}", f"{found.prompts / exact.prompts - 1:+.2%}", f"{found.steps:.4f}",
         f"{found.steps / exact.steps - 1:+.2%}"] if found else [name, "left out", "", "", ""]
        for name, found in quality.items()
    ]  # fmt: skip
    columns = ["held-out bits per byte, trained model", "as prompts", "", "token by token", ""]
    click.echo(render_table(columns, rows, right=range(1, 5)))
    return {name: asdict(found) if found else None for name, found in quality.items()}
