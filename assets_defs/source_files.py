from typing import Any

import dagster as dg

from assets_defs.stage_asset import markdown_table, stage_asset
from parakeet.artifact import Artifact
from parakeet.home import home
from parakeet.recipe_sources import RemoteSource
from parakeet.stages import Stage, active_recipe, fetching_stages, remote_sources

KINDS = {"download": "http", "hub": "huggingface", "bucket": "s3"}
SHOWN_FILES = 200


def _asset_of(stage: Stage, source: RemoteSource) -> dg.AssetsDefinition:
    @stage_asset(stage, kinds={KINDS[source.kind]})
    def fetched(artifact: Artifact) -> dict[str, Any]:
        """What has arrived is kept when a fetch is interrupted or refused, and checked against what was published."""
        counts = artifact.counts
        rows = [(e["name"], e["bytes"], e["sha256"][:12], e["origin"]) for e in counts["entries"][:SHOWN_FILES]]
        return {
            "licence": source.licence,
            **{key: counts[key] for key in ("dataset", "revision", "sliced") if key in counts},
            "n_files": counts["files"],
            "files": markdown_table(("file", "bytes", "sha256", "origin"), rows),
        }

    return fetched


_recipe = active_recipe(home())
source_files = [_asset_of(*pair) for pair in zip(fetching_stages(_recipe), remote_sources(_recipe), strict=True)]
