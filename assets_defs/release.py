from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import artifact_of, stage_asset
from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.release.card import card_body
from parakeet.release.verify import verify_release


@stage_asset("release", kinds={"safetensors"})
def release(artifact: Artifact) -> dict[str, Any]:
    """`releases/latest` moves only when the directory verifies and the model reloads from its files alone."""
    counts = artifact.counts
    return {
        "name": counts["name"],
        "parameters": counts["parameters"],
        "card": dg.MetadataValue.md(card_body((artifact.path / "README.md").read_text(encoding="utf-8"))),
    }


@dg.asset_check(asset="release", blocking=True)
def release_verifies(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """Every file of the release has the hash that SHA256SUMS gives it."""
    try:
        files = verify_release(artifact_of(parakeet_home, "release").path)
    except ParakeetError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    return dg.AssetCheckResult(passed=True, metadata={"files": files})
