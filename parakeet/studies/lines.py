"""Lines over a logarithmic axis with the interval of each point: the chart of studies of one quantity."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parakeet.formatting import format_count
from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

STYLES = ("-", "--", ":")
APART = 0.035
"""Distance of two lines at the same place as a share of it, so that their intervals do not cover each other."""

Line = Sequence[tuple[float, Mapping[str, Any]]]
"""Places on the x axis, each with a `value` and its `interval`, which may be None."""


def error_bars(axes: "Axes", line: Line, **look: Any) -> None:
    """The points with their intervals. A point without one has no bar."""
    values = [point["value"] for _, point in line]
    bounds = [point["interval"] or (point["value"], point["value"]) for _, point in line]
    # Rounding may put an end on the wrong side of the value, which matplotlib refuses.
    below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    axes.errorbar([place for place, _ in line], values, yerr=(below, above), elinewidth=1, capsize=2.5, **look)


def draw_lines(
    lines: Mapping[str, Line],
    x: str,
    y: str,
    palette: "Palette",
    ticks: Sequence[float] = (),
    colours: Mapping[str, int] | None = None,
    zero: bool = False,
    mark: tuple[float, str] | None = None,
) -> "Figure":
    """A line for each name that has points; a point without an interval has no bar.

    Without `ticks` there is one at each power of two. `colours` are numbers of the palette's series by name; a number
    that comes again has another style of line. `zero` draws a line there. `mark` is a place on the x axis, and what it
    is.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = empty_axes(palette, height=3.4)
    shown = {name: line for name, line in lines.items() if line}
    used: list[int] = []
    for number, (name, line) in enumerate(shown.items()):
        colour = (colours or {}).get(name, number)
        style = STYLES[used.count(colour) % len(STYLES)]
        used.append(colour)
        apart = math.exp(APART * (number - (len(shown) - 1) / 2))
        look = {"color": palette.series[colour % len(palette.series)], "linestyle": style, "linewidth": 1.4}
        moved = [(place * apart, point) for place, point in line]
        error_bars(axes, moved, label=name, marker="o", markersize=3.5, **look)
    axes.set_xscale("log")
    axes.set_xticks(ticks or _powers_of_two([place for line in shown.values() for place, _ in line]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: format_count(place)))
    axes.xaxis.set_minor_locator(NullLocator())
    if zero:
        axes.axhline(0, color=palette.soft, linewidth=1, linestyle=(0, (4, 3)))
    if mark:
        axes.axvline(mark[0], color=palette.soft, linewidth=1, linestyle=(0, (4, 3)))
        edge = axes.get_xaxis_transform()
        axes.text(mark[0], 0.98, f"{mark[1]} ", transform=edge, ha="right", va="top", fontsize=7.5, color=palette.soft)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(shown) > 1:
        legend_outside(figure)
    return figure


def _powers_of_two(places: Sequence[float]) -> list[float]:
    """Those between the smallest and the largest place, and the nearest to each; at most eight."""
    if not places:
        return []
    first, last = (round(math.log2(end(places))) for end in (min, max))
    return [2.0**power for power in range(first, last + 1, 1 + (last - first) // 8)]
