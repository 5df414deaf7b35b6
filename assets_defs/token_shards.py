from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import artifact_of, markdown_table, stage_asset
from parakeet.artifact import Artifact
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.tokenizer import Tokenizer


@stage_asset("token_shards", kinds={"arrow"})
def token_shards(artifact: Artifact) -> dict[str, Any]:
    """Roles and ends are ids; no text can spell one."""
    counts = artifact.counts
    rows = [
        (name, split, tally["documents"], tally["tokens"], tally["bytes"])
        for split in ("train", "held_out")
        for name, tally in counts[split]["sources"].items()
    ]
    return {
        "tokens": counts["train"]["tokens"],
        "held_out_tokens": counts["held_out"]["tokens"],
        "by_source": markdown_table(("source", "split", "documents", "tokens", "bytes"), rows),
    }


@dg.asset_check(asset="token_shards", blocking=True)
def shards_are_whole(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """Every file has the hash it was made with, was made with the tokenizer at hand, and holds no id past its end."""
    artifact = artifact_of(parakeet_home, "token_shards")
    tokenizer = Tokenizer.load(artifact_of(parakeet_home, "tokenizer").path)
    largest = artifact.counts["largest_id"]
    try:
        artifact.check(thorough=True)
        documents = {split: len(TokenShards(artifact.path, split, tokenizer)) for split in ("train", "held_out")}
    except ParakeetError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    passed = largest < tokenizer.rows and documents["train"] > 0
    return dg.AssetCheckResult(passed=passed, metadata={"largest_id": largest, **documents})
