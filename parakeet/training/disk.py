"""Disk that training asks for. Imports no torch."""

from pathlib import Path

from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.schedule import total_steps

BYTES_PER_METRICS_LINE = 200


def weights_bytes(config: ModelConfig) -> int:
    """fp32 weights, the tied embedding once."""
    return 4 * config.parameter_count


def checkpoint_bytes(config: ModelConfig, training: Training) -> int:
    """Weights and AdamW's two moments: 8 bytes a parameter, or 2.03 at 8 bits, where the embedding keeps its 8."""
    embedding = config.parameters()["embedding"]
    others = config.parameter_count - embedding
    a_moment_pair = 2.03 if training.optimizer == "adamw_8bit" else 8
    return weights_bytes(config) + 8 * embedding + round(a_moment_pair * others)


def run_bytes(config: ModelConfig, training: Training) -> int:
    """A run at its largest: the kept checkpoints, the one before the decay, the one being written, the result."""
    checkpoints = training.keep_checkpoints + 2
    metrics = BYTES_PER_METRICS_LINE * total_steps(training)
    return checkpoints * checkpoint_bytes(config, training) + weights_bytes(config) + metrics


def bytes_on_disk(run: Path) -> int:
    """What a run's folder holds already; a resumed run does not need it again."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
