from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import TRAINING_POOL, artifact_of, image, stage_asset
from parakeet.artifact import Artifact
from parakeet.training.job import CURVE_FILE, METRICS_FILE
from parakeet.training.stage import fault_of_training

FIGURES = {
    "parameters": "parameters",
    "steps": "steps",
    "tokens": "tokens",
    "final_loss": "final_loss",
    "validation_loss": "validation_loss",
    "tokens_per_second": "tokens_per_second",
    "seconds": "training_seconds",
    "mfu": "mfu",
    "memory_bytes": "peak_memory_bytes",
    "forecast_bytes": "forecast_memory_bytes",
    "skipped": "skipped",
    "rolled_back": "rolled_back",
    "device": "device",
    "processes": "processes",
    "run": "run",
}
"""What of the trainer's summary the asset shows, under which name: the stage has a time of its own."""


@stage_asset("checkpoint", kinds={"pytorch", "safetensors"}, pool=TRAINING_POOL)
def checkpoint(artifact: Artifact) -> dict[str, Any]:
    """Trained in a process of its own, which saves and stops on SIGINT or SIGTERM and goes on where it stood."""
    counts = artifact.counts
    measured = {name: counts[key] for key, name in FIGURES.items() if counts.get(key) is not None}
    return {
        "mfu": "unknown",
        **measured,
        "metrics": dg.MetadataValue.path(str(artifact.path / METRICS_FILE)),
        "loss_curve": image(artifact.path / CURVE_FILE),
    }


@dg.asset_check(asset="checkpoint", blocking=True)
def training_converged(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """Every weight is finite and the loss has fallen from where it began."""
    artifact = artifact_of(parakeet_home, "checkpoint")
    fault = fault_of_training(artifact.path, artifact.counts)
    losses = {name: artifact.counts[name] for name in ("first_loss", "final_loss")}
    return dg.AssetCheckResult(passed=fault is None, description=fault, metadata=losses)
