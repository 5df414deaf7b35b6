"""The work of stage `trace_index`: the index, how much of the text repeats, and a plot of it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.artifact import Artifact
from parakeet.data.tokens.shards import TokenShards
from parakeet.intervals import share_of
from parakeet.pages.charts import Palette, axes, save_png
from parakeet.progress import Progress
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (8, 16, 32, 64)
"""Tokens of the passages whose repetition is measured."""
SAMPLE = 10_000
"""Passages of each length that are looked up."""


def make_trace_index(token_shards: Artifact, output: Path, progress: Progress, plot_file: str) -> dict[str, Any]:
    """Write the index of an artefact's training text, and a plot. Returns the counts, with those of `repeats`."""
    shards = TokenShards(token_shards.path)
    tokenizer = str(token_shards.counts["tokenizer_sha256"])
    counts = build_index(shards, tokenizer, token_shards.content, output, progress)
    index = TraceIndex.open(output)
    counts["repeats"] = repeats(index)
    save_png(partial(_plot, counts["repeats"]), output / plot_file)
    return counts


def repeats(index: TraceIndex) -> dict[str, dict[str, Any]]:
    """By length: the share of the text's passages of so many tokens that stand in it at least twice, with interval.

    Passages are within documents. The same sample is drawn at each call: all of them if they are few. Lengths that no
    document has are left out.
    """
    lengths = index.document_lengths()
    found = {}
    for length in LENGTHS:
        # Passages of this length, counted through the documents.
        ends = np.cumsum(np.maximum(lengths - length + 1, 0))
        total = int(ends[-1]) if len(ends) else 0
        if not total:
            continue
        few = total <= SAMPLE
        passages = np.arange(total) if few else np.sort(np.random.default_rng(length).integers(total, size=SAMPLE))
        documents = np.searchsorted(ends, passages, side="right")
        starts = passages - (ends[documents] - np.maximum(lengths[documents] - length + 1, 0))
        ids = np.concatenate(
            [index.read(document, start, length) for document, start in zip(documents.tolist(), starts, strict=True)]
        )
        begins = np.arange(len(passages)) * length
        found[str(length)] = share_of(index.counts(ids, begins, np.full_like(begins, length)) > 1)
    return found


def _plot(repeats: Mapping[str, Mapping[str, Any]], palette: Palette) -> "Figure":
    figure, chart = axes(palette, height=2.8)
    shares = [100 * found["share"] for found in repeats.values()]
    bars = chart.bar(list(repeats), shares, color=palette.series[0], width=0.6)
    chart.bar_label(bars, [f"{share:.1f}%" for share in shares], padding=2)
    chart.set_ylim(0, max([10.0, *(1.15 * share for share in shares)]))
    chart.set_xlabel("tokens of a passage")
    chart.set_ylabel("passages that repeat, %")
    chart.set_title("How much of the training text stands in it more than once")
    return figure
