"""The charts of study `size`, drawn from its figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.formatting import format_count
from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

ARMS = {"equal_tokens": ("equal tokens", "o"), "equal_compute": ("equal compute", "s")}
APART = 0.03
"""Natural logarithm of the sizes by which marks of one size stand apart, for each of them."""
POINTS = 120


def draw_sizes(figures: Mapping[str, Any], palette: "Palette") -> "Figure":
    """Bits per byte by parameters at equal tokens and at equal compute, with the law and what it forecast."""
    figure, axes = empty_axes(palette, height=3.6)
    shown = {arm: figures["arms"][arm] for arm in ARMS if arm in figures["arms"]}
    for number, (arm, found) in enumerate(shown.items()):
        name, marker = ARMS[arm]
        colour = palette.series[number]
        side = number - (len(shown) - 1) / 2
        n = np.array([one["parameters"] for one in found.values()], float)
        values = [one["value"] for one in found.values()]
        style = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "", "label": name}
        _errors(axes, n * np.exp(APART * side), values, [one["interval"] for one in found.values()], style)
        if figures["law"]:
            _draw_law(axes, figures, found, colour)
        for point in (figures["forecast"] or {"points": []})["points"]:
            if point["arm"] == arm:
                style = {"color": colour, "marker": marker, "markersize": 6, "markerfacecolor": "none", "linestyle": ""}
                where = [point["parameters"] * np.exp(4 * APART + APART * side)]
                _errors(axes, where, [point["bits_per_byte"]], [point["interval"]], style)
    if figures["law"]:
        axes.plot([], [], color=palette.soft, linewidth=1, label="law")
    if figures["forecast"] and figures["forecast"]["points"]:
        axes.plot([], [], "D", color=palette.soft, markerfacecolor="none", markersize=6, linestyle="", label="forecast")
    _log_axes(axes, figures["sizes"], "parameters")
    axes.set_yscale("log")
    axes.set_ylabel("held-out text, bits per byte")
    low, high = axes.get_ylim()
    ticks = np.arange(np.ceil(low * 10) / 10, high, 0.1)
    axes.set_yticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axes.yaxis.set_minor_locator(_no_ticks())
    legend_outside(figure)
    return figure


def draw_tasks(figures: Mapping[str, Any], palette: "Palette") -> "Figure":
    """The share of exact answers by parameters, a line for each task, and what passes."""
    figure, axes = empty_axes(palette, height=3.6)
    tasks = figures["tasks"]["exact_match"]
    for number, (task, found) in enumerate(tasks.items()):
        n = np.array([figures["sizes"][size]["parameters_of_tasks"] for size in found["sizes"]], float)
        shares = [one["share"] for one in found["sizes"].values()]
        style = {"color": palette.series[number % len(palette.series)], "marker": "o", "markersize": 4, "label": task}
        style |= {"linewidth": 1.2, "linestyle": ("-", "--")[number // len(palette.series) % 2]}
        places = n * np.exp(APART * (number - (len(tasks) - 1) / 2))
        _errors(axes, places, shares, [one["interval"] for one in found["sizes"].values()], style)
    axes.axhline(figures["passes"]["exact"], color=palette.soft, linewidth=1, linestyle=(0, (4, 3)))
    _log_axes(axes, figures["sizes"], "parameters_of_tasks")
    axes.set_ylim(-0.02, 1.03)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylabel("answers that are exactly right")
    legend_outside(figure)
    return figure


def _draw_law(axes: "Axes", figures: Mapping[str, Any], found: Mapping[str, Any], colour: str) -> None:
    """The law along an arm: between two sizes, tokens and parameters go by the power law between them."""
    if len(found) < 2:
        return
    law = figures["law"]
    key = "parameters" if law["counted"] == "all" else "without_embedding"
    totals = np.log([one["parameters"] for one in found.values()])
    grid = np.linspace(totals[0], totals[-1], POINTS)
    counted = np.interp(grid, totals, np.log([figures["sizes"][size][key] for size in found]))
    tokens = np.interp(grid, totals, np.log([one["tokens"] for one in found.values()]))
    of = law["parameters"]
    losses = of["E"] + of["A"] * np.exp(-of["alpha"] * counted) + of["B"] * np.exp(-of["beta"] * tokens)
    axes.plot(np.exp(grid), losses, color=colour, linewidth=1, alpha=0.7)


def _errors(
    axes: "Axes", x: Any, values: Sequence[float], intervals: Sequence[Sequence[float] | None], style: dict[str, Any]
) -> None:
    bounds = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    axes.errorbar(x, values, yerr=(below, above), elinewidth=1, capsize=2.5, **style)


def _log_axes(axes: "Axes", sizes: Mapping[str, Any], key: str) -> None:
    """A logarithmic axis of parameters with a tick at each size."""
    ticks = [one[key] for one in sizes.values() if one[key]]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_xlabel("parameters")


def _short(parameters: float) -> str:
    """`58 k`, `3.2 M`."""
    return f"{parameters / 1000:.0f} k" if parameters < 1_000_000 else format_count(parameters)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
