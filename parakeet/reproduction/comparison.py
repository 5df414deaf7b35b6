"""Two trainings of the same run side by side: their weights to the last bit, and where their losses part."""

from pathlib import Path

import torch
from safetensors import safe_open

from parakeet.artifact import Artifact
from parakeet.model.config import WEIGHTS_FILE
from parakeet.reproduction.trained import TrainedRun
from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import read_metrics


def compare(trained: TrainedRun, again: Artifact) -> tuple[bool | None, str]:
    """Whether the weights are identical (None if the original ones are not known), and sentences for people."""
    then, now = trained.weights_sha256, str(again.manifest["files"][WEIGHTS_FILE]["sha256"])
    losses = _losses(trained, again)
    if then is None:
        return None, f"The original weights are not known. {losses}"
    if then == now:
        return True, f"Identical weights: both have the sha256 {now}."
    before = None if trained.checkpoint is None else trained.checkpoint.path / WEIGHTS_FILE
    apart = "" if before is None or not before.is_file() else _distance(before, again.path / WEIGHTS_FILE)
    return False, f"The weights differ: sha256 {then[:12]}… then, {now[:12]}… now. {apart}{losses}"


def _distance(first: Path, second: Path) -> str:
    """How far apart two files of weights are. One tensor at a time is read."""
    with safe_open(first, framework="pt") as a, safe_open(second, framework="pt") as b:
        names = sorted(a.keys())
        if names != sorted(b.keys()):
            return "They have other tensors. "
        differing, largest, square, norm = 0, 0.0, 0.0, 0.0
        for name in names:
            one, other = a.get_tensor(name).to(torch.float64), b.get_tensor(name).to(torch.float64)
            if one.shape != other.shape:
                return f"{name} has another shape: {list(one.shape)} then, {list(other.shape)} now. "
            difference = other - one
            differing += bool(difference.any())
            largest = max(largest, float(difference.abs().max()))
            square += float(difference.square().sum())
            norm += float(one.square().sum())
    if not differing:
        return "Every value is equal: only the files differ. "
    relative = (square / norm) ** 0.5 if norm else float("inf")
    return (
        f"{differing:,} of {len(names):,} tensors differ, a value by {largest:.3g} at most; the distance is "
        f"{relative:.3g} of the weights' norm. "
    )


def _losses(trained: TrainedRun, again: Artifact) -> str:
    file = trained.file(METRICS_FILE)
    if file is None:
        return "The original losses are not known."
    then = [(record["step"], record["loss"]) for record in read_metrics(file)]
    now = [(record["step"], record["loss"]) for record in read_metrics(again.path / METRICS_FILE)]
    for number, (before, after) in enumerate(zip(then, now, strict=False)):
        if before != after:
            return (
                f"The first {number:,} steps have equal losses; step {after[0]:,}: {_loss(before[1])} then, "
                f"{_loss(after[1])} now. The last: {_loss(then[-1][1])} then, {_loss(now[-1][1])} now."
            )
    if len(then) != len(now):
        return f"{len(then):,} steps are recorded of the original and {len(now):,} of now; their losses are equal."
    return f"All {len(now):,} steps have equal losses."


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"
