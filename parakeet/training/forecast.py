"""Forecasts the peak memory of a training step, and resolves every `auto` of the settings by it. Imports no torch.

`PassMemory` counts tensor by tensor what parakeet/model/{transformer,attention,loss}.py allocate: a change there is a
change here, and tests/training/test_forecast.py compares both with the allocator.
"""

import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil

from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.machine import NO_LIMIT, group_limits
from parakeet.model.config import ModelConfig
from parakeet.model.execution import LOSS_ROWS, ActivationCheckpointing, AttentionBackend, Execution, Precision
from parakeet.recipe import Training
from parakeet.training.schedule import total_steps

GIB = 1 << 30
GPU_RESERVE = round(0.8 * GIB)
"""What the CUDA context, its libraries and a display take of a GPU's memory before anything is allocated."""
NCCL_RESERVE = round(0.4 * GIB)
"""What NCCL takes besides if several processes train. Not measured: a channel has buffers of 4 MiB for each protocol
and neighbour, and the kernels are loaded onto each GPU."""
CPU_SHARE = 0.8
"""Share of the machine's memory that training may take. Not a share of what is free at the moment: a resumed run has to
choose the same micro-batches as before."""

BYTES_PER_METRICS_LINE = 400
BYTES_PER_TENSORBOARD_STEP = 1000
SMALLEST_8BIT = 4096
"""bitsandbytes keeps 32-bit state for parameters with fewer values."""
MUON_AT_ONCE = 1 << 24
"""Values of matrices that Muon orthogonalises together. Small matrices are faster in one batched product; large ones
would take memory: 64 MiB in fp32, about six times."""
BYTES_OF_8BIT_MOMENTS = 2 + 2 * 4 / 256
"""Two one-byte codes a value, and two fp32 scales for each block of 256."""

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(text: str) -> int:
    """Bytes of "11.2GiB", "12GB" or "11500MiB": units of 1,000, with an i of 1,024. ParakeetError otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(I?)B\s*", text.upper())
    n_bytes = round(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]]) if match else 0
    if not 0 < n_bytes < NO_LIMIT:
        raise ParakeetError(f"{text!r} is not an amount of memory: write it like 11.2GiB, 12GB or 11500MiB.")
    return n_bytes


def gpu_budget(n_bytes: int, processes: int = 1) -> int:
    """What one of the processes of a run can allocate on its GPU with `n_bytes` of memory."""
    return max(0, n_bytes - GPU_RESERVE - (NCCL_RESERVE if processes > 1 else 0))


def machine_budget() -> int:
    """Bytes that training may take of this machine's memory, or of its container's limit."""
    return int(CPU_SHARE * min([psutil.virtual_memory().total, *group_limits()]))


def weights_bytes(config: ModelConfig) -> int:
    """fp32 weights, with the tied embedding counted once."""
    return 4 * config.parameter_count


def optimizer_bytes(config: ModelConfig, optimizer: str, momentum_precision: Precision = "fp32") -> int:
    """An optimizer's state: two fp32 moments a parameter for AdamW; less for 8-bit AdamW and Muon.

    Those two save only on the matrices of the blocks: the embedding and the norms keep AdamW's 8 bytes a parameter.
    `momentum_precision` is Muon's.
    """
    parts = config.parameters()
    matrices = sum(parts[name] for name in ("queries", "keys and values", "attention outputs", "MLPs"))
    others = config.parameter_count - matrices
    if optimizer == "muon":
        return BYTES[momentum_precision] * matrices + 8 * others
    if optimizer == "adamw_8bit" and config.width**2 >= SMALLEST_8BIT:
        return round(BYTES_OF_8BIT_MOMENTS * matrices) + 8 * others
    return 8 * config.parameter_count


def muon_bytes(config: ModelConfig) -> int:
    """What a step of Muon takes for the matrices that it orthogonalises together: about six copies of them.

    The most are those of the MLPs, one shape in every layer.
    """
    matrix = 4 * config.width**2
    return 6 * 4 * max(matrix, min(MUON_AT_ONCE, config.layers * matrix))


def checkpoint_bytes(config: ModelConfig, training: Training) -> int:
    """Weights and optimizer state."""
    return weights_bytes(config) + optimizer_bytes(config, training.optimizer, training.momentum_precision)


def run_bytes(config: ModelConfig, training: Training) -> int:
    """The most disk space that a run takes, with the finished model.

    Its checkpoints are the newest, those kept for good, the last stable one, the best, and the one being written.
    """
    steps = total_steps(training)
    for_good = steps // math.lcm(training.keep_every, training.checkpoint_steps) if training.keep_every else 0
    checkpoints = training.keep_checkpoints + for_good + 2 + (training.validation_tokens > 0)
    lines = BYTES_PER_METRICS_LINE + (BYTES_PER_TENSORBOARD_STEP if training.tensorboard else 0)
    return checkpoints * checkpoint_bytes(config, training) + weights_bytes(config) + lines * steps


def bytes_on_disk(run: Path) -> int:
    """What a run's folder already takes on the disk."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file())


CUDA_WORKSPACE = 40 << 20
"""cuBLAS keeps 8 MiB (on Hopper 32), and the allocator rounds every tensor up to 512 bytes."""
GPU_TOKENS = 8192
"""Most tokens in a pass on a GPU: reading and casting 378 M weights takes 2 % of such a pass on a 3080 Ti."""
FEWEST_GPU_TOKENS = 4096
"""With smaller passes more time is lost than by recomputing the MLPs."""
CPU_TOKENS = 2048
FLEX_ABOVE = 2048
"""Sequence length above which FlexAttention is the faster backend on CUDA."""
CPU_LOSS_ROWS = 256
"""On a CPU 128 to 1,024 rows of logits at once take the same time, so memory decides."""
AUTO_SHARE = 0.95
"""Share of the budget that `auto` fills: CUDA's allocator loses some to gaps between tensors."""
LONGEST_SEQUENCE = 131_072
LENGTH_UNIT = 256
BYTES = {"fp32": 4, "bf16": 2}
FUSED_FEATURES = 21
"""Extra head dimensions of `fused` attention: 17 for the document mask and 4 for ALiBi."""
SOFTMAX_ONE_FEATURES = 3
"""More of them for `softmax_one`, and one more position in each sequence."""
KERNEL_WIDTH = 8
TILE_KEPT = 96
"""fp32 values in the biases of `tiled` attention, for a token and a head: 64 queries beside the keys of a tile
with several documents."""
MATRICES_KEPT = {"none": 8, "mlp": 4, "block": 0}
"""The backward pass of a block reads bf16 copies of so many · width² of its 12 · width² weights. (A shared projection
counts in both of its blocks.)"""


class PassMemory:
    """What a forward and backward pass over one micro-batch allocates at the moments that can be its fullest.

    Each property is a number of bytes; the methods' arithmetic is in bytes a token until it is multiplied by `tokens`.
    d is the width; c and r are the bytes of a value in products and in the residual stream.
    """

    def __init__(
        self, config: ModelConfig, execution: Execution, tokens: int, sequence_length: int, cuda: bool
    ) -> None:
        self.execution = execution
        self.layers, self.heads, self.width = config.layers, config.heads, config.width
        self.head_width = config.head_width
        self.softmax_one = config.softmax_one
        self.vocabulary = config.vocabulary_rows
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.cuda = cuda
        self.product = BYTES[execution.precision]
        self.residual = BYTES[execution.residual]
        self.casts = self.product < 4
        # Bytes a value of dropout masks: CUDA and compiled graphs keep a byte, the CPU's kernel a factor.
        small = cuda or execution.compile
        self.block_mask = 0 if not config.dropout else 1 if small else self.product
        self.embedding_mask = 0 if not config.dropout else 1 if cuda else 4

    @property
    def kept(self) -> int:
        """What the forward pass keeps for the backward pass: in all blocks, and around them."""
        return self.layers * self._block(self.execution.activation_checkpointing) + self._around

    @property
    def kept_last(self) -> int:
        """What is left of that when the backward pass reaches the first block."""
        return self._block(self.execution.activation_checkpointing) + self._around

    @property
    def loss(self) -> int:
        """While a piece of the logits exists: fp32 logits, bf16 copies of them and of the embedding, then products."""
        piece = min(self.execution.loss_rows, self.tokens) * self.vocabulary
        if not self.casts:
            return self.after_loss + 4 * piece
        # Only CUDA can add a bf16 product to an fp32 gradient; the CPU needs a bf16 result first.
        copy = 2 * self.vocabulary * self.width
        return self.after_loss + copy + 2 * piece + max(4 * piece, 0 if self.cuda else copy)

    @property
    def after_loss(self) -> int:
        """The hidden states and their gradient."""
        return 2 * self.product * self.width * self.tokens

    @property
    def backward(self) -> int:
        """What the backward pass of a block adds: recomputed activations, and the gradients that exist at once."""
        activation_checkpointing = self.execution.activation_checkpointing
        again = 0 if activation_checkpointing == "none" else self._block("none") - self._block(activation_checkpointing)
        moments = [again + self._mlp_gradients()]
        if self.execution.attention == "reference":
            moments.append((again if activation_checkpointing == "block" else 0) + self._score_gradients())
        return max(moments)

    @property
    def _around(self) -> int:
        """Inputs of the norms before and after the blocks; ids, targets and documents (8 bytes each)."""
        around = (4 + self.embedding_mask + self.residual) * self.width + 3 * 8
        if self.execution.attention == "tiled":
            # The mask of the batch, for all blocks.
            around += 4 * self.heads * TILE_KEPT
        # A block that is recomputed needs the bias of its scores again.
        if self.execution.activation_checkpointing == "block" and self.execution.attention == "reference":
            around += self.product * self.heads * self.sequence_length
        return around * self.tokens

    def _block(self, activation_checkpointing: str) -> int:
        """What one block keeps under this activation checkpointing."""
        d, c, r = self.width, self.product, self.residual
        if activation_checkpointing == "block":
            return r * d * self.tokens
        # Its input, both dropout masks, the first norm's output, and the stream after attention. A compiled block keeps
        # what attention adds to the stream instead, and computes the sum again.
        kept = (r + 2 * self.block_mask + c + (c if self.execution.compile else r)) * d + self._attention
        # The second norm's output (d) and the hidden layer before the GELU (4d).
        kept += 5 * c * d if activation_checkpointing == "none" else 0
        copies = MATRICES_KEPT[activation_checkpointing] * d * d * c if self.casts else 0
        return kept * self.tokens + copies

    @property
    def _attention(self) -> int:
        """Bytes a token: queries, keys, values, attention output (d each), and what the backend keeps besides."""
        c, d, heads = self.product, self.width, self.heads
        if self.execution.attention == "reference":
            # Probabilities in fp32, and a copy in the precision of the product with the values.
            return 4 * c * d + (4 + (c if self.casts else 0)) * heads * self.sequence_length
        if self.execution.attention == "tiled":
            return 4 * c * d
        if self.execution.attention == "flex":
            return 4 * c * d + 4 * heads
        # All four are padded to the fused width; the output is also copied out of it. One fp32 logsumexp a head.
        padded = 4 * heads * self._fused_width
        if self.softmax_one:
            padded += -(-padded // self.sequence_length)
        return c * (padded + d) + 4 * heads

    @property
    def _fused_width(self) -> int:
        features = FUSED_FEATURES + (SOFTMAX_ONE_FEATURES if self.softmax_one else 0)
        return -(-(self.head_width + features) // KERNEL_WIDTH) * KERNEL_WIDTH

    def _mlp_gradients(self) -> int:
        """The recomputed GELU; gradients of the stream, the MLP's output, its hidden layer and its last weight."""
        d, c, r = self.width, self.product, self.residual
        # In fp32 on a CPU, the GELU is freed before the hidden layer has a gradient.
        hidden = 4 if not self.cuda and not self.casts and not self.execution.compile else 8
        return (r + (hidden + 1) * c - self.block_mask) * d * self.tokens + 4 * d * d * (
            4 + (2 * c if self.casts else 0)
        )

    def _score_gradients(self) -> int:
        """Gradients of every score before and after the softmax, when the MLP's tensors have been freed."""
        d, c, r = self.width, self.product, self.residual
        freed = 2 * self.block_mask + c + (5 * c if self.execution.activation_checkpointing != "mlp" else 0)
        # On CUDA the softmax returns bf16 directly.
        scores = (8 if not self.casts else 4 if self.cuda else 6) * self.heads * self.sequence_length
        return (scores + (r + c - freed) * d) * self.tokens


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes allocated at the fullest moment of a step, by part."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        return format_bytes(self.total, 2)


@dataclass(frozen=True)
class ExecutionChoice:
    """How to compute, tokens in one pass, the memory that takes, and whether it fits the device."""

    execution: Execution
    micro_batch_tokens: int
    forecast: MemoryForecast
    fits: bool


def forecast(
    config: ModelConfig,
    execution: Execution,
    optimizer: str,
    micro_batch_tokens: int,
    sequence_length: int,
    *,
    cuda: bool,
    accumulates: bool = True,
    momentum_precision: Precision = "fp32",
) -> MemoryForecast:
    """Peak of a training step on sequences of `sequence_length`, with `micro_batch_tokens` in one pass.

    If gradients accumulate over several passes, all of them exist from the second pass on; otherwise they appear one
    by one while activations are freed. On a CPU the copy that a checkpoint is written from counts too, since training
    continues meanwhile.
    """
    tokens = max(1, micro_batch_tokens // sequence_length) * sequence_length
    memory = PassMemory(config, execution, tokens, sequence_length, cuda)
    weights, state = weights_bytes(config), optimizer_bytes(config, optimizer, momentum_precision)
    first = weights if accumulates else 4 * config.parameters()["embedding"]
    moments = [
        {"gradients": first, "activations": memory.kept, "loss": memory.loss, "scratch": 0},
        {"gradients": first, "activations": memory.kept, "loss": memory.after_loss, "scratch": memory.backward},
        {"gradients": weights, "activations": memory.kept_last, "loss": memory.after_loss, "scratch": memory.backward},
    ]
    if optimizer == "muon":
        moments.append({"gradients": weights, "activations": 0, "loss": 0, "scratch": muon_bytes(config)})
    fullest = max(moments, key=lambda parts: sum(parts.values()))
    parts = {"weights": weights, "gradients": 0, "optimizer": state} | fullest
    if cuda:
        parts["scratch"] += CUDA_WORKSPACE
    else:
        parts["checkpoint copy"] = weights + state
    return MemoryForecast(parts)


def choose(
    config: ModelConfig,
    training: Training,
    sequence_length: int,
    budget_bytes: int,
    cuda: bool,
    *,
    processes: int = 1,
    flex: bool | None = None,
) -> ExecutionChoice:
    """Every `auto` resolved for sequences of this length; explicit settings are kept.

    Tries activation checkpointing of nothing, MLPs, then blocks, each with fewer and fewer sequences in a pass, and
    takes the first that fits. If nothing fits, the choice is the one that takes least, with `fits` False. The same
    arguments give the same choice, since a resumed run has to compute as before. `flex`: whether FlexAttention can be
    compiled on the device; None looks for Triton on this machine.
    """
    sizes = training.batch_sizes.values()
    sequences = max(1, min(sizes) // sequence_length // processes)
    attention = _attention(training, sequence_length, cuda, flex)
    loss_rows = LOSS_ROWS if cuda else CPU_LOSS_ROWS
    choices = []
    for activation_checkpointing, pass_sequences in _candidates(training, sequence_length, sequences, cuda):
        execution = Execution(
            attention,
            assumed_precision(training, cuda),
            training.residual,
            activation_checkpointing,
            training.compile,
            loss_rows,
        )
        tokens = pass_sequences * sequence_length
        accumulates = processes > 1 or tokens < max(sizes)
        predicted = forecast(
            config, execution, training.optimizer, tokens, sequence_length, cuda=cuda, accumulates=accumulates,
            momentum_precision=training.momentum_precision,
        )  # fmt: skip
        choices.append(ExecutionChoice(execution, tokens, predicted, predicted.total <= budget_bytes))
        if predicted.total <= AUTO_SHARE * budget_bytes:
            return choices[-1]
    return min(choices, key=lambda choice: choice.forecast.total)


def fitting_change(
    config: ModelConfig,
    training: Training,
    sequence_length: int,
    budget_bytes: int,
    cuda: bool,
    *,
    processes: int = 1,
    flex: bool | None = None,
) -> str:
    """A sentence with the fewest and mildest changes to the recipe that make a step fit the budget."""
    milder = _milder(training, sequence_length, cuda)
    for count in range(1, len(milder) + 1):
        for changes in combinations(milder, count):
            changed = training.model_copy(update=dict(changes))
            choice = choose(config, changed, sequence_length, budget_bytes, cuda, processes=processes, flex=flex)
            if choice.fits:
                return f"Set {_listed(changes)}: the forecast is then {choice.forecast}."
    changed = training.model_copy(update=dict(milder))
    longest = longest_sequence(config, changed, budget_bytes, cuda)
    if longest:
        others = f", with {_listed(milder)}" if milder else ""
        return (
            f"Sequences of at most {longest:,} tokens would fit: set packing.sequence_length to that or less{others}."
        )
    state = optimizer_bytes(config, changed.optimizer, changed.momentum_precision)
    fixed = format_bytes(2 * weights_bytes(config) + state, 2)
    return (
        f"Weights, gradients and optimizer alone take {fixed}: make the model smaller (model.width, "
        "model.layers), or use a device with more memory."
    )


def longest_sequence(config: ModelConfig, training: Training, budget_bytes: int, cuda: bool) -> int:
    """The longest sequence, a multiple of 256, that fits one at a time with block checkpointing; 0 if none does."""
    blocks = training.model_copy(update={"activation_checkpointing": "block"})

    def fits(sequence_length: int) -> bool:
        one = blocks.model_copy(update={"micro_batch_tokens": sequence_length, "batch_tokens": 2 * sequence_length})
        return choose(config, one, sequence_length, budget_bytes, cuda, flex=True).fits

    low, high = 0, LONGEST_SEQUENCE // LENGTH_UNIT
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * LENGTH_UNIT) else (low, middle - 1)
    return low * LENGTH_UNIT


def assumed_precision(training: Training, cuda: bool) -> Precision:
    """The precision to forecast with: for auto, what most machines of this kind take. The trainer measures."""
    if training.precision == "auto":
        return "bf16" if cuda else "fp32"
    return training.precision


def unmet(training: Training, cuda: bool) -> list[str]:
    """Requirements of these settings that this machine does not meet, a sentence each. Imports nothing to find out.

    cuda: whether there is a CUDA device, or one is planned for.
    """
    missing = []
    if training.attention == "flex" and not cuda:
        missing.append("training.attention is flex, which needs a CUDA device; use auto, fused or reference.")
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


def _attention(training: Training, sequence_length: int, cuda: bool, flex: bool | None) -> AttentionBackend:
    if training.attention != "auto":
        return training.attention
    if not cuda:
        # With one document in a sequence of 1,024, `tiled` takes 0.7 of the time of `fused` in fp32 and 0.8 in bf16;
        # with several it leaves out the keys of the others (docs/benchmarks/training.md). Its loops cannot be compiled.
        return "fused" if training.compile else "tiled"
    if sequence_length <= FLEX_ABOVE:
        return "fused"
    if flex is None:
        flex = importlib.util.find_spec("triton") is not None
    return "flex" if flex else "fused"


def _candidates(
    training: Training, sequence_length: int, sequences: int, cuda: bool
) -> Iterator[tuple[ActivationCheckpointing, int]]:
    """Activation checkpointing and sequences in a pass, the best first. `sequences`: those of one process in a step."""
    options: tuple[ActivationCheckpointing, ...] = ("none", "mlp", "block")
    if training.activation_checkpointing != "auto":
        options = (training.activation_checkpointing,)
    if training.micro_batch_tokens:
        counts = [min(sequences, max(1, training.micro_batch_tokens // sequence_length))]
    else:
        most = min(sequences, max(1, (GPU_TOKENS if cuda else CPU_TOKENS) // sequence_length))
        counts = [1 << exponent for exponent in reversed(range(most.bit_length()))]
    for option in options:
        last = option == options[-1]
        for count in counts:
            if last or count == counts[0] or (cuda and count * sequence_length >= FEWEST_GPU_TOKENS):
                yield option, count


def _milder(training: Training, sequence_length: int, cuda: bool) -> list[tuple[str, Any]]:
    """Changes that save memory, the mildest first."""
    changes: list[tuple[str, Any]] = []
    if training.micro_batch_tokens >= 2 * sequence_length:
        changes.append(("micro_batch_tokens", 0))
    if training.attention == "reference":
        changes.append(("attention", "auto"))
    if training.activation_checkpointing in ("none", "mlp"):
        changes.append(("activation_checkpointing", "auto"))
    precision = assumed_precision(training, cuda)
    if training.residual == "fp32" and precision == "bf16":
        changes.append(("residual", "bf16"))
    if cuda and precision == "fp32":
        changes.append(("precision", "bf16"))
    if cuda and training.optimizer != "adamw_8bit":
        changes.append(("optimizer", "adamw_8bit"))
    return changes


def _listed(changes: list[tuple[str, Any]] | tuple[tuple[str, Any], ...]) -> str:
    return " and ".join(f"training.{key} to {value}" for key, value in changes)
