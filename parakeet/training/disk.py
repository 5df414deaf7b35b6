"""Bytes that training keeps, in files and of its optimizer. Imports no torch."""

import math
from pathlib import Path

from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.schedule import total_steps

BYTES_PER_METRICS_LINE = 400
BYTES_PER_TENSORBOARD_STEP = 1000
SMALLEST_8BIT = 4096
"""bitsandbytes keeps the state of smaller parameters at 32 bits."""
BYTES_OF_8BIT_MOMENTS = 2 + 2 * 4 / 256
"""Two codes of a byte, and for each block of 256 two fp32 scales."""


def weights_bytes(config: ModelConfig) -> int:
    """fp32 weights, the tied embedding once."""
    return 4 * config.parameter_count


def optimizer_bytes(config: ModelConfig, optimizer: str) -> int:
    """State of an optimizer: AdamW's two fp32 moments, or what 8 bits or Muon's one momentum leave of them.

    Both spare only the matrices of the blocks: the embedding and the norms keep AdamW's 8 bytes a parameter.
    """
    parts = config.parameters()
    matrices = sum(parts[name] for name in ("queries", "keys and values", "attention outputs", "MLPs"))
    others = config.parameter_count - matrices
    if optimizer == "muon":
        return 4 * matrices + 8 * others
    if optimizer == "adamw_8bit" and config.width**2 >= SMALLEST_8BIT:
        return round(BYTES_OF_8BIT_MOMENTS * matrices) + 8 * others
    return 8 * config.parameter_count


def checkpoint_bytes(config: ModelConfig, training: Training) -> int:
    """Weights and the optimizer's state."""
    return weights_bytes(config) + optimizer_bytes(config, training.optimizer)


def run_bytes(config: ModelConfig, training: Training) -> int:
    """A run at its largest, with the finished model.

    Of checkpoints it holds the newest, those kept for good, the last stable one, the best, and the one being written.
    """
    steps = total_steps(training)
    for_good = steps // math.lcm(training.keep_every, training.checkpoint_steps) if training.keep_every else 0
    checkpoints = training.keep_checkpoints + for_good + 2 + (training.validation_tokens > 0)
    lines = BYTES_PER_METRICS_LINE + (BYTES_PER_TENSORBOARD_STEP if training.tensorboard else 0)
    return checkpoints * checkpoint_bytes(config, training) + weights_bytes(config) + lines * steps


def bytes_on_disk(run: Path) -> int:
    """What a run's folder holds already; a resumed run does not need it again."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
