from typing import Any

from assets_defs.stage_asset import stage_asset
from parakeet.artifact import Artifact


@stage_asset("tokenizer", kinds={"tiktoken"})
def tokenizer(artifact: Artifact) -> dict[str, Any]:
    """Held-out text has no part in a trained vocabulary."""
    counts = artifact.counts
    return {key: counts[key] for key in ("kind", "tokens", "embedding_rows", "bytes_per_token", "sha256")}
