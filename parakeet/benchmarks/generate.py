"""`parakeet bench generate`: how fast a model of a recipe's shape generates, beside the limits of the machine."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from parakeet.benchmarks.decoding import STOCK, Speeds, measure, stock
from parakeet.benchmarks.precision import bits_per_byte_by_dtype
from parakeet.benchmarks.process import Answer, MeasuringProcess, MemorySampler, print_result
from parakeet.benchmarks.timing import Sample
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_duration, format_percent, render_table
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, load_model, save_model
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}
"""int4: half a byte, and a bf16 scale and zero point for every 32 weights."""
ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 1 << 29
"""Loading may hold this share of the weights' bytes, and so many bytes for Python and torch: never two copies."""


def run(recipe: Recipe, threads: int, rounds: int, compiled: bool, root: Path) -> None:
    """Measure random weights of the recipe's shape in each precision that supports them; tables, then one JSON line."""
    if threads:
        torch.set_num_threads(threads)
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    result: dict[str, Any] = {"benchmark": "generate", "recipe": recipe.name, "parameters": config.parameter_count}
    click.echo(f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights, batch 1\n")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_random_model(config, directory)
        loading = {dtype: measure_loading(directory, dtype, torch.get_num_threads()) for dtype in DTYPES}
        result["left_out"] = {dtype: loaded["refused"] for dtype, loaded in loading.items() if "refused" in loaded}
        result["loading"] = {dtype: loaded for dtype, loaded in loading.items() if dtype not in result["left_out"]}
        _print_loading(result["loading"], result["left_out"])
        result["cpu"] = measure_device(directory, "cpu", [STOCK, *result["loading"]], rounds, compiled)
        if torch.cuda.is_available():
            result["cuda"] = measure_device(directory, "cuda", [STOCK, "fp32", "bf16"], rounds, compiled)
        else:
            click.echo("CUDA: not measured, there is no device here.\n")
    result["bits_per_byte"] = _quality(root)
    print_result(result | {"rounds": rounds, "compiled": compiled})


def write_random_model(config: ModelConfig, directory: Path) -> None:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, directory)


def measure_device(directory: Path, device: str, variants: list[str], rounds: int, compiled: bool) -> dict[str, Any]:
    """Measure one device, print its table, and return its part of the JSON line."""
    model = load_model(directory, "cpu")
    decoders = {
        name: Decoder(model, "bf16", device, stock) if name == STOCK else Decoder(model, name, device)
        for name in variants
    }
    with Progress().task(f"Measuring on {device}", rounds + 1, "rounds") as task:
        speeds, bandwidth, rates = measure(decoders, device, rounds, lambda: task.advance(1))
    _print_speeds(device, speeds, bandwidth, rates)
    return {
        "variants": {
            name: {
                "decode_seconds": {context: sample.as_json() for context, sample in variant.decode.items()},
                "prefill_tokens": variant.prefill_tokens,
                "prefill_seconds": variant.prefill.as_json(),
                "bytes_per_token": variant.bytes_per_token,
            }
            for name, variant in speeds.items()
        },
        "read_bandwidth": bandwidth.as_json(),
        "matrix_rate": {dtype: rate.as_json() for dtype, rate in rates.items()},
    }


def measure_loading(directory: Path, dtype: str, threads: int) -> Answer:
    """Load the model in a process of its own: its seconds, its peak memory, the allowed memory, and whether it is over.

    `{"refused": reason}` for a dtype that does not support the model's matrices. ParakeetError when the process failed.
    """
    request = {"directory": str(directory), "dtype": dtype}
    with (
        MeasuringProcess(f"{__name__}:load", request, threads) as process,
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


def load(request: dict[str, Any]) -> Answer:
    """In the process: load the model as chat does."""
    began = time.perf_counter()
    decoder = Decoder(load_model(Path(request["directory"]), "cpu"), request["dtype"])
    return {"seconds": time.perf_counter() - began, "parameters": decoder.config.parameter_count}


def _print_speeds(device: str, speeds: dict[str, Speeds], bandwidth: Sample, rates: dict[str, Sample]) -> None:
    first, *others = speeds[STOCK].decode
    columns = [f"{device} at {first}", "ms/token", "tokens/s", "x stock", "GB/s", "of read"]
    columns += [f"ms at {context:,}" for context in others]
    rows: list[list[str]] = []
    for name, variant in speeds.items():
        step = variant.decode[first].median
        rate = variant.bytes_per_token / step
        longer = (f"{1e3 * variant.decode[context].median:.1f}" for context in others)
        times = (f"{1e3 * step:.1f}", f"{1 / step:.1f}", f"{speeds[STOCK].decode[first].median / step:.2f}")
        rows.append([name, *times, f"{rate / 1e9:.1f}", format_percent(rate / bandwidth.median, 0), *longer])
    click.echo(render_table(columns, rows, right=range(1, len(columns))))
    click.echo(f"read bandwidth {_span(bandwidth, 1e9)} GB/s (the sum of 1 GiB)\n")
    rows = []
    for name, variant in speeds.items():
        dtype = "fp32" if name == "fp32" else "bf16"
        seconds = variant.prefill.median
        rate = variant.prefill_flops / seconds
        share = f"{format_percent(rate / rates[dtype].median, 0)} of {dtype}'s"
        times = (f"{1e3 * seconds:.1f}", f"{variant.prefill_tokens / seconds:.0f}", f"{rate / 1e12:.2f}")
        rows.append([name, *times, share])
    title = f"{device} prefill of {speeds[STOCK].prefill_tokens}"
    columns = [title, "ms", "tokens/s", "TFLOP/s", "of the large product"]
    click.echo(render_table(columns, rows, right=range(1, 5)))
    spans = ", ".join(f"{dtype} {_span(rate, 1e12)}" for dtype, rate in rates.items())
    click.echo(f"large products (4,096 square): {spans} TFLOP/s\n")


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


def _quality(root: Path) -> dict[str, float | None] | None:
    """Print and return it by dtype. None when it cannot be measured, since the other results must not be lost."""
    try:
        quality = bits_per_byte_by_dtype(root)
    except (ParakeetError, OSError) as error:
        click.echo(f"Held-out bits per byte: not measured: {sanitise(str(error))}")
        return None
    base = quality["fp32"] or math.nan
    parts = [
        f"{dtype} {bits:.4f} ({bits / base - 1:+.2%})" if bits else f"{dtype} left out"
        for dtype, bits in quality.items()
    ]
    click.echo("Held-out bits per byte of the trained model: " + ", ".join(parts))
    return quality
