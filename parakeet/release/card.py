"""Model cards: what the model is, what it was made from, how good it is, and its limits."""

from collections.abc import Mapping
from typing import Any

import yaml

from parakeet.evaluation.metrics import model_card_sections
from parakeet.model.config import ModelConfig
from parakeet.recipe import Generation, Recipe


def render_card(
    recipe: Recipe, training: Mapping[str, Any], evaluation: Mapping[str, Any], shards: Mapping[str, Any]
) -> str:
    """The card of a model that was trained here: Markdown with the YAML header that model hubs read.

    `training` and `shards` are the counts of those stages' manifests, `evaluation` is evaluation.json.
    """
    licences = sorted({source.licence for source in recipe.sources})
    header = {
        "language": "en",
        "library_name": "parakeet",
        "pipeline_tag": "text-generation",
        "tags": ["parakeet", "alibi", "tiny"],
        # We cannot license weights that were learned from other people's text.
        "license": "gpl-3.0" if licences == ["GPL-3.0-or-later"] else "other",
        "datasets": [source.name for source in recipe.sources],
    }
    model = recipe.model
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {recipe.name}\n\n{recipe.description}",
        f"A Parakeet language model of {training['parameters']:,} parameters: {model.layers} layers, "
        f"{model.heads} heads, width {model.width}, context {model.context:,}, ALiBi positions, key/value projections "
        f"shared by pairs of layers. It was trained on {training['tokens']:,} tokens in {training['steps']:,} steps "
        f"({training['seconds']:,.0f} s on {training['device']}), down to a loss of {training['final_loss']:.3f} nats "
        "a token.",
        "    parakeet chat --model .",
        "![Loss while training](loss_curve.png)",
        f"## Text\n\n{_text_table(recipe, shards)}",
        *model_card_sections(evaluation),
        "## Limits\n\nA tiny model for learning about language models. It says false things with confidence; nothing "
        f"it says is advice. The licences of the text above ({', '.join(licences)}) go with the weights. "
        "`training_manifest.json` traces them back to every source file; `sha256sum -c SHA256SUMS` checks the files.",
    ]
    return "\n\n".join(sections) + "\n"


def _text_table(recipe: Recipe, shards: Mapping[str, Any]) -> str:
    rows = [
        "| source | licence | training documents | training tokens | held-out documents |",
        "|---|---|---:|---:|---:|",
    ]
    for source in recipe.sources:
        train, held_out = (shards[split]["sources"][source.name] for split in ("train", "held_out"))
        figures = f"{train['documents']:,} | {train['tokens']:,} | {held_out['documents']:,}"
        rows.append(f"| {source.name} | {source.licence} | {figures} |")
    return "\n".join(rows)


def render_original_card(name: str, source: Mapping[str, Any], config: ModelConfig, generation: Generation) -> str:
    """The card of an imported checkpoint. `source` is `imported_from` of its training_manifest.json."""
    header = {
        "language": "en",
        "library_name": "parakeet",
        "pipeline_tag": "text-generation",
        "tags": ["parakeet", "alibi", "tiny"],
        "license": "other",
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        f"A checkpoint of the original Parakeet project, in this project's format: the same "
        f"{config.parameter_count:,} parameters, bit for bit. Nothing was trained, rounded or left out.",
        "    parakeet chat --model .",
        "## Where it comes from\n\n"
        + _table(
            ("file", f"`{source['file_name']}`"),
            ("size", f"{source['n_bytes']:,} bytes, {source['tensors']:,} tensors"),
            ("sha256", f"`{source['sha256']}`"),
        ),
        "The layout proves the kind of model, not who made it: compare the hash with one that you trust. "
        "`parakeet export --format original` writes the same tensors back.",
        "## Model\n\n"
        + _table(
            ("layers, heads, width", f"{config.layers}, {config.heads}, {config.width:,}"),
            ("context", f"{config.context:,} tokens"),
            ("vocabulary", f"cl100k_base and Parakeet's four tokens, {config.vocabulary_rows:,} rows"),
            ("parameters", f"{config.parameter_count:,}, the tied and shared ones counted once"),
            ("positions", "ALiBi, slopes 2^(−8h/heads) for h = 1 … heads"),
            ("keys and values", "one projection for each pair of layers"),
        ),
        "The model that the author published was trained on texts of at most 1,200 tokens; ALiBi carries it further, "
        "with what success was not measured here.",
        "## Chat\n\nThe settings of the original's own chat: "
        f"temperature {generation.temperature}, top_p {generation.top_p}, min_p {generation.min_p}, frequency penalty "
        f"{generation.frequency_penalty}, presence penalty {generation.presence_penalty}, at most "
        f"{generation.max_tokens:,} tokens. It began with a message of a person who asks for a persona; it knows a "
        "System token, but its chat never used it.",
        "## Licence and limits\n\nThe weights are their author's, under the terms that came with the file: importing "
        "them changes nothing about that. What text they were trained on, the file does not say. A tiny model says "
        "false things with confidence; nothing it says is advice. Nothing was evaluated at import. "
        "`sha256sum -c SHA256SUMS` checks the files.",
    ]
    return "\n\n".join(sections) + "\n"


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def card_body(card: str) -> str:
    """The card without YAML header and pictures, for a page that cannot show them."""
    body = card.split("---\n", 2)[-1]
    return "\n".join(line for line in body.splitlines() if not line.startswith("!["))
