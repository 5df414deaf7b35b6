"""The way of a study's models from text to figures, as a drawing."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

COLUMNS = 3
WIDTH, HEIGHT = 0.84, 0.68
"""Of a box, whose place is 1 wide and 1 high."""
NOTE_LETTERS = 17
"""On a line of a note, as a phone has room for."""


def draw_pipe(steps: Sequence[tuple[str, str]], palette: "Palette") -> "Figure":
    """`steps` are names with notes of a few words. They are read in rows of COLUMNS, as text is."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    rows = -(-len(steps) // COLUMNS)
    figure = Figure(figsize=(6.4, 1.05 * rows), dpi=100, layout="constrained")
    chart = figure.add_subplot()
    chart.set_axis_off()
    chart.set_xlim(-0.5, COLUMNS - 0.5)
    chart.set_ylim(rows - 0.5, -0.5)

    def arrow(begin: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "color": palette.soft, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        chart.annotate("", xy=end, xytext=begin, arrowprops=style)

    for number, (name, note) in enumerate(steps):
        row, column = divmod(number, COLUMNS)
        colour = palette.series[0]
        box = FancyBboxPatch(
            (column - WIDTH / 2, row - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06"
        )
        box.set(facecolor="none", edgecolor=colour, linewidth=1.3)
        chart.add_patch(box)
        chart.text(column, row - 0.17, name, ha="center", va="center", fontsize=9, color=palette.ink)
        lines = "\n".join(textwrap.wrap(note, NOTE_LETTERS))
        chart.text(column, row + 0.12, lines, ha="center", va="center", fontsize=7.5, color=palette.soft)
        if number + 1 == len(steps):
            break
        if column + 1 < COLUMNS:
            arrow((column + WIDTH / 2, row), (column + 1 - WIDTH / 2, row))
        else:
            turn = row + 0.5
            chart.plot([column, column, 0], [row + HEIGHT / 2, turn, turn], color=palette.soft, linewidth=1.2)
            arrow((0, turn), (0, row + 1 - HEIGHT / 2))
    return figure
