"""The report's own chart: every share that was measured, with its interval, beside chance."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from parakeet.evaluation.base import Score
from parakeet.formatting import format_percent
from parakeet.pages.charts import axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

ROW_INCHES = 0.27


def draw_scores(
    scores: Mapping[str, Sequence[Score]], published: Mapping[str, Sequence[float]], palette: "Palette"
) -> "Figure":
    """Shares by group: a dot with its 95 % interval, a mark at chance, and small ones at published models' scores.

    `published` has shares by the name of a score.
    """
    rows = [(number, score) for number, found in enumerate(scores.values()) for score in found]
    figure, chart = axes(palette, height=0.75 + ROW_INCHES * (len(rows) + len(scores)))
    at_chance = partial(chart.plot, marker="|", color=palette.soft, markersize=10, linestyle="")
    of_others = partial(chart.plot, marker=".", color=palette.soft, markersize=5, linestyle="", alpha=0.6)
    labels: dict[float, str] = {}
    place = 0.0
    for (number, score), (before, _) in zip(rows, [(0, None), *rows], strict=False):
        place += number != before  # a gap between groups
        labels[place] = score.name
        colour = palette.series[number % len(palette.series)]
        others = published.get(score.name, ())
        of_others(others, [place] * len(others))
        if score.chance is not None:
            at_chance(score.chance, place)
        low, high = score.interval or (score.value, score.value)
        chart.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.45, solid_capstyle="round")
        chart.plot(score.value, place, marker="o", color=colour, markersize=5.5)
        beside = chart.get_yaxis_transform()
        chart.text(
            1.02, place, format_percent(score.value), transform=beside, va="center", fontsize=8, color=palette.ink
        )
        place += 1
    chart.set_yticks(list(labels), list(labels.values()))
    chart.set_ylim(place - 0.3, -0.7)
    chart.set_xlim(-0.02, 1.02)
    chart.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    chart.tick_params(axis="y", length=0)
    chart.grid(visible=False, axis="y")
    chart.spines["left"].set_visible(False)
    if any(score.chance is not None for _, score in rows):
        at_chance([], [], label="chance")
    if any(published.get(score.name) for _, score in rows):
        of_others([], [], label="published models of 70M to 400M")
    if chart.get_legend_handles_labels()[0]:
        figure.legend(frameon=False, loc="outside upper right", ncols=2, fontsize=8)
    return figure
