"""What a report is written from: records of the artefacts before it, and the replies of earlier checkpoints."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.data.tokens.canaries import LICENCE as CANARY_LICENCE
from parakeet.evaluation.base import Score
from parakeet.evaluation.metrics import EVALUATION_FILE, scores_of
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.progress import Progress
from parakeet.recipe import CANARY_SOURCE, Recipe
from parakeet.report.previous import Measured, previous_release
from parakeet.tokenizer import Tokenizer
from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import Records, read_metrics
from parakeet.training.schedule import Schedule


@dataclass(frozen=True)
class Gathered:
    """`training` has the counts of the checkpoint, `tokens_read` the tokens of all its steps, `text` the counts of the
    shards by source, `samples` the replies of earlier checkpoints (`earlier_replies`). `memorisation` has the figures
    of that stage, None if the recipe has it not."""

    recipe: Recipe
    config: ModelConfig
    tokenizer: Tokenizer
    made: datetime.date
    training: dict[str, Any]
    tokens_read: int
    flops: int
    metrics: Records
    text: dict[str, Any]
    evaluation: dict[str, Any]
    scores: dict[str, list[Score]]
    memorisation: dict[str, Any] | None
    samples: list[dict[str, Any]]
    previous: Measured | None
    contents: dict[str, str]

    def measured(self) -> Measured:
        """What the report of a later model compares with."""
        counts = self.training
        return Measured(
            self.recipe.name,
            self.made.isoformat(),
            self.contents["token_shards"],
            counts["parameters"],
            counts["tokens"],
            self.scores,
        )


def gather(recipe: Recipe, root: Path, inputs: Mapping[str, Artifact], progress: Progress) -> Gathered:
    """Read all records, and let the earlier checkpoints write."""
    from parakeet.report.samples import earlier_replies

    checkpoint, shards = inputs["checkpoint"], inputs["token_shards"]
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    config = ModelConfig.load(checkpoint.path)
    evaluation = json.loads((inputs["evaluation"].path / EVALUATION_FILE).read_text(encoding="utf-8"))
    weights = str(checkpoint.manifest["files"][WEIGHTS_FILE]["sha256"])
    return Gathered(
        recipe=recipe,
        config=config,
        tokenizer=tokenizer,
        made=datetime.datetime.fromisoformat(str(checkpoint.manifest["made"])).date(),
        training=checkpoint.counts,
        tokens_read=Schedule.from_recipe(recipe.training, recipe.packing).tokens_until(checkpoint.counts["steps"]),
        flops=_flops(recipe, config, checkpoint.counts["steps"]),
        metrics=read_metrics(checkpoint.path / METRICS_FILE),
        text=_text(recipe, shards.counts, inputs["packing_plan"].counts, inputs["documents"].counts),
        evaluation=evaluation,
        scores=scores_of(evaluation),
        memorisation=inputs["memorisation"].counts if "memorisation" in inputs else None,
        samples=earlier_replies(recipe, root, checkpoint, tokenizer, progress),
        previous=previous_release(root, recipe.name, weights, progress),
        contents={"weights": weights, **{name: artifact.content for name, artifact in inputs.items()}},
    )


def _flops(recipe: Recipe, config: ModelConfig, steps: int) -> int:
    """Of the whole training, by the rule of `ModelConfig.flops_per_token`."""
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    return sum(
        config.flops_per_token(schedule.sequence_length(step)) * schedule.tokens_in(step)
        for step in range(1, steps + 1)
    )


def _text(
    recipe: Recipe, shards: Mapping[str, Any], plan: Mapping[str, Any], documents: Mapping[str, Any]
) -> dict[str, Any]:
    """{"sources": {"name", "licence", "documents", "tokens", "bytes", "share", "epochs", "held_out"}, the largest
    first; "total": {"documents", "tokens", "bytes", "held_out_tokens"}; "canaries": what the shards' counts say of
    them, or None}. All but what is held out is of the training split. "share" is that of the tokens that training
    reads, where a source with more epochs counts for more."""
    train, held_out = shards["train"], shards["held_out"]
    licences = {source.name: source.licence for source in recipe.sources}
    if shards.get("canaries"):
        licences[CANARY_SOURCE] = CANARY_LICENCE
    mix = plan.get("mix", {})
    read = {name: mix.get(name, {}).get("tokens", found["tokens"]) for name, found in train["sources"].items()}
    sources = [
        {
            "name": name,
            "licence": documents["sources"].get(name, {}).get("licence") or licences.get(name) or "unknown",
            **{key: found[key] for key in ("documents", "tokens", "bytes")},
            "share": read[name] / max(1, sum(read.values())),
            "epochs": mix.get(name, {}).get("epochs", 1.0),
            "held_out": held_out["sources"].get(name, {}).get("tokens", 0),
        }
        for name, found in train["sources"].items()
    ]
    total = {key: train[key] for key in ("documents", "tokens", "bytes")} | {"held_out_tokens": held_out["tokens"]}
    by_size = sorted(sources, key=lambda one: (-one["tokens"], one["name"]))
    return {"sources": by_size, "total": total, "canaries": shards.get("canaries")}
