from typing import Any

from assets_defs.stage_asset import markdown_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("documents", kinds={"parquet"})
def documents(artifact: Artifact) -> dict[str, Any]:
    """Bad records are counted by reason; more than 1 % in a source stops the build."""
    sources = artifact.counts["sources"]
    rows = [(name, s["files"], s["records"], s["documents"], s["bad"], s["licence"]) for name, s in sources.items()]
    bad = [(name, reason, count) for name, s in sources.items() for reason, count in s["bad_reasons"].items()]
    return {
        "dagster/row_count": artifact.counts["documents"],
        "sources": markdown_table(("source", "files", "records", "documents", "bad", "licence"), rows),
        "bad_records": markdown_table(("source", "reason", "records"), bad),
    }
