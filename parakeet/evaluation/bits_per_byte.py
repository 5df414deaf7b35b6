"""Bits per byte of held-out text: the model's, and those of two yardsticks on the same bytes."""

import lzma
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.evaluation.base import Metric, Score, Subject, measured
from parakeet.formatting import format_bytes
from parakeet.intervals import FEWEST_TEXTS, ratio_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

Figures = Mapping[str, Mapping[str, Any] | None]


class BitsPerByte(Metric):
    """Σ −log2 p(content token) / UTF-8 bytes of content. Roles and ends count neither as bits nor as bytes.

    Content is what the recipe trains on: with `loss_on: assistant`, the replies only.

    The figures of a source: documents, n_bytes, and the bits per byte of the model, a unigram model with the same
    tokenizer, and `xz -9`. `interval` is the 95 % interval of `model` over the `n` documents that have content, or None
    for too few; evaluations before November 2026 have neither. None for a source without documents to measure.
    """

    name = "bits_per_byte"
    title = "Held-out bits per byte"
    introduction = (
        "Lower is better. What counts is the text that it learns to write: of conversations, with loss_on: "
        "assistant, the replies only. The unigram model uses the same tokenizer. xz -9 compresses the same bytes as "
        "one file."
    )
    plot_file = "bits_per_byte.png"
    plot_title = "Bits per byte"

    def measure(self, subject: Subject) -> dict[str, dict[str, Any] | None]:
        from parakeet.evaluation.scoring import unigram_bits

        unigram = unigram_bits(subject.tokenizer, subject.train)
        return {
            source: _measure_source(subject, documents, unigram) if documents else None
            for source, documents in subject.documents.items()
        }

    def render(self, figures: Figures) -> "list[str | Table]":
        from parakeet.pages import Table

        rows: list[tuple[object, ...]] = []
        certain = any(bits.get("interval") for bits in measured(figures).values())
        columns = ("source", "documents", "text", "this model", *["95% interval"][:certain], "unigram", "xz -9")
        for name, bits in figures.items():
            if bits is None:
                rows.append((name, "too little held out to measure", *[""] * (len(columns) - 2)))
            else:
                model, *yardsticks = (f"{bits[key]:.3f}" for key in ("model", "unigram", "xz"))
                interval = "{:.3f} to {:.3f}".format(*bits["interval"]) if bits.get("interval") else ""
                model_cells = [model, interval][: 1 + certain]
                rows.append((name, bits["documents"], format_bytes(bits["n_bytes"]), *model_cells, *yardsticks))
        return [Table(columns, rows, right=range(1, len(columns)))]

    def scores(self, figures: Figures) -> list[Score]:
        return [
            Score(
                source,
                bits["model"],
                bits["documents"],
                "documents",
                tuple(bits["interval"]) if bits.get("interval") else None,
                unit="bits per byte",
            )
            for source, bits in measured(figures).items()
        ]

    def plot(self, figures: Figures, palette: "Palette") -> "Figure":
        """Bars by source: the model beside its yardsticks."""
        from parakeet.pages.charts import axes, legend_outside

        sources = measured(figures)
        figure, chart = axes(palette, height=1.2 + 0.8 * max(1, len(sources)))
        series = (("model", "this model", 1.0), ("xz", "xz -9", 0.55), ("unigram", "unigram", 0.25))
        for offset, (key, label, alpha) in enumerate(series):
            positions = [index + 0.27 * (offset - 1) for index in range(len(sources))]
            values = [bits[key] for bits in sources.values()]
            bars = chart.barh(positions, values, 0.25, label=label, color=palette.series[0], alpha=alpha)
            chart.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        chart.set_yticks(range(len(sources)), list(sources))
        chart.invert_yaxis()
        chart.set_xlabel("bits per byte of held-out text (lower is better)")
        chart.margins(x=0.12)
        chart.grid(visible=False)
        legend_outside(figure)
        return figure


def not_below_yardsticks(figures: Figures) -> list[str]:
    """The measured sources on which the model needs as many bits as the unigram model or `xz -9`, or more."""
    return [name for name, bits in measured(figures).items() if bits["model"] >= min(bits["unigram"], bits["xz"])]


def _measure_source(subject: Subject, documents: Sequence[int], unigram: np.ndarray) -> dict[str, Any] | None:
    """`unigram` (vocabulary rows,) holds −log2 p of every id."""
    from parakeet.evaluation.scoring import document_bits, is_control, read_learned

    tokenizer = subject.tokenizer
    content = read_learned(subject.held_out, documents)
    content = content[~is_control(tokenizer)[content]]
    text = b"".join(map(tokenizer.token_bytes, content.tolist()))
    if not text:
        return None  # with loss_on "assistant", documents without a reply
    found = document_bits(subject, documents)
    counted = found.n_bytes > 0
    n = int(counted.sum())
    return {
        "documents": len(documents),
        "n_bytes": len(text),
        "n": n,
        "model": found.total / len(text),
        "interval": list(ratio_interval(found.bits[counted], found.n_bytes[counted])) if n >= FEWEST_TEXTS else None,
        "unigram": float(unigram[content].sum()) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9)) / len(text),
    }
