from typing import Any

from assets_defs.stage_asset import dropped_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("deduplicated_documents", kinds={"parquet"})
def deduplicated_documents(artifact: Artifact) -> dict[str, Any]:
    """A cluster with one held-out member is held out whole."""
    counts = artifact.counts
    return {
        "dagster/row_count": counts["documents"],
        "held_out": counts["held_out"],
        "exact_duplicates": counts["exact_duplicates"],
        "near_duplicates": counts["near_duplicates"],
        "exchanges_cut": counts["exchanges_cut"],
        **{f"{kind}_clusters": number for kind, number in counts["clusters"].items() if kind != "largest"},
        "largest_cluster": counts["clusters"]["largest"],
        "by_source": dropped_table(counts["sources"]),
    }
