"""What study `memorisation` says of the bits that a parameter holds."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import format_percent
from parakeet.pages import Table
from parakeet.report.parts import Drawing, Heading, Part
from parakeet.studies.comparison import in_words
from parakeet.studies.memorisation_charts import draw_capacity

Figures = Mapping[str, Any]


def said_of_capacity(capacity: Figures | None) -> str:
    """Part of a sentence, from the figures of the capacity."""
    if capacity is None:
        return ""
    best = max((size["best"] for size in capacity["sizes"]), key=lambda one: one["bits_per_used_parameter"]["value"])
    return (
        f"a parameter in use holds {'at least ' if _is_bound(capacity) else ''}"
        f"{in_words(best['bits_per_used_parameter'], 2)} bits of random strings ({capacity['published']} are published)"
    )


def _is_bound(capacity: Figures) -> bool:
    """Whether more training memorised more, or nobody knows."""
    longer = capacity["longer"]
    return not longer or any(one["grows"] or one["growth"] is None or not one["growth"]["interval"] for one in longer)


def capacity_parts(capacity: Figures) -> list[Part]:
    """Text, chart and table of the same figures."""
    rows = [
        (
            f"{one['width']}x{one['layers']}",
            one["used_parameters"],
            one["steps"],
            round(one["data_bits"]),
            in_words(one["memorised_bits"], 0),
            _value_in_percent(one["share"]),
            in_words(one["bits_per_used_parameter"], 2),
            in_words(one["bits_per_parameter"], 2),
        )
        for one in capacity["groups"]
    ]
    columns = (
        "model",
        "parameters in use",
        "steps",
        "bits of data",
        "memorised",
        "of the data",
        "bits a parameter",
        "of all",
    )
    return [
        Heading("Bits in a parameter"),
        "Random strings can only be memorised, and how many bits they have is known. The bits by which a model "
        f"shortens them are memorised. Morris et al. (2025) found that GPT models hold {capacity['published']} bits a "
        "parameter, however much they read. Rows of the embedding whose tokens never occur are not in use.",
        Drawing(partial(draw_capacity, capacity), "Memorised bits by bits of random strings, a line for each size"),
        " ".join([*_said_of_sizes(capacity), *_said_of_longer(capacity)]),
        Table(columns, rows, right=range(1, len(columns))),
    ]


def _said_of_sizes(capacity: Figures) -> list[str]:
    said = []
    for size in capacity["sizes"]:
        best, last = size["best"], size["last_doubling"]
        text = (
            f"{best['width']}x{best['layers']} holds {in_words(best['bits_per_used_parameter'], 2)} bits for each of "
            f"its {best['used_parameters']:,} parameters in use"
        )
        if over := best["over_strings"]:
            text += f" (other strings would give single models {over[0]:.2f} to {over[1]:.2f})"
        if last and last["growth"]:
            small, large = last["data_bits"]
            level = "it levels off" if last["levels_off"] else "there is no clear plateau"
            text += f". With {large / small:.2g} times the data it memorises {_growth(last['growth'])}: {level}"
        said.append(f"{text}.")
    return said


def _said_of_longer(capacity: Figures) -> list[str]:
    if not capacity["longer"]:
        return ["No model was trained longer, so these are lower bounds."]
    said = []
    for one in capacity["longer"]:
        few, many = one["steps"]
        if one["growth"]:
            ended = (
                "training had not converged, and these are lower bounds"
                if one["grows"]
                else "that is not clear of chance"
                if one["growth"]["interval"]
                else "too few seeds to tell whether training had converged"
            )
            said.append(f"{many:,} steps in place of {few:,} memorise {_growth(one['growth'])}: {ended}.")
    return said


def _growth(found: Figures) -> str:
    return (
        in_words({**found, "value": 100 * found["value"], "interval": _hundredfold(found["interval"])}, 0, True) + " %"
    )


def _hundredfold(interval: Sequence[float] | None) -> list[float] | None:
    return [100 * bound for bound in interval] if interval else None


def _value_in_percent(found: Figures | None) -> str:
    return format_percent(found["value"], 0) if found else ""
