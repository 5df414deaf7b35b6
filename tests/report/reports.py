"""A small report in memory: everything that a page is written from, without a training."""

import datetime
from dataclasses import replace
from typing import Any

from parakeet.evaluation.metrics import scores_of
from parakeet.model.config import ModelConfig
from parakeet.report.gather import Gathered
from parakeet.tokenizer import Tokenizer

from ..conftest import Prepared

INTERVAL = [0.25, 0.75]
SHARE = {"n": 8, "share": 0.5, "interval": INTERVAL}


def evaluation(prompt: str = "Who are you?", reply: str = "A parakeet.") -> dict[str, Any]:
    exact = {"questions": 8, "accuracy": 0.5, "interval": INTERVAL}
    return {
        "bits_per_byte": {
            "talk": {"documents": 30, "n_bytes": 2048, "model": 1.25, "unigram": 4.5, "xz": 2.5},
            "text": None,
        },
        "exact_match": {"sums": exact | {"example": {"prompt": prompt, "answer": "2", "reply": reply}}},
        "replies": [{"prompt": prompt, "reply": reply}, {"prompt": "And me?", "reply": ""}],
    }


def benchmarks() -> dict[str, Any]:
    """Figures of `Benchmarks`, for one task of those with published scores and one without accuracy."""
    bits = {"n": 8, "n_bytes": 100, "value": 2.125, "interval": [2.0, 2.25]}
    common = {"split": "validation", "source": "piqa.jsonl", "n": 8, "available": 8, "copies": 0}
    common |= {"truncated": 0, "ties": 0, "bits_per_byte": bits, "lm_eval": {}, "parts": None, "contamination": None}
    piqa = {"accuracy": SHARE, "chance": 0.5, "centred": 0.0, "normalised": SHARE | {"share": 0.625}}
    wikitext = dict.fromkeys(("accuracy", "chance", "centred", "normalised"))
    return {"items": None, "tasks": {"piqa": common | piqa, "wikitext": common | wikitext}, "no_index": "no index"}


def memorisation() -> dict[str, Any]:
    """Figures of stage `memorisation` for a model that was compared with an n-gram model, and one prefix."""

    def value(of: float) -> dict[str, Any]:
        return {"n": 30, "value": of, "interval": [of - 0.125, of + 0.125]}

    train, held_out = SHARE, SHARE | {"share": 0.25}
    by_prefix = {
        "train": train,
        "held_out": held_out,
        "difference": {"share": 0.25, "interval": [0.0, 0.5]},
        "in_training": 1,
    }
    return {
        "verdict": {
            "answer": "learned",
            "opening": "Learned: it predicts.",
            "text": "Learned: it predicts. On 30 it needs 1.25.",
        },
        "margin": {"excerpts": 60, "context": 8, "network": value(1.375), "ngram": value(1.75), "margin": value(0.375)},
        "gap": {"sources": {}, "all": None},
        "extraction": {
            "continuation": 16,
            "prefix": "16",
            "by_prefix": {"16": by_prefix},
            "by_duplicates": {"16": {"1": SHARE}},
        },
        "canaries": None,
        "novelty": {"greedy": {"texts": 0, "novelty": [], "whole": None}},
        "read": {"documents": 10, "of": 20},
    }


def report(prepared: Prepared, **changes: Any) -> Gathered:
    """With the parts that each model has; `changes` are fields of `Gathered`."""
    tokenizer: Tokenizer = prepared.tokenizer
    source = {"name": "talk", "licence": "MIT", "documents": 270, "tokens": 9_000, "bytes": 12_000, "share": 0.75}
    sources = [source | {"epochs": 1.0, "held_out": 900}, source | {"name": "text", "epochs": 1.0, "held_out": 0}]
    total = {"documents": 540, "tokens": 18_000, "bytes": 24_000, "held_out_tokens": 900}
    scores = evaluation()
    made = Gathered(
        recipe=prepared.recipe.model_copy(update={"name": "small", "description": "A small one."}),
        config=ModelConfig(layers=3, heads=2, width=32, context=64, vocabulary_rows=tokenizer.rows),
        tokenizer=tokenizer,
        made=datetime.date(2026, 11, 28),
        training={
            "run": "abc",
            "parameters": 34_567,
            "steps": 20,
            "tokens": 5_120,
            "final_loss": 2.125,
            "validation_loss": 2.25,
            "seconds": 61.0,
            "tokens_per_second": 84,
            "mfu": None,
            "skipped": 2,
            "rolled_back": 0,
            "device": "cpu",
            "processes": 1,
            "threads": 2,
            "memory_bytes": 1 << 28,
        },
        tokens_read=5_120,
        flops=3 * 10**12,
        metrics=[{"step": n, "tokens": 256 * n, "loss": 9 / n, "learning_rate": 1e-3} for n in range(1, 21)],
        text={"sources": sources, "total": total, "canaries": None},
        evaluation=scores,
        scores=scores_of(scores),
        memorisation=None,
        samples=[],
        previous=None,
        contents={"weights": "ab" * 32, "token_shards": "cd" * 32, "evaluation": "ef" * 32},
    )
    changed = replace(made, **changes)
    return replace(changed, scores=scores_of(changed.evaluation))
