from typing import Any

import dagster as dg

from assets_defs.stage_asset import stage_asset
from parakeet.artifact import Artifact
from parakeet.data.card.make import HTML_FILE, MARKDOWN_FILE

FIGURES = ("sources", "documents", "tokens", "held_out_tokens", "licences", "unknown_licences", "unaccounted")


@stage_asset("data_card", kinds={"html", "markdown"})
def data_card(artifact: Artifact) -> dict[str, Any]:
    """Every record is accounted for, or the card says which is not."""
    page = (artifact.path / HTML_FILE).resolve()
    return {
        "page": dg.MetadataValue.path(str(page)),
        "page_url": dg.MetadataValue.url(page.as_uri()),
        "card": dg.MetadataValue.md((artifact.path / MARKDOWN_FILE).read_text(encoding="utf-8")),
        **{name: artifact.counts[name] for name in FIGURES},
    }
