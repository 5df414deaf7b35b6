from typing import Any

from assets_defs.stage_asset import markdown_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("documents", kinds={"parquet"})
def documents(artifact: Artifact) -> dict[str, Any]:
    """Bad records are counted by reason; more than 1 % in a source stops the build."""
    sources = artifact.counts["sources"]
    columns = ("files", "records", "documents", "bad", "not_taken", "licence")
    rows = [(name, *(source[column] for column in columns)) for name, source in sources.items()]
    bad = [(name, reason, count) for name, s in sources.items() for reason, count in s["bad_reasons"].items()]
    return {
        "dagster/row_count": artifact.counts["documents"],
        "sources": markdown_table(("source", *(column.replace("_", " ") for column in columns)), rows),
        "bad_records": markdown_table(("source", "reason", "records"), bad),
    }
