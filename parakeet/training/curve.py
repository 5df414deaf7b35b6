"""Pictures of the loss of a run, and of two runs compared. Imports no torch."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]
Values = NDArray[np.float64]

STEP, MEAN, HELD_OUT, SKIPPED, FAINT = "#8fbf8f", "#1b7837", "#762a83", "#b2182b", "#8c8c8c"
TWO = ("#1b7837", "#762a83")
UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
LOWEST_LABEL, LABEL_STEP, LABELS = 0.06, 0.06, 3
"""Heights of the sequence lengths' labels, as shares of the axes: above the marks of skipped steps, below the loss."""
POINTS = 4000
"""Most points of the faint line: the picture is 640 pixels wide, and Agg refuses a noisy line of a million points."""


def running_mean(metrics: Metrics) -> tuple[Values, Values]:
    """Tokens trained on, and the mean loss over a window around them: a fortieth of the run, at least one step.

    Skipped steps are left out. Both arrays are empty if no step is left.
    """
    trained = _trained(metrics)
    tokens = np.array([m["tokens"] for m in trained], float)
    loss = np.array([m["loss"] for m in trained], float)
    window = max(1, len(loss) // 40)
    if not len(loss):
        return tokens, loss
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    middle = (window - 1) // 2
    return tokens[middle : middle + len(smooth)], smooth


def draw_loss_curve(metrics: Metrics, path: Path) -> None:
    """Loss in nats a token over the tokens trained on, as a PNG: every step faint, a running mean bold.

    Also the held-out loss where it was measured, a mark for each skipped step, a line where the sequence length
    changes, and the learning rate.
    """
    figure, axes, unit = _axes(metrics)
    _draw_learning_rate(axes, metrics, unit)
    trained = _trained(metrics)
    shown = trained[:: max(1, -(-len(trained) // POINTS))]
    axes.plot(_tokens(shown, unit), [m["loss"] for m in shown], color=STEP, linewidth=0.6, alpha=0.7)
    tokens, smooth = running_mean(metrics)
    axes.plot(tokens / unit, smooth, color=MEAN, linewidth=1.8, label="training")
    if measured := _measured(metrics):
        losses = [m["validation_loss"] for m in measured]
        axes.plot(
            _tokens(measured, unit), losses, "o-", color=HELD_OUT, linewidth=0.5, markersize=2.5, label="held out"
        )
    if skipped := _tokens([m for m in metrics if m.get("skipped")], unit):
        # At the lower edge: the loss of a skipped step is off the scale, or not a number.
        edge = axes.get_xaxis_transform()
        axes.plot(skipped, [0.03] * len(skipped), "x", color=SKIPPED, markersize=5, transform=edge, label="skipped")
    axes.set_ylim(bottom=0)
    _draw_lengths(axes, metrics, unit)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        _draw_legend(figure)
    figure.savefig(path, format="png")


def draw_comparison(runs: Mapping[str, Metrics], path: Path) -> None:
    """Running means of two runs' loss over the tokens trained on, as a PNG, with their held-out losses."""
    figure, axes, unit = _axes(*runs.values())
    for (name, metrics), color in zip(runs.items(), TWO, strict=True):
        tokens, smooth = running_mean(metrics)
        axes.plot(tokens / unit, smooth, color=color, linewidth=1.6, label=name)
        measured = _measured(metrics)
        axes.plot(_tokens(measured, unit), [m["validation_loss"] for m in measured], "o", color=color, markersize=3.5)
    if any(_measured(metrics) for metrics in runs.values()):
        axes.plot([], [], "o", color=FAINT, markersize=3.5, label="held out")
    axes.set_ylim(bottom=0)
    _draw_legend(figure)
    figure.savefig(path, format="png")


def _axes(*runs: Metrics) -> "tuple[Figure, Axes, float]":
    """An empty picture, and the number of tokens in a unit of its x axis."""
    from matplotlib.figure import Figure

    most = max((m["tokens"] for metrics in runs for m in metrics), default=0)
    unit, name = next(((unit, name) for unit, name in UNITS if most >= unit), UNITS[-1])
    figure = Figure(figsize=(6.4, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(f"tokens trained on, {name}")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes, unit


def _draw_legend(figure: "Figure") -> None:
    """Above the axes: inside, the loss of a short run may pass anywhere."""
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)


def _draw_learning_rate(axes: "Axes", metrics: Metrics, unit: float) -> None:
    """Pale, behind everything else, over the lowest third."""
    known = [m for m in metrics if m.get("learning_rate") is not None]
    peak = max((m["learning_rate"] for m in known), default=0.0)
    if not peak:
        return
    rates = axes.twinx()
    rates.fill_between(_tokens(known, unit), [m["learning_rate"] for m in known], color=FAINT, alpha=0.16, linewidth=0)
    rates.set_ylim(0, 3 * peak)
    rates.set_yticks([peak], [f"learning rate\n{peak:.2g}"], color=FAINT, fontsize=7)
    rates.tick_params(length=0)
    rates.spines[:].set_visible(False)
    axes.set_zorder(rates.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_lengths(axes: "Axes", metrics: Metrics, unit: float) -> None:
    """Lines and labels where the sequence length changes. Labels are low, where there is no loss, on the wider side of
    their line, each above the one before."""
    changes = [
        (before["tokens"] / unit, after["row_tokens"])
        for before, after in pairwise(metrics)
        if after.get("row_tokens") is not None and before.get("row_tokens") not in (None, after["row_tokens"])
    ]
    middle = sum(axes.get_xlim()) / 2
    for number, (where, length) in enumerate(changes):
        axes.axvline(where, color="black", linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        edge = axes.get_xaxis_transform()
        side: Literal["left", "right"] = "right" if where > middle else "left"
        height = LOWEST_LABEL + LABEL_STEP * (number % LABELS)
        axes.text(where, height, f" sequences of {length:,} tokens ", transform=edge, ha=side, va="bottom", fontsize=7)


def _trained(metrics: Metrics) -> list[Mapping[str, Any]]:
    return [m for m in metrics if m["loss"] is not None and not m.get("skipped")]


def _measured(metrics: Metrics) -> list[Mapping[str, Any]]:
    return [m for m in metrics if m.get("validation_loss") is not None]


def _tokens(metrics: Metrics, unit: float) -> list[float]:
    return [m["tokens"] / unit for m in metrics]
