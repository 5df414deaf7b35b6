from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import TRAINING_POOL, artifact_of, image, stage_asset
from parakeet.artifact import Artifact
from parakeet.training.job import CURVE_FILE
from parakeet.training.stage import fault_of_training


@stage_asset("checkpoint", kinds={"pytorch", "safetensors"}, pool=TRAINING_POOL)
def checkpoint(artifact: Artifact) -> dict[str, Any]:
    """Trained in a process of its own, which saves and stops on SIGINT or SIGTERM and goes on where it stood."""
    keys = ("parameters", "steps", "tokens", "final_loss", "tokens_per_second", "seconds", "device", "run")
    counts = artifact.counts
    return {
        **{f"training_{key}" if key == "seconds" else key: counts[key] for key in keys},
        "loss_curve": image(artifact.path / CURVE_FILE),
    }


@dg.asset_check(asset="checkpoint", blocking=True)
def training_converged(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """Every weight is finite and the loss has fallen from where it began."""
    artifact = artifact_of(parakeet_home, "checkpoint")
    fault = fault_of_training(artifact.path, artifact.counts)
    losses = {name: artifact.counts[name] for name in ("first_loss", "final_loss")}
    return dg.AssetCheckResult(passed=fault is None, description=fault, metadata=losses)
