"""Stage `evaluation`: everything that is measured of a model, as JSON, as a page and as a picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.questions import read_questions
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.bits_per_byte import BitsPerByte, choose_documents, measure, unigram_bits
from parakeet.evaluation.by_position import ByPosition, as_json, draw_by_position, measure_by_position
from parakeet.evaluation.exact_match import accuracy, answers_to, replies_to
from parakeet.evaluation.tables import (
    BY_POSITION_PLOT_FILE,
    EVALUATION_FILE,
    NOT_APPLICABLE,
    PLOT_FILE,
    REPORT_FILE,
    render_report,
)
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.transformer import Parakeet, best_device, load_model
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_prompt
from parakeet.tokenizer import Tokenizer


def evaluate(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Measure the checkpoint; the same inputs give the same bytes."""
    device = best_device()
    model = load_model(inputs["checkpoint"], device)
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    engine = Engine(Decoder(model, "fp32", device), tokenizer)
    _check_prompts(recipe, engine)
    questions = read_questions(inputs["documents"])
    replies = answers_to(engine, questions)
    prompts = recipe.evaluation.prompts
    result: dict[str, Any] = {
        **_bits_per_byte(recipe, inputs["token_shards"], model, tokenizer, progress),
        "exact_match": accuracy(questions, replies) if questions else NOT_APPLICABLE,
        "replies": [{"prompt": p, "reply": r} for p, r in zip(prompts, replies_to(engine, prompts), strict=True)],
    }
    (output / EVALUATION_FILE).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / REPORT_FILE).write_text(render_report(recipe.name, result), encoding="utf-8")
    draw_bits_per_byte(result["bits_per_byte"], output / PLOT_FILE)
    draw_by_position(result["bits_per_byte_by_position"], output / BY_POSITION_PLOT_FILE)
    return result


def _check_prompts(recipe: Recipe, engine: Engine) -> None:
    for number, prompt in enumerate(recipe.evaluation.prompts, start=1):
        tokens = len(render_prompt(engine.tokenizer, [Turn("Human", prompt)]))
        if tokens > engine.context:
            raise ParakeetError(
                f"evaluation.prompts, number {number}, makes {tokens:,} tokens, and the model's context is "
                f"{engine.context:,}: shorten it in the recipe, and run the same build again."
            )


def _bits_per_byte(
    recipe: Recipe, shards: Path, model: Parakeet, tokenizer: Tokenizer, progress: Progress
) -> dict[str, Any]:
    """In whole and by position, of each source; None where less is held out than a figure could be trusted on."""
    held_out = TokenShards(shards, "held_out", tokenizer)
    unigram = unigram_bits(tokenizer, TokenShards(shards, "train", tokenizer))
    positions = recipe.evaluation.position_tokens or model.config.context
    whole: dict[str, BitsPerByte | None] = {}
    by_position: dict[str, ByPosition | None] = {}
    for name, documents in _documents_by_source(recipe, held_out).items():
        whole[name] = by_position[name] = None
        if documents:
            whole[name] = measure(model, tokenizer, held_out, documents, unigram, recipe.packing.row_tokens, progress)
            by_position[name] = measure_by_position(model, tokenizer, held_out, documents, positions, progress)
    return {
        "bits_per_byte": {name: asdict(bits) if bits else None for name, bits in whole.items()},
        "bits_per_byte_by_position": as_json(by_position, max(recipe.packing.lengths)),
    }


def _documents_by_source(recipe: Recipe, held_out: TokenShards) -> dict[str, list[int]]:
    """Documents that are measured; none of a source of which too little is held out."""
    result = {}
    for index, name in enumerate(held_out.names):
        documents = choose_documents(held_out, index, recipe.evaluation.max_bytes)
        n_bytes = int(held_out.n_bytes()[documents].sum()) if documents else 0
        result[name] = documents if n_bytes >= max(1, recipe.shards.min_held_out_bytes) else []
    return result


def draw_bits_per_byte(by_source: Mapping[str, Any], path: Path) -> None:
    """Bars by source: the model beside its yardsticks."""
    from matplotlib.figure import Figure

    measured = {name: bits for name, bits in by_source.items() if bits is not None}
    figure = Figure(figsize=(6.4, 1.2 + 0.8 * max(1, len(measured))), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    series = (("model", "this model", "#1b7837"), ("xz", "xz -9", "#9e9ac8"), ("unigram", "unigram", "#bdbdbd"))
    for offset, (key, label, colour) in enumerate(series):
        positions = [index + 0.27 * (offset - 1) for index in range(len(measured))]
        bars = axes.barh(positions, [bits[key] for bits in measured.values()], 0.25, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte of held-out text (lower is better)")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
