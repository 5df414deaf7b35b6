from typing import Any

from assets_defs.stage_asset import dropped_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("clean_documents", kinds={"parquet"})
def clean_documents(artifact: Artifact) -> dict[str, Any]:
    """Every document that was dropped is counted under its reason."""
    counts = artifact.counts
    return {
        "dagster/row_count": counts["documents"],
        "dropped": counts["dropped"],
        "by_source": dropped_table(counts["sources"]),
    }
