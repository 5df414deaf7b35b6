"""Charts by matplotlib: as a PNG, or as SVG in the colours of the page that it stands on, light or dark."""

import io
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 8
NARROW, NARROW_LETTERS = 3.9, 54
"""Inches of a chart for a phone, and letters of 8 points on a line of it."""
LEGEND_MARK = 7
"""The room of a mark in a legend and of the gaps beside it, in letters."""
SHARP = 200
"""Dots an inch."""


@dataclass(frozen=True)
class Palette:
    """Colours of a chart as #rrggbb: of text, of axes and marks that stand back, and of SERIES series."""

    ink: str
    soft: str
    series: tuple[str, ...]


Chart = Callable[[Palette], "Figure"]
"""Draws a figure in the colours that it is given."""

PRINTED = Palette(
    "#23282b", "#626b6e", ("#2f7a54", "#d09a3a", "#4a72a8", "#b5604a", "#7d659e", "#3b959a", "#b46c93", "#8a9440")
)
ON_DARK = Palette(
    "#e4e3dd", "#9ba3a3", ("#63b389", "#ddb263", "#86a9d8", "#d98f7a", "#ae97cf", "#6fc0c4", "#d59bbb", "#b7c06c")
)
"""For a PNG on a dark page: the colours that style.css has there."""
_THEMED = Palette("#010101", "#010102", tuple(f"#0101{number:02x}" for number in range(16, 16 + SERIES)))
"""Stand for the variables of style.css, since matplotlib only takes colours."""
_VARIABLES = {
    _THEMED.ink: "var(--ink)",
    _THEMED.soft: "var(--soft)",
    **{colour: f"var(--c{number})" for number, colour in enumerate(_THEMED.series)},
}


def save_png(chart: Chart, path: Path) -> None:
    """Write the chart to `path`. The same chart gives the same bytes."""
    _drawn(chart, PRINTED, path, format="png")


def png_pair(chart: Chart, about: str) -> tuple[bytes, bytes]:
    """The chart as PNGs for a light page and for a dark one, sharp on any screen. `about` is kept in them."""
    light, dark = io.BytesIO(), io.BytesIO()
    sharp = {"format": "png", "dpi": SHARP, "metadata": {"Description": about}}
    _drawn(chart, PRINTED, light, **sharp)
    _drawn(chart, ON_DARK, dark, transparent=True, **sharp)
    return light.getvalue(), dark.getvalue()


def svg(chart: Chart, label: str) -> Markup:
    """The chart as elements of an HTML page, of which the style sheet shows one: laid out for a screen, and narrower
    for a phone. `label` says in words what it shows."""
    return _svg(chart, label, "chart wide") + _svg(_narrow(chart), label, "chart narrow")


def _narrow(chart: Chart) -> Chart:
    """The same chart on NARROW inches, so that its letters have the same size on a phone."""

    def draw(palette: Palette) -> "Figure":
        figure = chart(palette)
        figure.set_figwidth(NARROW)
        if title := figure.get_suptitle():
            figure.suptitle("\n".join(textwrap.wrap(title, NARROW_LETTERS)), fontsize=8)
        return figure

    return draw


def _svg(chart: Chart, label: str, kind: str) -> Markup:
    text = io.StringIO()
    _drawn(chart, _THEMED, text, format="svg", transparent=True, metadata={"Date": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", element, flags=re.DOTALL)
    # Two charts of one page have groups of the same names. Nothing refers to them.
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r"font-family: [^;\"]*;? ?", "", element)
    element = re.sub(r' d="([^"]*)"', _rounded, element)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    opening = Markup('<svg class="{}" role="img" aria-label="{}"').format(kind, sanitise(label))
    # Its size in points would not fit a phone; the view box keeps the proportions.
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    return opening + Markup(element.removeprefix("<svg"))


def _rounded(path: re.Match[str]) -> str:
    """A path to hundredths of a point, in half the characters."""
    numbers = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path[1].split()))
    return f' d="{numbers}"'


def axes(palette: Palette, width: float = 6.4, height: float = 3.2) -> "tuple[Figure, Axes]":
    """An empty chart of so many inches, with the grid and the frame that all charts have."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25, color=palette.soft)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_outside(figure: "Figure", below: bool = False) -> None:
    """A legend above the axes, or below them, where it covers nothing, in as many columns as a phone has room for.

    It would cover the figure's title, which is also above.
    """
    widths = [LEGEND_MARK + len(label) for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]

    def fits(columns: int) -> bool:
        return sum(max(column) for column in np.array_split(widths, columns) if len(column)) <= NARROW_LETTERS

    columns = next((columns for columns in (3, 2) if fits(columns)), 1)
    figure.legend(
        frameon=False, loc="outside lower center" if below else "outside upper center", ncols=columns, fontsize=8
    )


def _drawn(chart: Chart, palette: Palette, to: "Path | io.StringIO | io.BytesIO", **options: Any) -> None:
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(
        {
            "text.color": palette.ink,
            "axes.labelcolor": palette.soft,
            "axes.edgecolor": palette.soft,
            "xtick.color": palette.soft,
            "ytick.color": palette.soft,
            "axes.labelsize": 9,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "axes.prop_cycle": cycler(color=palette.series),
            # Letters stay letters, in the page's font; ids that are not random.
            "svg.fonttype": "none",
            "svg.hashsalt": "parakeet",
        }
    ):
        chart(palette).savefig(to, **options)
