import math
from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import TRAINING_POOL, artifact_of, image, stage_asset
from parakeet.artifact import Artifact


@stage_asset("checkpoint", kinds={"pytorch", "safetensors"}, pool=TRAINING_POOL)
def checkpoint(artifact: Artifact) -> dict[str, Any]:
    """Trained in a process of its own, which saves and stops on SIGINT or SIGTERM and goes on where it stood."""
    keys = ("parameters", "steps", "tokens", "final_loss", "tokens_per_second", "seconds", "device", "run")
    counts = artifact.counts
    return {
        **{f"training_{key}" if key == "seconds" else key: counts[key] for key in keys},
        "loss_curve": image(artifact.path / "loss_curve.png"),
    }


@dg.asset_check(asset="checkpoint", blocking=True)
def training_converged(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """Every weight is finite and the loss has fallen from where it began."""
    import numpy as np
    from safetensors import safe_open

    artifact = artifact_of(parakeet_home, "checkpoint")
    first, last = artifact.counts["first_loss"], artifact.counts["final_loss"]
    with safe_open(artifact.path / "model.safetensors", framework="numpy") as file:
        broken = [name for name in file.keys() if not np.isfinite(file.get_tensor(name)).all()]  # noqa: SIM118
    return dg.AssetCheckResult(
        passed=not broken and math.isfinite(last) and last < first,
        metadata={"first_loss": first, "final_loss": last, "tensors_with_broken_values": len(broken)},
    )
