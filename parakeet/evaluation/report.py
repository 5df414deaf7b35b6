"""The work of stage `evaluation`: every metric of a model, as JSON, as a page and as plots."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.questions import read_questions
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import Subject
from parakeet.evaluation.metrics import EVALUATION_FILE, METRICS, REPORT_FILE, measured_metrics
from parakeet.evaluation.scoring import choose_documents
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.transformer import best_device, load_model
from parakeet.pages import render
from parakeet.pages.charts import save_png
from parakeet.progress import Progress
from parakeet.recipe import CANARY_SOURCE, Recipe
from parakeet.template import render_prompt
from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex


def subject_of(recipe: Recipe, inputs: Mapping[str, Path], progress: Progress) -> Subject:
    """The checkpoint of a recipe and its held-out text, ready to measure."""
    device = best_device()
    model = load_model(inputs["checkpoint"], device)
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    # By torch: what is recorded must not depend on whether a C compiler is here.
    engine = Engine(Decoder(model, "fp32", device, compiled=False), tokenizer)
    held_out = TokenShards(inputs["token_shards"], "held_out", tokenizer)
    return Subject(
        recipe,
        model,
        engine,
        tokenizer,
        train=TokenShards(inputs["token_shards"], "train", tokenizer),
        held_out=held_out,
        documents=_documents_by_source(recipe, held_out),
        questions=read_questions(inputs["documents"]),
        progress=progress,
        trace_index=TraceIndex.open(inputs["trace_index"]) if "trace_index" in inputs else None,
    )


def evaluate(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Measure the checkpoint; the same inputs give the same bytes."""
    subject = subject_of(recipe, inputs, progress)
    _check_prompts(recipe, subject.engine)
    result = {metric.name: metric.measure(subject) for metric in METRICS if metric.wanted(recipe)}
    (output / EVALUATION_FILE).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = measured_metrics(result)
    report = render("evaluation.md", name=recipe.name, metrics=metrics, evaluation=result)
    (output / REPORT_FILE).write_text(report, encoding="utf-8")
    for metric in metrics:
        if metric.plot_file:
            save_png(partial(metric.plot, result[metric.name]), output / metric.plot_file)
    return result


def _check_prompts(recipe: Recipe, engine: Engine) -> None:
    for number, prompt in enumerate(recipe.evaluation.prompts, start=1):
        tokens = len(render_prompt(engine.tokenizer, [Turn("Human", prompt)]))
        if tokens > engine.context:
            raise ParakeetError(
                f"evaluation.prompts, number {number}, has {tokens:,} tokens, but the model's context is "
                f"{engine.context:,}. Shorten the prompt in the recipe and run the same build again."
            )


def _documents_by_source(recipe: Recipe, held_out: TokenShards) -> dict[str, list[int]]:
    """The documents to measure; none of a source with too little held-out text."""
    result = {}
    for index, name in enumerate(held_out.names):
        if name == CANARY_SOURCE and recipe.canaries is not None:
            continue  # never held out
        documents = choose_documents(held_out, index, recipe.evaluation.max_bytes)
        n_bytes = int(held_out.n_bytes()[documents].sum()) if documents else 0
        result[name] = documents if n_bytes >= max(1, recipe.shards.min_held_out_bytes) else []
    return result
