"""The charts of study `size`, drawn from its figures."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.formatting import format_count
from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside
from parakeet.studies.lines import error_bars

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
        apart = math.exp(APART * side)
        line = [(one["parameters"] * apart, one) for one in found.values()]
        error_bars(axes, line, color=colour, marker=marker, markersize=5, linestyle="", label=name)
        if figures["law"]:
            _draw_law(axes, figures, found, colour)
        for point in (figures["forecast"] or {"points": []})["points"]:
            if point["arm"] == arm:
                where = point["parameters"] * apart * math.exp(4 * APART)
                told = [(where, {"value": point["bits_per_byte"], "interval": point["interval"]})]
                look = {"marker": marker, "markersize": 6, "markerfacecolor": "none", "linestyle": ""}
                error_bars(axes, told, color=colour, **look)
    if figures["law"]:
        axes.plot([], [], color=palette.soft, linewidth=1, label="law")
    if figures["forecast"] and figures["forecast"]["points"]:
        axes.plot([], [], "o", color=palette.soft, markerfacecolor="none", markersize=6, linestyle="", label="forecast")
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
        apart = math.exp(APART * (number - (len(tasks) - 1) / 2))
        places = [figures["sizes"][size]["parameters_of_tasks"] * apart for size in found["sizes"]]
        points = [{"value": one["share"], "interval": one["interval"]} for one in found["sizes"].values()]
        look = {"color": palette.series[number % len(palette.series)], "marker": "o", "markersize": 4}
        look |= {"linewidth": 1.2, "linestyle": ("-", "--")[number // len(palette.series) % 2]}
        error_bars(axes, [*zip(places, points, strict=True)], label=task, **look)
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
