from typing import Any

from assets_defs.stage_asset import stage_asset
from parakeet.artifact import Artifact


@stage_asset("packing_plan", kinds={"arrow"})
def packing_plan(artifact: Artifact) -> dict[str, Any]:
    """Best-fit decreasing; pieces of a split document overlap by one token, so that each is predicted."""
    counts = artifact.counts
    return {key: counts[key] for key in ("rows", "row_tokens", "targets", "fill", "pieces", "split_documents")}
