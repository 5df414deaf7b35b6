"""Bits per byte by position in the sequence: whether a model still predicts well further out than it was trained.

ALiBi (Press et al. 2021, arXiv 2108.12409) promises that it does. A sequence is a source's held-out documents one
after the other WITHOUT a document mask, as if they were one document: then every position has as many tokens, and
attention really reaches back to the beginning of the sequence. Training masks other documents, so a model of short
documents meets something new long before the end of its training sequences; the figures include that too.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.evaluation.base import Metric, Subject, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

FIRST_BUCKET = 16
"""Positions in the first bucket; each of the next is as long as all before it."""
LEAST_SEQUENCES = 2
"""Fewer have no standard error."""
MOST_TOKENS, ENOUGH_SEQUENCES = 32_768, 8
"""No more tokens are measured than this, or than so many sequences have: 32 sequences of 1,024 take the demo's model
4 s on two cores."""
CAPTION = (
    "Held-out documents one after the other, without a document mask. All their text counts.\n"
    "Bars: one standard error over sequences. A point is a power of two of positions: 0–15, 16–31, …"
)


class BitsPerByteByPosition(Metric):
    """`longest_trained_row_tokens`, and by source {"row_tokens", "rows", "buckets"}, or None for too little text.

    A source is measured up to `position_tokens` positions, or up to the largest power of two that its text has two
    sequences of. A bucket holds positions `first` to `last`; a position's token is predicted from `position + 1`
    tokens. Its `tokens` and `n_bytes` are of content; control tokens count as neither. `standard_error` is that of the
    ratio of bits to bytes over sequences. Buckets without content are left out.
    """

    name = "bits_per_byte_by_position"
    title = "Held-out bits per byte by position"
    on_model_card = False
    plot_file = "bits_per_byte_by_position.png"
    plot_title = "Bits per byte by position"

    def measure(self, subject: Subject) -> dict[str, Any]:
        sources = {
            name: _measure_source(subject, documents) if documents else None
            for name, documents in subject.documents.items()
        }
        return {"longest_trained_row_tokens": max(subject.recipe.packing.lengths), "sources": sources}

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        """What was measured, in words, and a table with one column for each source."""
        from parakeet.pages import Table

        sources = measured(figures["sources"])
        method = (
            "Held-out documents are joined into long sequences without a document mask, so every token is predicted "
            "from all tokens before it in its sequence. All of the text counts, replies and what they "
            "answer. The model was trained on sequences of up to "
            f"{figures['longest_trained_row_tokens']:,} tokens. ± is one standard error over sequences."
        )
        if not sources:
            return [method, "Not measured: it needs held-out text for two sequences of 32 tokens."]
        cells = {
            (bucket["first"], bucket["last"], name): f"{bucket['bits_per_byte']:.3f} ± {bucket['standard_error']:.3f}"
            for name, found in sources.items()
            for bucket in found["buckets"]
        }
        rows = [
            (f"{first:,} to {last:,}", *(cells.get((first, last, name), "") for name in sources))
            for first, last in sorted({(first, last) for first, last, _ in cells})
        ]
        lengths = (f"{found['rows']:,} of {found['row_tokens']:,} tokens" for found in sources.values())
        rows.append(("sequences measured", *lengths))
        return [method, Table(("positions", *sources), rows, right=range(1, len(sources) + 1))]

    def plot(self, figures: Mapping[str, Any], palette: "Palette") -> "Figure":
        """One line a source over log2 of the position, with a mark where training ended."""
        from matplotlib.ticker import FuncFormatter

        from parakeet.pages.charts import axes, legend_outside

        sources = measured(figures["sources"])
        trained = figures["longest_trained_row_tokens"]
        figure, chart = axes(palette, height=4.0)
        for name, found in sources.items():
            buckets = found["buckets"]
            middles = [(bucket["first"] + bucket["last"]) / 2 for bucket in buckets]
            values, errors = ([bucket[key] for bucket in buckets] for key in ("bits_per_byte", "standard_error"))
            chart.errorbar(middles, values, errors, marker="o", markersize=4, capsize=3, label=name)
        chart.set_xscale("log", base=2)
        chart.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
        chart.axvline(trained, color=palette.soft, linestyle="--", linewidth=1)
        chart.annotate(
            f"trained up to {trained:,}",
            (trained, 1.0),
            (-4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=palette.soft,
        )
        chart.set_xlabel("position in the sequence (tokens)")
        chart.set_ylabel("bits per byte (lower is better)")
        if sources:
            legend_outside(figure, below=True)
        figure.suptitle(CAPTION, fontsize=8)
        return figure


def _measure_source(subject: Subject, documents: Sequence[int]) -> dict[str, Any] | None:
    from parakeet.evaluation.scoring import byte_lengths, is_control, read_whole

    ids = read_whole(subject.held_out, documents).astype(np.int64)
    wanted = subject.recipe.evaluation.position_tokens or subject.model.config.context
    positions, count = _sequences_that_fit(len(ids), wanted)
    if positions < 2 * FIRST_BUCKET:
        return None
    # Both (sequences, positions). The last target of a sequence is the first input of the next one.
    inputs = ids[: count * positions].reshape(count, positions)
    targets = ids[1 : count * positions + 1].reshape(count, positions)
    counted = ~is_control(subject.tokenizer)[targets]
    bits = _bits(subject, inputs, targets, counted)
    n_bytes = byte_lengths(subject.tokenizer, targets)
    buckets = [
        _bucket(first, end, bits[:, first:end], n_bytes[:, first:end], int(counted[:, first:end].sum()))
        for first, end in pairwise(_edges(positions))
        if n_bytes[:, first:end].any()
    ]
    return {"row_tokens": positions, "rows": count, "buckets": buckets}


def _sequences_that_fit(tokens: int, sequence_length: int) -> tuple[int, int]:
    """How many positions, at most `sequence_length`, and how many sequences so many tokens make."""
    targets = max(tokens - 1, 0)
    if sequence_length * LEAST_SEQUENCES > targets:
        sequence_length = 1 << max(0, (targets // LEAST_SEQUENCES).bit_length() - 1)
    return sequence_length, min(targets // sequence_length, max(ENOUGH_SEQUENCES, MOST_TOKENS // sequence_length))


def _edges(positions: int) -> list[int]:
    """0, 16, 32, 64, … and the number of positions, which is at least two buckets."""
    doublings = (FIRST_BUCKET << n for n in range((positions - 1).bit_length()))
    return [0, *(edge for edge in doublings if edge < positions), positions]


def _bits(subject: Subject, inputs: np.ndarray, targets: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """−log2 p (sequences, positions) of the targets, 0 where they are not counted."""
    from parakeet.evaluation.scoring import check_finite, content_nats, sequences_per_batch

    bits = np.zeros(inputs.shape)
    step = sequences_per_batch(inputs.shape[1])
    with subject.progress.task("bits per byte by position", len(inputs), "sequences") as task:
        for begin in range(0, len(inputs), step):
            some = slice(begin, begin + step)
            one_document = np.zeros_like(inputs[some])
            nats = content_nats(subject.model, inputs[some], targets[some], one_document, counted[some])
            bits[some][counted[some]] = nats / math.log(2)
            task.advance(len(one_document))
    check_finite(bits)
    return bits


def _bucket(first: int, end: int, bits: np.ndarray, n_bytes: np.ndarray, tokens: int) -> dict[str, Any]:
    """bits and n_bytes: (sequences, positions of the bucket). Tokens of a sequence are dependent, so the sample is
    the sequences."""
    bits_of, bytes_of = bits.sum(axis=1), n_bytes.sum(axis=1)  # (sequences,)
    ratio = bits_of.sum() / bytes_of.sum()
    # The error of a ratio of two sums: Cochran, Sampling Techniques, 1977, §6.
    residuals = bits_of - ratio * bytes_of
    n = len(residuals)
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(bytes_of.sum())
    return {
        "first": first,
        "last": end - 1,
        "tokens": tokens,
        "n_bytes": int(bytes_of.sum()),
        "bits_per_byte": float(ratio),
        "standard_error": error,
    }
