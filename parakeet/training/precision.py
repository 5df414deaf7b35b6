"""`training.precision: auto`: whether this machine multiplies the model's matrices faster in fp32 or in bf16.

A processor without bf16 units takes 17 times as long in bf16, one with AMX half as long.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F

from parakeet.model.config import ModelConfig
from parakeet.model.execution import Precision
from parakeet.training.distributed import Ranks

CLEARLY = 1.2
"""A precision is taken, or its absence reported, if it is so many times as fast. Smaller differences are noise."""
ROWS = 128
"""Tokens of the measured products: enough to fill the units, few enough for a CPU without any for bf16."""
CALLS = 8
SECONDS = 0.4
"""Calls end early after this many seconds."""
BF16_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability with bf16 tensor cores. Older GPUs compute bf16 products without them."""
Asked = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Comparison:
    """The faster precision on a machine, whether by a clear margin, and the figures as a clause for people."""

    fast: Precision
    clear: bool
    figures: str


def compare_precisions(config: ModelConfig, device: torch.device) -> Comparison:
    """Compare them on this device. Draws no global random numbers."""
    if device.type == "cuda":
        units = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return Comparison("bf16" if units else "fp32", True, f"its GPU has {'' if units else 'no '}units for bf16")
    return compare_seconds(*_product_seconds(config, (torch.float32, torch.bfloat16)))


def compare_seconds(fp32: float, bf16: float) -> Comparison:
    """The same from the CPU seconds that a product took in each."""
    factor = max(fp32 / bf16, bf16 / fp32)
    figures = (
        f"a product of this model takes {fp32 * 1e3:.3g} ms of CPU time in fp32 and {bf16 * 1e3:.3g} ms in bf16, "
        f"a factor of {factor:.3g}"
    )
    return Comparison("bf16" if fp32 >= CLEARLY * bf16 else "fp32", factor >= CLEARLY, figures)


def decide(asked: Asked, begun: Precision | None, here: Comparison) -> tuple[Precision, str]:
    """The precision of a run, and a sentence about it for people; empty if there is nothing to say.

    `asked` is the recipe's; `begun` is what an unfinished run was begun with, None for a new one. Only auto asks for
    it.
    """
    if asked != "auto":
        if asked == here.fast or not here.clear:
            return asked, ""
        advice = "A new run with training.precision: auto takes the faster one."
        return asked, (
            f"training.precision is {asked}, but {here.fast} is faster on this machine: {here.figures}. {advice}"
        )
    if begun is None:
        return here.fast, f"Precision auto: {here.fast}. On this machine {here.figures}."
    if begun == here.fast:
        return begun, f"Precision auto: {begun}, as the run began."
    return begun, (
        f"Precision auto: {begun}, as the run began, although {here.fast} is the choice on this machine: "
        f"{here.figures}."
    )


def share(here: Comparison, ranks: Ranks) -> Comparison:
    """Rank 0's choice, for all ranks: near the limit they could differ."""
    (bf16,) = ranks.sum([float(here.fast == "bf16") if ranks.leads else 0.0])
    return replace(here, fast="bf16" if bf16 else "fp32")


def _product_seconds(config: ModelConfig, dtypes: Sequence[torch.dtype]) -> list[float]:
    """CPU seconds of an MLP's first product with both products of its backward pass, the least of a few calls.

    CPU time of one thread, because other processes disturb it far less than the time on the clock, and several threads
    that wait for each other count their waiting. The dtypes take turns.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, config.width, generator=generator)
    weight = torch.randn(4 * config.width, config.width, generator=generator).requires_grad_()
    gradient = torch.randn(ROWS, 4 * config.width, generator=generator)
    inputs = [(x.to(dtype).requires_grad_(), gradient.to(dtype)) for dtype in dtypes]
    seconds: list[list[float]] = [[] for _ in dtypes]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while len(seconds[0]) < 2 or (len(seconds[0]) < CALLS and sum(map(sum, seconds)) < SECONDS):
            for (rows, slope), taken in zip(inputs, seconds, strict=True):
                began = time.process_time()
                # The weight stays fp32 and is cast, as in the model.
                F.linear(rows, weight.to(rows.dtype)).backward(slope)
                taken.append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return [min(taken) for taken in seconds]
