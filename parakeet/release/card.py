"""Model cards: what the model is, what it was made from, how good it is, and its limits."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from parakeet.evaluation.metrics import measured_metrics
from parakeet.formatting import format_bytes
from parakeet.lineage import began_with
from parakeet.model.config import ModelConfig
from parakeet.pages import Table, render
from parakeet.recipe import Generation, Recipe

CARD_FILE = "README.md"
ONLY_IN_THE_FOLDER = ("![", "[report.html](", "    parakeet chat --model .")
"""How the lines of a card begin that are of no use without the files beside it."""


def render_card(
    recipe: Recipe, training: Mapping[str, Any], evaluation: Mapping[str, Any], shards: Mapping[str, Any]
) -> str:
    """The card of a model that was trained here.

    `training` and `shards` are the counts of those stages' manifests, `evaluation` is evaluation.json.
    """
    licences = sorted({source.licence for source in recipe.sources})
    rows = []
    for source in recipe.sources:
        train, held_out = (shards[split]["sources"][source.name] for split in ("train", "held_out"))
        rows.append((source.name, source.licence, train["documents"], train["tokens"], held_out["documents"]))
    return render(
        "release_card.md",
        # We cannot license weights that were learned from other people's text.
        header=card_header(
            license="gpl-3.0" if licences == ["GPL-3.0-or-later"] else "other",
            datasets=[source.name for source in recipe.sources],
        ),
        recipe=recipe,
        training=training,
        start=began_with(training["start"]) if "start" in training else None,
        sources=Table(("source", "licence", "training documents", "training tokens", "held-out documents"), rows),
        metrics=measured_metrics(evaluation),
        canaries=shards.get("canaries"),
        evaluation=evaluation,
        licences=licences,
    )


def render_original_card(
    name: str,
    source: Mapping[str, Any],
    config: ModelConfig,
    generation: Generation,
    softmax: Mapping[str, float] | None = None,
) -> str:
    """The card of an imported checkpoint. `source` is `imported_from` of its training_manifest.json, and `softmax` the
    same of a model that was found to have `softmax_one`."""
    file = (
        ("file", source["file_name"]),
        ("size", f"{format_bytes(source['n_bytes'])}, {source['tensors']:,} tensors"),
        ("sha256", source["sha256"]),
    )
    model = [
        ("layers, heads, width", f"{config.layers}, {config.heads}, {config.width:,}"),
        ("context", f"{config.context:,} tokens"),
        ("vocabulary", f"cl100k_base and Parakeet's four tokens, {config.vocabulary_rows:,} rows"),
        ("parameters", f"{config.parameter_count:,}; tied and shared ones are counted once"),
        ("positions", "ALiBi, slopes 2^(−8h/heads) for h = 1 … heads"),
        ("keys and values", "one projection for each pair of layers"),
    ]
    if softmax is not None:
        both = f"{softmax['off_by_one']:.2f} bits per byte of plain English; {softmax['plain']:.2f} with a plain one"
        model.append(("softmax", f"off by one, as measured at import: {both}"))
    tables = {"source": Table(("", ""), file), "model": Table(("", ""), model)}
    header = card_header(license="other")
    return render("original_card.md", header=header, name=name, config=config, tables=tables, generation=generation)


def card_header(**fields: Any) -> Markup:
    """The YAML header that model hubs read."""
    common = {"language": "en", "library_name": "parakeet", "pipeline_tag": "text-generation"}
    values = {**common, "tags": ["parakeet", "alibi", "tiny"], **fields}
    return Markup(f"---\n{yaml.safe_dump(values, sort_keys=False)}---")


def read_card(folder: Path) -> str:
    """The card of a release, "" if it has none. It is not among the files whose hashes were checked."""
    path = folder / CARD_FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def licence_of(card: str) -> str:
    """The licence in the YAML header of a card; `other` without one."""
    header = card.split("---\n", 2)
    try:
        values = yaml.safe_load(header[1]) if len(header) == 3 else {}
    except yaml.YAMLError:
        values = {}
    return str(values.get("license", "other")) if isinstance(values, dict) else "other"


def card_body(card: str) -> str:
    """The card without YAML header and without what holds only in the release's folder: pictures, report, command."""
    body = card.split("---\n", 2)[-1]
    kept = "\n".join(line for line in body.splitlines() if not line.startswith(ONLY_IN_THE_FOLDER))
    return re.sub(r"\n{3,}", "\n\n", kept).strip()
