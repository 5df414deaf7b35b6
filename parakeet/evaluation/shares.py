"""How metrics show shares, {"n", "share", "interval"} as `parakeet.intervals` makes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parakeet.formatting import format_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

Share = Mapping[str, Any]


def share_cells(found: Share) -> tuple[int, str, str]:
    """Cells of a table: n, the share and its interval, which few texts do not have."""
    interval = " to ".join(map(format_percent, found["interval"] or ()))
    return found["n"], format_percent(found["share"]), interval


def share_text(found: Share) -> str:
    """`72.1% (68.0% to 75.9%)`."""
    _, share, interval = share_cells(found)
    return f"{share} ({interval})" if interval else share


def plot_shares(
    palette: "Palette", series: Mapping[str, Mapping[str, Share]], label: str, chance: Mapping[str, float] | None = None
) -> "Figure":
    """Bars with their intervals: by name of a series, the shares by what was measured, which all series have.

    `chance` draws a mark at the chance of some of them.
    """
    from parakeet.pages.charts import axes

    names = list(next(iter(series.values())))
    figure, chart = axes(palette, height=1.0 + (0.16 + 0.16 * len(series)) * max(1, len(names)))
    thickness = 0.8 / len(series)
    for number, (title, shares) in enumerate(series.items()):
        places = [place + thickness * (number - (len(series) - 1) / 2) for place in range(len(names))]
        values = [100 * shares[name]["share"] for name in names]
        bounds = [shares[name]["interval"] or (shares[name]["share"],) * 2 for name in names]
        # Of rounding, a bound may lie a hair on the wrong side of the share.
        below = [max(0.0, value - 100 * low) for value, (low, _) in zip(values, bounds, strict=True)]
        above = [max(0.0, 100 * high - value) for value, (_, high) in zip(values, bounds, strict=True)]
        chart.barh(
            places,
            values,
            0.9 * thickness,
            label=title,
            color=palette.series[number],
            xerr=(below, above),
            error_kw={"ecolor": palette.ink, "elinewidth": 1, "capsize": 2},
        )
    for place, name in enumerate(names):
        if chance and name in chance:
            chart.vlines(100 * chance[name], place - 0.45, place + 0.45, colors=palette.soft, linestyles="--")
    chart.set_yticks(range(len(names)), names)
    chart.invert_yaxis()
    chart.set_xlim(0, 100)
    chart.set_xlabel(label)
    if len(series) > 1:
        figure.legend(loc="outside upper right", ncols=len(series), frameon=False, fontsize=8)
    return figure
