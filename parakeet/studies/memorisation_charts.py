"""The charts of study `memorisation`, drawn from its figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parakeet.pages.charts import axes as empty_axes
from parakeet.pages.charts import legend_outside
from parakeet.studies.lines import Line, draw_lines, error_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

Figures = Mapping[str, Any]
COPIES = "copies of a text in the training text"
EXTRACTED = "planted texts extracted, %"


def percent(share: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A share as a value in percent with its interval."""
    if share is None:
        return None
    return {"value": 100 * share["share"], "interval": [100 * bound for bound in share["interval"]]}


def name_of(setting: Mapping[str, Any]) -> str:
    """`64x2, 4 epochs`."""
    return f"{setting['size']}, {epochs_in_words(setting['epochs'])}"


def epochs_in_words(epochs: str) -> str:
    return "1 epoch" if epochs == "1" else f"{epochs} epochs"


def draw_extraction(figures: Figures, palette: "Palette") -> "Figure":
    """Share of planted texts that is extracted by copies, a line for each size and number of epochs."""
    lines = {name_of(one): _by_copies(one, "extraction") for one in figures["settings"]}
    return draw_lines(lines, COPIES, EXTRACTED, palette, colours=_colours(figures["settings"]))


def draw_exposure(figures: Figures, palette: "Palette") -> "Figure":
    """Exposure by copies, a line for each size and number of epochs."""
    lines = {name_of(one): _by_copies(one, "exposure") for one in figures["settings"]}
    return draw_lines(lines, COPIES, "exposure, bits", palette, colours=_colours(figures["settings"]))


def draw_margin(figures: Figures, palette: "Palette") -> "Figure":
    """Bits per byte that a network needs fewer than the n-gram model, by parameters, a line for each epochs."""
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for one in figures["settings"]:
        if one["margin"]:
            lines.setdefault(epochs_in_words(one["epochs"]), []).append((one["parameters"], one["margin"]))
    sizes = sorted({parameters for line in lines.values() for parameters, _ in line})
    y = "margin over the n-gram model, bits per byte"
    return draw_lines(lines, "parameters", y, palette, ticks=sizes, zero=True)


def draw_goldfish(goldfish: Figures, palette: "Palette") -> "Figure":
    """Share of planted texts that is extracted by copies, with every token in the loss and without some."""
    lines = {f"loss of {label}": _by_copies(one, "extraction") for label, one in goldfish["points"].items()}
    return draw_lines(lines, COPIES, EXTRACTED, palette)


def draw_capacity(capacity: Figures, palette: "Palette") -> "Figure":
    """Memorised bits by bits of random strings, a line for each size, with what 3.6 bits a parameter would be."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = empty_axes(palette, height=3.6)
    groups = capacity["groups"]
    for number, size in enumerate(capacity["sizes"]):
        mine = [one for one in groups if one["parameters"] == size["parameters"]]
        steps = min(one["steps"] for one in mine)
        colour = palette.series[number % len(palette.series)]
        name = f"{mine[0]['width']}x{mine[0]['layers']}"
        for long in (False, True):
            shown = [one for one in mine if (one["steps"] > steps) == long]
            if not shown:
                continue
            line = [(one["data_bits"], one["memorised_bits"]) for one in shown]
            look = {"marker": "D", "linestyle": "", "markerfacecolor": "none"} if long else {"marker": "o"}
            label = f"{name}, {shown[-1]['steps']:,} steps"
            error_bars(axes, line, label=label, color=colour, markersize=5, linewidth=1.4, **look)
        limit = capacity["published"] * mine[0]["used_parameters"]
        axes.axhline(limit, color=colour, linewidth=1, linestyle=(0, (1, 2)))
    data = sorted({one["data_bits"] for one in groups})
    axes.plot(
        [data[0], data[-1]],
        [data[0], data[-1]],
        color=palette.soft,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label="all of the data",
    )
    axes.plot(
        [],
        [],
        color=palette.soft,
        linewidth=1,
        linestyle=(0, (1, 2)),
        label=f"{capacity['published']} bits a parameter in use",
    )
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        set_scale("log", base=2)
        axis.set_major_formatter(FuncFormatter(lambda bits, _: f"{bits:,.0f}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("bits of random strings in the training text")
    axes.set_ylabel("memorised bits")
    legend_outside(figure)
    return figure


def _by_copies(setting: Mapping[str, Any], key: str) -> Line:
    rows = [one for one in setting["canaries"] if one["copies"] and one[key]]
    return [(one["copies"], percent(one[key]) or {} if key == "extraction" else one[key]) for one in rows]


def _colours(settings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """A colour for each size; epochs differ in the style of the line."""
    sizes = list(dict.fromkeys(one["size"] for one in settings))
    return {name_of(one): sizes.index(one["size"]) for one in settings}
