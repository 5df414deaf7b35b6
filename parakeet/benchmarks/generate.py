"""How fast a model of a recipe's shape talks on this machine, beside what its memory and its arithmetic allow."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from parakeet.benchmarks.decoding import CONTEXTS, PREFILL, STOCK
from parakeet.benchmarks.precision import bits_per_byte_by_dtype
from parakeet.errors import ParakeetError
from parakeet.generation.decoder import DTYPES
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe

CPU_VARIANTS = (STOCK, *DTYPES)
CUDA_VARIANTS = (STOCK, "fp32", "bf16")


def run(recipe: Recipe, threads: int, compiled: bool, root: Path) -> None:
    """Random weights of the recipe's shape, one process for each precision; a table, then one JSON line."""
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        _write_random_model(config, directory)
        cpu = [_child(directory, variant, "cpu", threads, compiled) for variant in CPU_VARIANTS]
        cuda = [
            _child(directory, variant, "cuda", threads, False) for variant in CUDA_VARIANTS if torch.cuda.is_available()
        ]
    click.echo(f"{recipe.name}: {config.parameter_count:,} parameters, random weights, batch 1\n")
    _print_table("CPU", cpu)
    if cuda:
        _print_table("CUDA", cuda)
    else:
        click.echo("CUDA: not measured, there is no device here.\n")
    fp32 = next(row for row in cpu if row["variant"] == "fp32")
    ratios = {n: seconds / fp32["decode_seconds"][n] for n, seconds in fp32["recompute_seconds"].items()}
    for context, ratio in ratios.items():
        click.echo(
            f"Against reading the whole prefix for each token, {context} tokens, fp32: {ratio:.0f} times as fast"
        )
    quality = bits_per_byte_by_dtype(root)
    _print_quality(quality)
    machine = {"cpus": os.cpu_count(), "threads": threads or torch.get_num_threads(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), "torch": torch.__version__}
    result = {"benchmark": "generate", "recipe": recipe.name, "parameters": config.parameter_count, "cpu": cpu}
    result |= {"cuda": cuda, "compiled": compiled, "times_recomputing": ratios, "bits_per_byte": quality}
    click.echo(json.dumps(result | machine))


def _write_random_model(config: ModelConfig, directory: Path) -> None:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, directory)


def _child(directory: Path, variant: str, device: str, threads: int, compiled: bool) -> dict[str, Any]:
    arguments = [str(directory), variant, device, str(threads), "compiled" if compiled else "plain"]
    command = [sys.executable, "-m", "parakeet.benchmarks.decoding", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        raise ParakeetError(f"Measuring {variant} on {device} failed: {finished.stderr.strip().splitlines()[-1]}")
    row: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return row


def _print_table(device: str, rows: list[dict[str, Any]]) -> None:
    reference = next((row for row in rows if row["variant"] == STOCK), rows[0])
    first = str(CONTEXTS[0])
    click.echo(
        f"{device:<12}{'ms/token':>9}{'tok/s':>7}{'x stock':>9}{'GB/s':>7}{'of read':>9}"
        + "".join(f"{f'@{context}':>8}" for context in CONTEXTS[1:])
        + f"{f'read {PREFILL}':>10}{'of matmul':>11}{'load':>7}{'peak MiB':>10}{'limit':>7}"
    )
    for row in rows:
        step = row["decode_seconds"][first]
        rate = row["bytes_per_token"] / step
        click.echo(
            f"{row['variant']:<12}{step * 1e3:>9.1f}{1 / step:>7.1f}{reference['decode_seconds'][first] / step:>9.2f}"
            f"{rate / 1e9:>7.1f}{rate / row['read_bandwidth']:>9.0%}"
            + "".join(f"{row['decode_seconds'][str(context)] * 1e3:>8.1f}" for context in CONTEXTS[1:])
            + f"{row['prefill_seconds'] * 1e3:>7.0f} ms{row['prefill_rate'] / row['matrix_rate']:>11.0%}"
            f"{row['load_seconds']:>6.1f}s{row['peak_bytes'] / 2**20:>10.0f}{row['peak_limit'] / 2**20:>7.0f}"
        )
    bandwidth = [row["read_bandwidth"] / 1e9 for row in rows]
    click.echo(
        f"Read bandwidth {min(bandwidth):.1f} to {max(bandwidth):.1f} GB/s (sum over 1 GiB), measured beside each.\n"
    )


def _print_quality(quality: dict[str, float] | None) -> None:
    if quality is None:
        click.echo("Held-out bits per byte: not measured, no trained model is here. Make one with: parakeet build")
        return
    base = quality["fp32"]
    parts = [f"{dtype} {bits:.4f} ({bits / base - 1:+.2%})" for dtype, bits in quality.items()]
    click.echo("Held-out bits per byte of the trained model: " + ", ".join(parts))
