"""The answer of a study that has no module of its own: the loss of each of its settings, and the best of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from parakeet.formatting import counted
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Part
from parakeet.studies.answer import Answer
from parakeet.studies.records import Record
from parakeet.studies.seeds import FEWEST_SEEDS, Mean, mean_over_seeds
from parakeet.studies.study import StudyFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

BITS, NATS = "bits per byte of held-out text", "nats a token at the end of training"
ROW_INCHES = 0.24


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """From at least one record. The unit is NATS if the study does not measure bits per byte."""
    unit = BITS if all(_bits(record) is not None for record in records) else NATS
    settings: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        settings.setdefault((record.arm, ", ".join(record.points.values())), []).append(record)
    rows = [_row(arm, point, found, unit) for (arm, point), found in settings.items()]
    parts: list[Part] = [
        Drawing(partial(draw_settings, rows, unit), f"{unit.capitalize()} of {counted(len(rows), 'setting')}"),
        Details("The figures of each setting", [_table(rows, unit)]),
    ]
    return Answer({"unit": unit, "rows": rows}, _sentence(rows, unit), parts, _limits(rows))


def _bits(record: Record) -> float | None:
    """Bits per byte over all sources with held-out text; None if they were not measured."""
    figures = record.measured.get("bits_per_byte")
    sources = [one for one in figures.values() if one] if isinstance(figures, Mapping) else []
    n_bytes = sum(one["n_bytes"] for one in sources)
    return sum(one["model"] * one["n_bytes"] for one in sources) / n_bytes if n_bytes else None


def _row(arm: str, point: str, records: Sequence[Record], unit: str) -> dict[str, Any]:
    bits = [_bits(record) for record in records] if unit == BITS else []
    values = [one for one in bits if one is not None] or [float(one.training["final_loss"]) for one in records]
    mean = mean_over_seeds(values)
    return {
        "arm": arm,
        "point": point,
        "parameters": records[0].training["parameters"],
        "tokens": records[0].training["tokens"],
        "seeds": mean.n,
        "value": mean.value,
        "interval": list(mean.interval) if mean.interval else None,
        "values": values,
    }


def _mean(row: Mapping[str, Any]) -> Mean:
    return Mean(row["value"], tuple(row["interval"]) if row["interval"] else None, row["seeds"])


def _named(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['point']} ({row['arm'].replace('_', ' ')})" if several else str(row["point"])


def _sentence(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    several = len({row["arm"] for row in rows}) > 1
    best, worst = min(rows, key=lambda row: row["value"]), max(rows, key=lambda row: row["value"])
    what = "bits per byte" if unit == BITS else "nats a token"
    if len(rows) == 1:
        return f"The only setting that was run, {_named(best, several)}, needs {_mean(best).in_words()} {what}."
    return (
        f"Of {len(rows)} settings, {_named(best, several)} needs the fewest {what}, {_mean(best).in_words()}, and "
        f"{_named(worst, several)} the most, {_mean(worst).in_words()}."
    )


def _table(rows: Sequence[Mapping[str, Any]], unit: str) -> Table:
    cells: list[list[object]] = []
    for row in rows:
        mean = _mean(row)
        interval = f"{mean.interval[0]:.3f} to {mean.interval[1]:.3f}" if mean.interval else ""
        arm = row["arm"].replace("_", " ")
        cells.append([arm, row["point"], row["parameters"], row["tokens"], row["seeds"], f"{mean.value:.3f}", interval])
    columns = ("Arm", "Setting", "Parameters", "Tokens", "Seeds", unit.capitalize(), "95% interval")
    return Table(columns, cells, right=(5, 6))


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    few = [row for row in rows if row["interval"] is None]
    if not few:
        return ["The intervals are over seeds: of the weights, and of the order of the text. The text is one sample."]
    which = "No setting has" if len(few) == len(rows) else f"{len(few)} of {len(rows)} settings do not have"
    return [f"{which} the {FEWEST_SEEDS} seeds that an interval needs: the differences may be chance."]


def draw_settings(rows: Sequence[Mapping[str, Any]], unit: str, palette: "Palette") -> "Figure":
    """A dot for each setting with its interval over seeds, and a small one for each seed."""
    from parakeet.pages.charts import axes, legend_outside

    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure, chart = axes(palette, height=0.9 + ROW_INCHES * (len(rows) + len(arms)))
    places: dict[float, str] = {}
    place = 0.0
    for number, arm in enumerate(arms):
        colour = palette.series[number % len(palette.series)]
        for row in (row for row in rows if row["arm"] == arm):
            places[place] = row["point"]
            if row["interval"]:
                chart.plot(row["interval"], [place] * 2, color=colour, linewidth=2.5, alpha=0.45)
            chart.plot(row["values"], [place] * row["seeds"], ".", color=colour, markersize=4, alpha=0.6)
            chart.plot(row["value"], place, "o", color=colour, markersize=5.5)
            place += 1
        if len(arms) > 1:
            chart.plot([], [], "o", color=colour, markersize=5.5, label=arm.replace("_", " "))
        place += 0.7
    chart.set_yticks(list(places), list(places.values()))
    chart.set_ylim(max(places) + 0.7, -0.7)
    chart.set_xlabel(unit)
    chart.tick_params(axis="y", length=0)
    chart.grid(visible=False, axis="y")
    chart.spines["left"].set_visible(False)
    if len(arms) > 1:
        legend_outside(figure)
    return figure
