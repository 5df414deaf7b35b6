"""The model card: what the model is, what it was made from, how well it does, and what it must not be used for."""

from collections.abc import Mapping
from typing import Any

import yaml

from parakeet.evaluation.tables import bits_per_byte_table, exact_match_table, replies_table
from parakeet.recipe import Recipe


def render_card(
    recipe: Recipe, training: Mapping[str, Any], evaluation: Mapping[str, Any], shards: Mapping[str, Any]
) -> str:
    """Markdown with the YAML header that model hubs read. Counts come from the stages' manifests."""
    licences = sorted({source.licence for source in recipe.sources})
    header = {
        "language": "en",
        "library_name": "parakeet",
        "pipeline_tag": "text-generation",
        "tags": ["parakeet", "alibi", "tiny"],
        # Weights learnt from other people's text are not ours alone to license.
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
        "## Held-out bits per byte\n\n" + bits_per_byte_table(evaluation["bits_per_byte"]),
        "![Bits per byte](bits_per_byte.png)",
        "![Bits per byte by position](bits_per_byte_by_position.png)",
        "## Exact answers to held-out questions\n\n" + exact_match_table(evaluation["exact_match"]),
        "## Replies\n\n" + replies_table(evaluation["replies"]),
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


def card_body(card: str) -> str:
    """The card for a page that shows neither a YAML header nor pictures from files beside it."""
    body = card.split("---\n", 2)[-1]
    return "\n".join(line for line in body.splitlines() if not line.startswith("!["))
