from typing import Any

from assets_defs.stage_asset import dropped_table, markdown_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("clean_documents", kinds={"parquet"})
def clean_documents(artifact: Artifact) -> dict[str, Any]:
    """Every document that was dropped is counted under its reason."""
    counts = artifact.counts
    found = [(name, kind, n) for name, source in counts["sources"].items() for kind, n in source["found"].items()]
    sets = [
        (name, looked_for["records"], looked_for["found"], looked_for["documents"])
        for name, looked_for in counts["evaluation_sets"].items()
    ]
    return {
        "dagster/row_count": counts["documents"],
        "dropped": counts["dropped"],
        "by_source": dropped_table(counts["sources"]),
        "found": markdown_table(("source", "what", "documents"), found),
        "evaluation_sets": markdown_table(("set", "records", "records found", "documents dropped"), sets),
    }
