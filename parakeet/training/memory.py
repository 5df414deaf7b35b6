"""How much memory training may take, and the sizes of weights, optimizers, checkpoints and runs. Imports no torch."""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.schedule import total_steps

MIB = 1 << 20
GIB = 1 << 30
GPU_RESERVE = round(0.8 * GIB)
"""What the CUDA context, its libraries and a display take of a GPU's memory before anything is allocated."""
CPU_SHARE = 0.8
"""Share of the machine's memory that training may take. Not a share of what is free at the moment: a resumed run has to
choose the same micro-batches as before."""

UNKNOWN_BUDGET = 1 << 60
"""Used if the system does not say how much memory there is. It is more than any machine has, so nothing is refused.
(Version 1 of cgroups writes 2^63 less a page for no limit.)"""

BYTES_PER_METRICS_LINE = 400
BYTES_PER_TENSORBOARD_STEP = 1000
SMALLEST_8BIT = 4096
"""bitsandbytes keeps 32-bit state for parameters with fewer values."""
BYTES_OF_8BIT_MOMENTS = 2 + 2 * 4 / 256
"""Two one-byte codes a value, and two fp32 scales for each block of 256."""

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(text: str) -> int:
    """Bytes of "11.2GiB", "12GB" or "11500MiB": units of 1,000, with an i of 1,024. ParakeetError otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(I?)B\s*", text.upper())
    n_bytes = round(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]]) if match else 0
    if not 0 < n_bytes < UNKNOWN_BUDGET:
        raise ParakeetError(f"{text!r} is not an amount of memory: write it like 11.2GiB, 12GB or 11500MiB.")
    return n_bytes


def size(n_bytes: int) -> str:
    """An amount of memory for people."""
    if n_bytes == UNKNOWN_BUDGET:
        return "an unknown amount"
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:,.2f} GiB"
    return f"{n_bytes / MIB:,.1f} MiB" if n_bytes >= MIB else f"{n_bytes:,} bytes"


def gpu_budget(n_bytes: int) -> int:
    """What can be allocated on a GPU with `n_bytes` of memory."""
    return max(0, n_bytes - GPU_RESERVE)


def machine_budget() -> int:
    """Bytes that training may take of this machine's memory, or of its container's limit.

    UNKNOWN_BUDGET if the system says neither.
    """
    return share_of([physical_memory(), *group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def share_of(limits: Iterable[int | None]) -> int:
    """Bytes that training may take under all of these limits; None is an unknown limit."""
    known = [limit for limit in limits if limit is not None]
    return int(CPU_SHARE * min(known)) if known else UNKNOWN_BUDGET


def physical_memory() -> int | None:
    """Bytes of memory in this machine; None if the system does not say (Windows)."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return page * pages if page > 0 and pages > 0 else None


def group_limits(root: Path, membership: Path) -> list[int]:
    """Memory limits of a process's control groups, in bytes. A group's limit applies to all groups below it.

    root: where both versions of control groups are mounted; membership: the process's /proc/…/cgroup.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # not Linux
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's; then only the visible root counts.
        limits += [_limit(folder / file) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return [limit for limit in limits if limit is not None and limit < UNKNOWN_BUDGET]


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no such file, or "max"


def weights_bytes(config: ModelConfig) -> int:
    """fp32 weights, with the tied embedding counted once."""
    return 4 * config.parameter_count


def optimizer_bytes(config: ModelConfig, optimizer: str) -> int:
    """An optimizer's state: two fp32 moments a parameter for AdamW; less for 8-bit AdamW and Muon.

    Those two save only on the matrices of the blocks: the embedding and the norms keep AdamW's 8 bytes a parameter.
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
    """Weights and optimizer state."""
    return weights_bytes(config) + optimizer_bytes(config, training.optimizer)


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
