"""Dots with the interval of each on a line of its own: the chart of settings that have no order."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

ROW_INCHES, GAP = 0.3, 0.7
"""Of a dot, and the share of it between two groups."""


def draw_dots(
    groups: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], x: str, palette: "Palette", zero: bool = False
) -> "Figure":
    """A dot for each point with its interval over seeds, and a small one for each seed, in a colour for each group.

    A point has a name, and `value`, `interval`, which may be None, and `seeds`. `zero` draws a line there.
    """
    rows = sum(len(points) for points in groups.values()) + GAP * (len(groups) - 1)
    figure, axes = empty_axes(palette, height=0.9 + ROW_INCHES * rows)
    places: dict[float, str] = {}
    place = 0.0
    for number, (group, points) in enumerate(groups.items()):
        colour = palette.series[number % len(palette.series)]
        for name, point in points:
            places[place] = name
            if point["interval"]:
                axes.plot(point["interval"], [place] * 2, color=colour, linewidth=2.5, alpha=0.45)
            axes.plot(list(point["seeds"].values()), [place] * point["n"], ".", color=colour, markersize=4, alpha=0.6)
            axes.plot(point["value"], place, "o", color=colour, markersize=5.5)
            place += 1
        if len(groups) > 1:
            axes.plot([], [], "o", color=colour, markersize=5.5, label=group)
        place += GAP
    if zero:
        axes.axvline(0, color=palette.soft, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(list(places), list(places.values()))
    axes.set_ylim(max(places) + 0.6, -0.6)
    axes.set_xlabel(x)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    if len(groups) > 1:
        legend_outside(figure)
    return figure
