"""Bits per byte by position in the row: whether a model still predicts well further out than it was trained.

ALiBi (Press et al. 2021, arXiv 2108.12409) promises that it does. A row is a source's held-out documents one after
the other WITHOUT a document mask, as if they were one document: then every position has as many tokens, and the
attention really reaches back to the beginning of the row. Training masks other documents, so that a model of short
documents meets something new long before the end of its training rows: that is in the figures too.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.bits_per_byte import content_nats, is_control, read_whole, rows_per_batch
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

FIRST_BUCKET = 16
"""Positions in the first bucket; each of the next is as long as all before it."""
LEAST_ROWS = 2
"""Fewer have no standard error."""
MOST_TOKENS, ENOUGH_ROWS = 32_768, 8
"""No more tokens are measured than this, or than so many rows have: 32 rows of 1,024 take the demo's model 4 s on two
cores."""
CAPTION = (
    "Held-out documents one after the other, without a document mask; bars: one standard error over rows.\n"
    "A point is a power of two of positions: 0–15, 16–31, 32–63, …"
)


@dataclass(frozen=True)
class Bucket:
    """Positions `first` to `last` of the rows: a position's token is predicted from `position + 1` tokens.

    `tokens` and `n_bytes` are of content; control tokens count as neither. `standard_error` is that of the ratio of
    bits to bytes over rows.
    """

    first: int
    last: int
    tokens: int
    n_bytes: int
    bits_per_byte: float
    standard_error: float


@dataclass(frozen=True)
class ByPosition:
    """Rows of `row_tokens` positions, and their buckets; those without content are left out."""

    row_tokens: int
    rows: int
    buckets: list[Bucket]


def measure_by_position(
    model: Parakeet,
    tokenizer: Tokenizer,
    shards: TokenShards,
    documents: list[int],
    row_tokens: int,
    progress: Progress,
) -> ByPosition | None:
    """Measure up to `row_tokens` positions; up to the largest power of two that the text has two rows of, if fewer.

    None where that is less than 2 · FIRST_BUCKET. ParakeetError where the model's weights are unusable.
    """
    ids = read_whole(shards, documents).astype(np.int64)
    positions, rows = _rows_that_fit(len(ids), row_tokens)
    if positions < 2 * FIRST_BUCKET:
        return None
    # Neighbouring rows share one token, the last target of one and the first input of the next, as pieces do.
    inputs = ids[: rows * positions].reshape(rows, positions)
    targets = ids[1 : rows * positions + 1].reshape(rows, positions)
    counted = ~is_control(tokenizer)[targets]
    bits = _bits(model, inputs, targets, counted, progress)
    n_bytes = _byte_lengths(tokenizer, targets)
    edges = _edges(positions)
    buckets = [
        _bucket(first, end, bits[:, first:end], n_bytes[:, first:end], int(counted[:, first:end].sum()))
        for first, end in pairwise(edges)
        if n_bytes[:, first:end].any()
    ]
    return ByPosition(positions, rows, buckets)


def _rows_that_fit(tokens: int, row_tokens: int) -> tuple[int, int]:
    """Positions and number of the rows that so many tokens make, of at most `row_tokens` positions."""
    targets = max(tokens - 1, 0)
    if row_tokens * LEAST_ROWS > targets:
        row_tokens = 1 << max(0, (targets // LEAST_ROWS).bit_length() - 1)
    return row_tokens, min(targets // row_tokens, max(ENOUGH_ROWS, MOST_TOKENS // row_tokens))


def _edges(positions: int) -> list[int]:
    """0, 16, 32, 64, … and the number of positions."""
    doublings = takewhile(lambda edge: edge < positions, (FIRST_BUCKET << n for n in count()))
    return [0, *doublings, positions]


@torch.no_grad()
def _bits(
    model: Parakeet, inputs: np.ndarray, targets: np.ndarray, counted: np.ndarray, progress: Progress
) -> np.ndarray:
    """−log2 p (rows, positions) of the targets, 0 where they are not counted."""
    bits = np.zeros(inputs.shape)
    step = rows_per_batch(inputs.shape[1])
    with progress.task("bits per byte by position", len(inputs), "rows") as task:
        for begin in range(0, len(inputs), step):
            some = slice(begin, begin + step)
            one_document = np.zeros_like(inputs[some])
            nats = content_nats(model, inputs[some], targets[some], one_document, counted[some])
            bits[some][counted[some]] = nats / math.log(2)
            task.advance(len(one_document))
    if not np.isfinite(bits).all():
        raise ParakeetError("The model's held-out loss is not finite: its weights are unusable.")
    return bits


def _byte_lengths(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """UTF-8 bytes of each id, 0 for control tokens, in the shape of `ids`."""
    distinct, places = np.unique(ids, return_inverse=True)
    lengths = np.array([len(tokenizer.token_bytes(token_id)) for token_id in distinct.tolist()])
    return lengths[places].reshape(ids.shape)


def _bucket(first: int, end: int, bits: np.ndarray, n_bytes: np.ndarray, tokens: int) -> Bucket:
    """bits and n_bytes (rows, positions of the bucket). Rows are the sample: tokens of one row go together."""
    bits_of_row, bytes_of_row = bits.sum(axis=1), n_bytes.sum(axis=1)
    ratio = bits_of_row.sum() / bytes_of_row.sum()
    # Of a ratio of two sums over n rows: Cochran, Sampling Techniques, 1977, §6.
    residuals = bits_of_row - ratio * bytes_of_row
    rows = len(residuals)
    error = math.sqrt(rows / (rows - 1) * float((residuals**2).sum())) / float(bytes_of_row.sum())
    return Bucket(first, end - 1, tokens, int(bytes_of_row.sum()), float(ratio), error)


def as_json(by_source: Mapping[str, ByPosition | None], longest_trained: int) -> dict[str, Any]:
    """What evaluation.json holds: rows trained on had at most `longest_trained` tokens."""
    sources = {name: asdict(found) if found else None for name, found in by_source.items()}
    return {"longest_trained_row_tokens": longest_trained, "sources": sources}


def draw_by_position(result: Mapping[str, Any], path: Path) -> None:
    """One line a source over log2 of the position, with a mark where training ended."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    measured = {name: found for name, found in result["sources"].items() if found is not None}
    trained = result["longest_trained_row_tokens"]
    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, found in measured.items():
        buckets = found["buckets"]
        middles = [(bucket["first"] + bucket["last"]) / 2 for bucket in buckets]
        values, errors = ([bucket[key] for bucket in buckets] for key in ("bits_per_byte", "standard_error"))
        axes.errorbar(middles, values, errors, marker="o", markersize=4, capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
    axes.axvline(trained, color="#636363", linestyle="--", linewidth=1)
    axes.annotate(
        f"trained up to {trained:,}",
        (trained, 1.0),
        (-4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color="#636363",
    )
    axes.set_xlabel("position in the row (tokens)")
    axes.set_ylabel("bits per byte (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    if measured:
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(CAPTION, fontsize=8)
    figure.savefig(path)
