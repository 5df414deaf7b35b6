"""Peak memory of a training step, and what every `auto` of the settings means on a device. Imports no torch."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from parakeet.model.config import ModelConfig
from parakeet.model.execution import LOSS_ROWS, AttentionBackend, Execution, Recompute
from parakeet.recipe import Training
from parakeet.training.disk import optimizer_bytes, weights_bytes
from parakeet.training.memory import size
from parakeet.training.pass_memory import PassMemory

CUDA_WORKSPACE = 40 << 20
"""cuBLAS keeps 8 MiB, on Hopper 32, and the allocator rounds every tensor up to 512 bytes."""
CARD_TOKENS = 8192
"""Most tokens in a pass on a card: reading and casting 378 M weights takes 2 % of such a pass on a 3080 Ti."""
FEWEST_CARD_TOKENS = 4096
"""With fewer, more is lost than recomputing the MLPs costs."""
CPU_TOKENS = 2048
FLEX_ABOVE = 2048
"""Row length in tokens above which FlexAttention is the faster backend on CUDA."""
CPU_LOSS_ROWS = 256
"""On a CPU 128 to 1,024 rows of logits at once take the same time, so the memory decides."""
AUTO_SHARE = 0.95
"""Share of the budget that `auto` fills: CUDA's allocator loses some to gaps between tensors."""
LONGEST_ROW = 131_072
ROW_UNIT = 256


@dataclass(frozen=True)
class Forecast:
    """Bytes that are allocated at once where a step takes most, by part."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Choice:
    """How to compute, tokens in one pass, what that takes, and whether the device has it."""

    execution: Execution
    micro_batch_tokens: int
    forecast: Forecast
    fits: bool


def forecast(
    config: ModelConfig,
    execution: Execution,
    optimizer: str,
    micro_batch_tokens: int,
    row_tokens: int,
    *,
    cuda: bool,
    accumulates: bool = True,
) -> Forecast:
    """Peak of a training step on rows of `row_tokens`, `micro_batch_tokens` of them in one pass.

    Where gradients accumulate over passes, all of them are there from the second one on; otherwise they come one
    after the other while activations go. On a CPU the copy counts too that a checkpoint is written from, since
    training goes on meanwhile.
    """
    tokens = max(1, micro_batch_tokens // row_tokens) * row_tokens
    memory = PassMemory(config, execution, tokens, row_tokens, cuda)
    weights, state = weights_bytes(config), optimizer_bytes(config, optimizer)
    first = weights if accumulates else 4 * config.parameters()["embedding"]
    moments = [
        {"gradients": first, "activations": memory.kept, "loss": memory.loss, "scratch": 0},
        {"gradients": first, "activations": memory.kept, "loss": memory.after_loss, "scratch": memory.backward},
        {"gradients": weights, "activations": memory.kept_last, "loss": memory.after_loss, "scratch": memory.backward},
    ]
    fullest = max(moments, key=lambda parts: sum(parts.values()))
    parts = {"weights": weights, "gradients": 0, "optimizer": state} | fullest
    if cuda:
        parts["scratch"] += CUDA_WORKSPACE
    else:
        parts["checkpoint copy"] = weights + state
    return Forecast(parts)


def choose(
    config: ModelConfig,
    training: Training,
    row_tokens: int,
    budget_bytes: int,
    cuda: bool,
    *,
    processes: int = 1,
    triton: bool | None = None,
) -> Choice:
    """Every `auto` resolved for rows of this length, and explicit settings as they are.

    The least recompute that fits (none, MLPs, blocks), each with fewer and fewer rows in a pass. Where nothing fits,
    `fits` is False and the choice is what takes least. The same arguments give the same choice, since a resumed run
    has to compute as it did before. `triton`: whether FlexAttention can be compiled; None looks for it here.
    """
    rows = max(1, training.batch_tokens // row_tokens // processes)
    attention = _attention(training, row_tokens, cuda, triton)
    loss_rows = LOSS_ROWS if cuda else CPU_LOSS_ROWS
    choices = []
    for recompute, pass_rows in _candidates(training, row_tokens, rows, cuda):
        execution = Execution(attention, training.precision, training.residual, recompute, training.compile, loss_rows)
        tokens = pass_rows * row_tokens
        accumulates = processes > 1 or pass_rows < rows
        taken = forecast(
            config, execution, training.optimizer, tokens, row_tokens, cuda=cuda, accumulates=accumulates
        )  # fmt: skip
        choices.append(Choice(execution, tokens, taken, taken.total <= budget_bytes))
        if taken.total <= AUTO_SHARE * budget_bytes:
            return choices[-1]
    return min(choices, key=lambda choice: choice.forecast.total)


def fitting_change(
    config: ModelConfig,
    training: Training,
    row_tokens: int,
    budget_bytes: int,
    cuda: bool,
    *,
    processes: int = 1,
    triton: bool | None = None,
) -> str:
    """The sentence that names the fewest and mildest changes to the recipe with which a step fits the budget."""
    milder = _milder(training, row_tokens, cuda)
    for count in range(1, len(milder) + 1):
        for changes in combinations(milder, count):
            changed = training.model_copy(update=dict(changes))
            choice = choose(config, changed, row_tokens, budget_bytes, cuda, processes=processes, triton=triton)
            if choice.fits:
                return f"Set {_listed(changes)}: the forecast is then {size(choice.forecast.total)}."
    changed = training.model_copy(update=dict(milder))
    longest = longest_row(config, changed, budget_bytes, cuda)
    if longest:
        others = f", with {_listed(milder)}" if milder else ""
        return f"Rows of at most {longest:,} tokens would fit: set packing.row_tokens to that or less{others}."
    fixed = size(2 * weights_bytes(config) + optimizer_bytes(config, changed.optimizer))
    return (
        f"Weights, gradients and optimizer alone take {fixed}: make the model smaller (model.width, "
        "model.layers), or take a device with more memory."
    )


def longest_row(config: ModelConfig, training: Training, budget_bytes: int, cuda: bool) -> int:
    """The longest row, in steps of 256 tokens, of which one at a time fits with whole blocks recomputed; 0 for none."""
    blocks = training.model_copy(update={"recompute": "block"})

    def fits(row_tokens: int) -> bool:
        one = blocks.model_copy(update={"micro_batch_tokens": row_tokens, "batch_tokens": 2 * row_tokens})
        return choose(config, one, row_tokens, budget_bytes, cuda, triton=True).fits

    low, high = 0, LONGEST_ROW // ROW_UNIT
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * ROW_UNIT) else (low, middle - 1)
    return low * ROW_UNIT


def unmet(training: Training, cuda: bool) -> list[str]:
    """What these settings need and this machine does not have, a sentence each; nothing is imported to find out.

    cuda: whether a CUDA device is there, or planned.
    """
    missing = []
    if training.attention == "flex" and not cuda:
        missing.append("training.attention is flex, which a CPU cannot compute; use auto, fused or reference.")
    if training.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        missing.append(
            "training.optimizer is adamw_8bit, but bitsandbytes is not installed here. Install it with: "
            "pip install 'bitsandbytes>=0.50', or set training.optimizer to adamw."
        )
    if training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        missing.append(
            "training.tensorboard is on, but TensorBoard is not installed here. Install it with: "
            "pip install 'parakeet-lm[tensorboard]', or set training.tensorboard to false."
        )
    return missing


def _attention(training: Training, row_tokens: int, cuda: bool, triton: bool | None) -> AttentionBackend:
    if training.attention != "auto":
        return training.attention
    if not cuda:
        # As fast as `reference` at 256 tokens, 1.8 times at 1,024, 2.2 times at 4,096.
        return "fused"
    if row_tokens <= FLEX_ABOVE:
        return "fused"
    there = importlib.util.find_spec("triton") is not None if triton is None else triton
    return "flex" if there else "fused"


def _candidates(training: Training, row_tokens: int, rows: int, cuda: bool) -> Iterator[tuple[Recompute, int]]:
    """Policies and rows in a pass, the best first; `rows` is what one process has of a step."""
    policies: tuple[Recompute, ...] = ("none", "mlp", "block")
    if training.recompute != "auto":
        policies = (training.recompute,)
    if training.micro_batch_tokens:
        sizes = [min(rows, max(1, training.micro_batch_tokens // row_tokens))]
    else:
        most = min(rows, max(1, (CARD_TOKENS if cuda else CPU_TOKENS) // row_tokens))
        sizes = [1 << exponent for exponent in reversed(range(most.bit_length()))]
    for policy in policies:
        last = policy == policies[-1]
        for fewer in sizes:
            if last or fewer == sizes[0] or (cuda and fewer * row_tokens >= FEWEST_CARD_TOKENS):
                yield policy, fewer


def _milder(training: Training, row_tokens: int, cuda: bool) -> list[tuple[str, Any]]:
    """Changes that take less memory, the mildest first."""
    changes: list[tuple[str, Any]] = []
    if training.micro_batch_tokens >= 2 * row_tokens:
        changes.append(("micro_batch_tokens", 0))
    if training.attention == "reference":
        changes.append(("attention", "auto"))
    if training.recompute in ("none", "mlp"):
        changes.append(("recompute", "auto"))
    if training.residual == "fp32" and training.precision == "bf16":
        changes.append(("residual", "bf16"))
    if cuda and training.precision == "fp32":
        changes.append(("precision", "bf16"))
    if cuda and training.optimizer != "adamw_8bit":
        changes.append(("optimizer", "adamw_8bit"))
    return changes


def _listed(changes: list[tuple[str, Any]] | tuple[tuple[str, Any], ...]) -> str:
    return " and ".join(f"training.{key} to {value}" for key, value in changes)
