"""Charts of the loss of a run, and of two runs compared, for `parakeet.pages.charts`. Imports no torch."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

Metrics = Sequence[Mapping[str, Any]]
Values = NDArray[np.float64]
Points = TypeVar("Points", Metrics, Values)

TRAINING, HELD_OUT, SKIPPED = 0, 4, 3
"""Numbers of the palette's series. Two runs that are compared have the first two."""
UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
LOWEST_LABEL, LABEL_STEP, LABELS = 0.06, 0.06, 3
"""Heights of the sequence lengths' labels, as shares of the axes: above the marks of skipped steps, below the loss."""
MOST_CROSSES = 40
"""More skipped steps are a band of thin lines, with their number in the legend: crosses would run into a solid bar."""
POINTS = 1200
"""Most points of a line: the picture is 640 pixels wide, and Agg refuses a noisy line of a million points."""


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


def draw_loss_curve(metrics: Metrics, palette: "Palette") -> "Figure":
    """Loss in nats a token over the tokens trained on: every step faint, a running mean bold.

    Also the held-out loss where it was measured, a mark for each skipped step, a line where the sequence length
    changes, and the learning rate.
    """
    figure, axes, unit = _axes(palette, metrics)
    _draw_learning_rate(axes, metrics, unit, palette)
    trained = _trained(metrics)
    shown = _thinned(trained)
    mean, held_out = palette.series[TRAINING], palette.series[HELD_OUT]
    axes.plot(_tokens(shown, unit), [m["loss"] for m in shown], color=mean, linewidth=0.6, alpha=0.4)
    tokens, smooth = (_thinned(values) for values in running_mean(metrics))
    axes.plot(tokens / unit, smooth, color=mean, linewidth=1.8, label="training")
    if measured := _measured(metrics):
        losses = [m["validation_loss"] for m in measured]
        axes.plot(
            _tokens(measured, unit), losses, "o-", color=held_out, linewidth=0.8, markersize=3.5, label="held out"
        )
    if skipped := _tokens([m for m in metrics if m.get("skipped")], unit):
        # At the lower edge: the loss of a skipped step is off the scale, or not a number.
        edge, color = axes.get_xaxis_transform(), palette.series[SKIPPED]
        crosses = {"marker": "x", "markersize": 5, "label": "skipped"}
        band = {
            "marker": "|",
            "markersize": 6,
            "markeredgewidth": 0.6,
            "alpha": 0.4,
            "label": f"{len(skipped):,} steps skipped",
        }
        marks: dict[str, Any] = crosses if len(skipped) <= MOST_CROSSES else band
        axes.plot(skipped, [0.03] * len(skipped), color=color, linestyle="", transform=edge, **marks)
    axes.set_ylim(bottom=0)
    _draw_lengths(axes, metrics, unit, palette)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        legend_outside(figure)
    return figure


def draw_comparison(runs: Mapping[str, Metrics], palette: "Palette") -> "Figure":
    """Running means of two runs' loss over the tokens trained on, with their held-out losses."""
    figure, axes, unit = _axes(palette, *runs.values())
    for (name, metrics), color in zip(runs.items(), palette.series, strict=False):
        tokens, smooth = (_thinned(values) for values in running_mean(metrics))
        axes.plot(tokens / unit, smooth, color=color, linewidth=1.6, label=name)
        measured = _measured(metrics)
        axes.plot(_tokens(measured, unit), [m["validation_loss"] for m in measured], "o", color=color, markersize=3.5)
    if any(_measured(metrics) for metrics in runs.values()):
        axes.plot([], [], "o", color=palette.soft, markersize=3.5, label="held out")
    axes.set_ylim(bottom=0)
    legend_outside(figure)
    return figure


def _axes(palette: "Palette", *runs: Metrics) -> "tuple[Figure, Axes, float]":
    """An empty chart, and the number of tokens in a unit of its x axis."""
    most = max((m["tokens"] for metrics in runs for m in metrics), default=0)
    unit, name = next(((unit, name) for unit, name in UNITS if most >= unit), UNITS[-1])
    figure, axes = empty_axes(palette)
    axes.set_xlabel(f"tokens trained on, {name}")
    axes.set_ylabel("loss, nats a token")
    return figure, axes, unit


def _draw_learning_rate(axes: "Axes", metrics: Metrics, unit: float, palette: "Palette") -> None:
    """Pale, behind everything else, over the lowest third."""
    known = _thinned([m for m in metrics if m.get("learning_rate") is not None])
    peak = max((m["learning_rate"] for m in known), default=0.0)
    if not peak:
        return
    rates = axes.twinx()
    rates.fill_between(
        _tokens(known, unit), [m["learning_rate"] for m in known], color=palette.soft, alpha=0.16, linewidth=0
    )
    rates.set_ylim(0, 3 * peak)
    rates.set_yticks([peak], [f"learning rate\n{peak:.2g}"], color=palette.soft, fontsize=7)
    rates.tick_params(length=0)
    rates.spines[:].set_visible(False)
    axes.set_zorder(rates.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_lengths(axes: "Axes", metrics: Metrics, unit: float, palette: "Palette") -> None:
    """Lines and labels where the sequence length changes. Labels are low, where there is no loss, on the wider side of
    their line, each above the one before."""
    changes = [
        (before["tokens"] / unit, after["row_tokens"])
        for before, after in pairwise(metrics)
        if after.get("row_tokens") is not None and before.get("row_tokens") not in (None, after["row_tokens"])
    ]
    middle = sum(axes.get_xlim()) / 2
    for number, (where, length) in enumerate(changes):
        axes.axvline(where, color=palette.ink, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        edge = axes.get_xaxis_transform()
        side: Literal["left", "right"] = "right" if where > middle else "left"
        height = LOWEST_LABEL + LABEL_STEP * (number % LABELS)
        axes.text(where, height, f" sequences of {length:,} tokens ", transform=edge, ha=side, va="bottom", fontsize=7)


def _thinned(points: Points) -> Points:
    """At most POINTS of them, evenly spread."""
    return points[:: max(1, -(-len(points) // POINTS))]


def _trained(metrics: Metrics) -> list[Mapping[str, Any]]:
    return [m for m in metrics if m["loss"] is not None and not m.get("skipped")]


def _measured(metrics: Metrics) -> list[Mapping[str, Any]]:
    return [m for m in metrics if m.get("validation_loss") is not None]


def _tokens(metrics: Metrics, unit: float) -> list[float]:
    return [m["tokens"] / unit for m in metrics]
