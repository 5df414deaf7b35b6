from typing import Any

import dagster as dg

from assets_defs.stage_asset import stage_asset
from parakeet.artifact import Artifact
from parakeet.release.card import card_body


@stage_asset("original_model", kinds={"safetensors"})
def original_model(artifact: Artifact) -> dict[str, Any]:
    """Read as tensors only, in a process of its own: nothing in the file is executed."""
    counts = artifact.counts
    return {
        **{key: counts[key] for key in ("name", "parameters", "source_bytes", "source_sha256")},
        "card": dg.MetadataValue.md(card_body((artifact.path / "README.md").read_text(encoding="utf-8"))),
    }
