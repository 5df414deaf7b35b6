"""The work of stage `memorisation`: every figure as JSON, and its charts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.data.tokens.shards import TokenShards
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.memorisation.canaries import measure_canaries
from parakeet.memorisation.extraction import measure_extraction
from parakeet.memorisation.gap import held_out_sample, measure_gap
from parakeet.memorisation.ngram import measure_margin
from parakeet.memorisation.novelty import measure_novelty
from parakeet.memorisation.read import times_read
from parakeet.memorisation.scoring import score
from parakeet.memorisation.sections import FILE, charts
from parakeet.memorisation.text import Excerpts, Places, places_of, read_excerpts
from parakeet.memorisation.verdict import verdict_of
from parakeet.model.transformer import Parakeet, best_device, load_model
from parakeet.pages.charts import save_png
from parakeet.progress import Progress
from parakeet.recipe import CANARY_SOURCE, Recipe
from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex


@dataclass(frozen=True)
class Subject:
    """A trained model, the text that it read, the index of that text, and text that it did not read."""

    model: Parakeet
    engine: Engine
    """The same model, ready to write."""
    tokenizer: Tokenizer
    index: TraceIndex
    shards: Path
    train: TokenShards
    held_out: TokenShards
    times_read: np.ndarray
    """(training documents,) float64: how often training has read each."""
    sequence_length: int
    planted_sources: tuple[str, ...]
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def read_documents(self) -> np.ndarray:
        """Numbers of the training documents that were read once or more as a whole, without canaries."""
        return np.flatnonzero((self.times_read >= 1) & self.natural)

    @cached_property
    def natural(self) -> np.ndarray:
        """(training documents,) bool: those that are no canaries."""
        planted = [self.train.names.index(name) for name in self.planted_sources]
        return ~np.isin(self.train.sources(), planted)

    def places(self, shards: TokenShards, documents: np.ndarray, rng: np.random.Generator) -> Places:
        """The excerpts of these documents of one split, in a random order."""
        return places_of(documents, shards.lengths(), self.sequence_length, rng)

    def excerpts(self, shards: TokenShards, places: Places) -> Excerpts:
        """The text at these places of one split."""
        return read_excerpts(shards, places, self.tokenizer)

    def copies(self, windows: np.ndarray) -> np.ndarray:
        """(w,) how often each row of ids (w, width) stands in the training text."""
        if not windows.size:
            return np.zeros(len(windows), np.int64)
        width = windows.shape[1]
        return self.index.counts(windows.reshape(-1), np.arange(len(windows)) * width, np.full(len(windows), width))

    def score(self, excerpts: Excerpts, doing: str, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """`scoring.score`; with `whole`, an excerpt is not cut into training sequences."""
        length = self.model.config.context if whole else self.sequence_length
        return score(self.model, self.engine.allowed, excerpts, length, self.progress, doing)


def make_memorisation(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Measure the checkpoint; the same inputs give the same bytes. ParakeetError if its output is not finite."""
    device = best_device()
    model = load_model(inputs["checkpoint"], device)
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    train = TokenShards(inputs["token_shards"], "train", tokenizer)
    subject = Subject(
        model,
        # By torch, as in the evaluation: what is recorded must not depend on whether a C compiler is here.
        Engine(Decoder(model, "fp32", device, compiled=False), tokenizer),
        tokenizer,
        TraceIndex.open(inputs["trace_index"]),
        inputs["token_shards"],
        train,
        TokenShards(inputs["token_shards"], "held_out", tokenizer),
        times_read(recipe, inputs["packing_plan"], train.lengths()),
        recipe.packing.sequence_length,
        () if recipe.canaries is None else (CANARY_SOURCE,),
        progress,
    )
    result = measure(subject)
    (output / FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, chart in charts(result).items():
        save_png(chart, output / f"{name}.png")
    return result


def measure(subject: Subject) -> dict[str, Any]:
    """All figures, as JSON values."""
    sample = held_out_sample(subject)
    bits, _ = subject.score(sample, "held-out bits per byte")
    figures = {
        "read": {"documents": len(subject.read_documents), "of": int(subject.natural.sum())},
        "margin": measure_margin(subject, sample, bits),
        "extraction": measure_extraction(subject),
        "gap": measure_gap(subject, sample, bits),
        "novelty": measure_novelty(subject),
        "canaries": measure_canaries(subject),
    }
    return {"verdict": verdict_of(figures), **figures}
