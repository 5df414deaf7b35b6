from typing import Any

from assets_defs.stage_asset import markdown_table, stage_asset
from parakeet.artifact import Artifact


@stage_asset("packing_plan", kinds={"arrow"})
def packing_plan(artifact: Artifact) -> dict[str, Any]:
    """Best-fit decreasing; pieces of a split document overlap by one token, so that each is predicted."""
    counts = artifact.counts
    shown = ("rows", "row_tokens", "targets", "fill", "pieces", "split_documents")
    plans = [
        (plan["row_tokens"], plan["rows"], f"{plan['fill']:.2%}", plan["split_documents"])
        for plan in counts["lengths"].values()
    ]
    mix = [
        (name, seen["documents"], seen["tokens"], f"{seen['share']:.2%}", f"{seen['epochs']:.3g}")
        for name, seen in counts["mix"].items()
    ]
    return {
        **{key: counts[key] for key in shown},
        "mix": markdown_table(("source", "documents", "tokens", "share", "epochs"), mix),
        "lengths": markdown_table(("row tokens", "rows", "fill", "split documents"), plans),
    }
