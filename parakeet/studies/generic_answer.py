"""The answer of a study that has no module of its own: the loss of each of its settings, and the best of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import counted
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Part
from parakeet.studies.answer import Answer
from parakeet.studies.comparison import BITS_PER_BYTE, by_seed, in_words, summary
from parakeet.studies.dots import draw_dots
from parakeet.studies.records import Record
from parakeet.studies.seeds import FEWEST_SEEDS
from parakeet.studies.study import StudyFile

BITS, NATS = "bits per byte of held-out text", "nats a token at the end of training"


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """From at least one record. The unit is NATS if the study does not measure bits per byte."""
    unit = BITS if all(record.bits_per_byte is not None for record in records) else NATS
    settings: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        settings.setdefault((record.arm, ", ".join(record.points.values())), []).append(record)
    rows = [_row(arm, point, found, unit) for (arm, point), found in settings.items()]
    groups: dict[str, list[tuple[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["arm"], []).append((row["point"], row))
    parts: list[Part] = [
        Drawing(partial(draw_dots, groups, unit), f"{unit.capitalize()} of {counted(len(rows), 'setting')}"),
        Details("The figures of each setting", [_table(rows, unit)]),
    ]
    return Answer({"unit": unit, "rows": rows}, _sentence(rows, unit), parts, _limits(rows))


def _row(arm: str, point: str, records: Sequence[Record], unit: str) -> dict[str, Any]:
    return {
        "arm": arm.replace("_", " "),
        "point": point,
        "parameters": records[0].training["parameters"],
        "tokens": records[0].training["tokens"],
        **(summary(by_seed(records, BITS_PER_BYTE if unit == BITS else _final_loss)) or {}),
    }


def _final_loss(record: Record) -> float:
    return float(record.training["final_loss"])


def _named(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['point']} ({row['arm']})" if several else str(row["point"])


def _sentence(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    several = len({row["arm"] for row in rows}) > 1
    best, worst = min(rows, key=lambda row: row["value"]), max(rows, key=lambda row: row["value"])
    what = "bits per byte" if unit == BITS else "nats a token"
    if len(rows) == 1:
        return f"The only setting that was run, {_named(best, several)}, needs {in_words(best)} {what}."
    return (
        f"Of {len(rows)} settings, {_named(best, several)} needs the fewest {what}, {in_words(best)}, and "
        f"{_named(worst, several)} the most, {in_words(worst)}."
    )


def _table(rows: Sequence[Mapping[str, Any]], unit: str) -> Table:
    cells: list[list[object]] = []
    for row in rows:
        interval = f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}" if row["interval"] else ""
        named = [row["arm"], row["point"], row["parameters"], row["tokens"], row["n"]]
        cells.append([*named, f"{row['value']:.3f}", interval])
    columns = ("Arm", "Setting", "Parameters", "Tokens", "Seeds", unit.capitalize(), "95% interval")
    return Table(columns, cells, right=(5, 6))


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    few = [row for row in rows if row["interval"] is None]
    if not few:
        return ["Intervals are over seeds: of the first weights and the order of the text. The text is one sample."]
    which = (
        "no setting has one"
        if len(few) == len(rows)
        else f"{len(few)} of {len(rows)} settings {'has' if len(few) == 1 else 'have'} none"
    )
    return [f"An interval needs {FEWEST_SEEDS} seeds, and {which}: differences may be chance."]
