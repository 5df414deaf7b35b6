"""What the section of study `saturation` shows: its charts, tables and paragraphs, made from its figures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from parakeet.formatting import format_percent
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.comparison import in_words, unless_clear, verdict
from parakeet.studies.lines import Line, draw_lines
from parakeet.studies.saturation_figures import FRESH

Figures = Mapping[str, Any]
TOKENS = "tokens read for each parameter"


def saturation_parts(figures: Figures) -> list[Part]:
    """Of `saturation_figures`. What was not measured has no part."""
    parts: list[Part] = []
    if figures["fresh"] or figures["repeated"]:
        parts += _bits_parts(figures)
    if any(figures["worth"].values()) or any(one["value"] for one in figures["r_star"].values()):
        parts += _worth_parts(figures)
    if figures["decay"] and figures["decay"]["epochs"]:
        parts += _decay_parts(figures["decay"])
    parts += _int4_parts(figures)
    parts += _forgetting_parts(figures)
    parts += _norm_parts(figures)
    parts += _rank_parts(figures)
    return parts


def _lines(figures: Figures, key: str) -> dict[str, Line]:
    """The figure over tokens a parameter, of fresh text and of repeated text with each weight decay."""
    return {
        name: [(one["a_parameter"], one[key]) for one in points.values() if one[key]]
        for name, points in _all_points(figures)
    }


def _drawing(figures: Figures, key: str, y: str, label: str, zero: bool = False) -> list[Part]:
    lines = _lines(figures, key)
    return [Drawing(partial(draw_lines, lines, TOKENS, y, zero=zero), label)] if any(lines.values()) else []


def _bits_parts(figures: Figures) -> list[Part]:
    y = "held-out bits per byte (lower is better)"
    label = "Held-out bits per byte over tokens read for each parameter, of fresh text and of repeated text"
    rows: list[tuple[object, ...]] = [
        ("fresh text", point, one["tokens"], f"{one['a_parameter']:.3g}", in_words(one["bits_per_byte"]), "")
        for point, one in figures["fresh"].items()
    ]
    for decay, points in figures["repeated"].items():
        rows += [
            (
                _series_name(decay),
                _point_name(decay, point),
                one["tokens"],
                f"{one['a_parameter']:.3g}",
                in_words(one["bits_per_byte"]),
                in_words(one["more_than_fresh"], sign=True),
            )
            for point, one in points.items()
        ]
    columns = ("text", "setting", "tokens", "a parameter", "bits per byte", "more than fresh text of as many tokens")
    parts: list[Part] = [
        Heading("Fresh text and repeated text"),
        *_drawing(figures, "bits_per_byte", y, label),
    ]
    gain = figures["fresh_gain"]
    if gain and gain["change"]:
        parts.append(
            f"From {gain['from']} to {gain['to']} of fresh text, bits per byte change by "
            f"{in_words(gain['change'], sign=True)}{unless_clear(gain['change'])}."
        )
    return [*parts, Details("The figures of each setting", [Table(columns, rows, right=range(2, 6))])]


def _worth_parts(figures: Figures) -> list[Part]:
    epochs = list(dict.fromkeys(point for found in figures["worth"].values() for point in found))
    labels = list(figures["worth"])
    rows = [
        (
            f"{point}",
            *(_share(figures["worth"][label][point]) if point in figures["worth"][label] else "" for label in labels),
        )
        for point in epochs
    ]
    parts: list[Part] = [Heading("What an epoch is worth")]
    if rows:
        parts += [
            "The share of the tokens read that fresh text would have needed for the same bits per byte. The curve of "
            "fresh text is that of the same seed, moved to the run of one epoch.",
            Table(("epochs", *(decay_name(label) for label in labels)), rows, right=range(len(labels) + 1)),
        ]
    for label, found in figures["r_star"].items():
        if found["value"]:
            until = f"{found['value']:.1f}"
            if found["interval"]:
                until += " ({:.1f} to {:.1f})".format(*found["interval"])
            parts.append(
                f"With {decay_name(label)}, the law of Muennighoff et al. 2023 fits with R* = {until}, from 1 to "
                f"{found['until']} epochs."
            )
        else:
            parts.append(f"With {decay_name(label)}, no R* can be told: {found['reason']}.")
    if any(found["value"] for found in figures["r_star"].values()):
        parts.append(
            f"Theirs is {figures['published_r_star']}, of far larger models and texts. The smaller R*, the sooner "
            "an epoch adds nothing."
        )
    return parts


def _decay_parts(decay: Mapping[str, Any]) -> list[Part]:
    rows = [(point, in_words(found, sign=True), verdict(found)) for point, found in decay["epochs"].items()]
    one, other = decay["one"], decay["other"]
    return [
        Heading("Weight decay"),
        f"Bits per byte with {decay_name(one)} minus those with {decay_name(other)}, on the same text, seed by seed:",
        Table(("epochs", "difference", ""), rows, right=(0, 1)),
    ]


def _int4_parts(figures: Figures) -> list[Part]:
    drawn = _drawing(
        figures,
        "int4",
        "bits per byte more with int4 weights",
        "The cost of int4 weights over tokens a parameter",
        True,
    )
    if not drawn:
        return []
    rows = [
        (name, point, in_words(one["int8"], 5), in_words(one["int4"], 4))
        for name, points in _all_points(figures)
        for point, one in points.items()
        if one["int4"]
    ]
    parts: list[Part] = [
        Heading("Fewer bits a weight"),
        "All matrices are rounded as the decoder rounds them: int8 with a scale for each row, int4 with one for every "
        "32 weights. Kumar et al. 2024 find that more tokens a parameter make rounding cost more.",
        *drawn,
    ]
    for name, growth in figures["int4_growth"].items():
        if growth and growth["change"]:
            parts.append(
                f"{_from_to(name, growth)} the cost of int4 changes by {in_words(growth['change'], 4, sign=True)}"
                f"{unless_clear(growth['change'])}."
            )
    table = Table(("text", "setting", "int8 costs", "int4 costs"), rows, right=(2, 3))
    return [*parts, Details("The cost of int8 and int4", [table])]


def _forgetting_parts(figures: Figures) -> list[Part]:
    fresh = figures["fresh"]
    lines: dict[str, Line] = {
        "fresh, read first": [
            (one["a_parameter"], one["unread_minus_first"]) for one in fresh.values() if one["unread_minus_first"]
        ],
        "fresh, read last": [
            (one["a_parameter"], one["unread_minus_last"]) for one in fresh.values() if one["unread_minus_last"]
        ],
    }
    for decay, points in figures["repeated"].items():
        lines[_series_name(decay)] = [
            (one["a_parameter"], one["unread_minus_read"]) for one in points.values() if one["unread_minus_read"]
        ]
    if not any(lines.values()):
        return []
    rows = [
        (
            name,
            point,
            *(in_words(one[key], sign=True) for key in ("unread_minus_first", "unread_minus_last", "forgotten")),
        )
        for name, points in _all_points(figures)
        for point, one in points.items()
        if one["forgotten"]
    ]
    chart = partial(draw_lines, lines, TOKENS, "bits per byte less than unread text", zero=True)
    told = [
        f"{_series_name(FRESH).capitalize()}, {point}: what was read first minus what was read last is "
        f"{in_words(one['forgotten'], sign=True)}{unless_clear(one['forgotten'])}."
        for point, one in list(fresh.items())[-1:]
        if one["forgotten"]
    ]
    told += [
        f"{_from_to(label, growth)} the distance to unread text changes by {in_words(growth['change'], sign=True)}"
        f"{unless_clear(growth['change'])}."
        for label, growth in figures["remembered_growth"].items()
        if growth and growth["change"]
    ]
    columns = ("text", "setting", "read first: less than unread", "read last: less than unread", "first minus last")
    return [
        Heading("What it remembers of what it read"),
        "Bits per byte of text that was read, beside text that was not: of fresh text what was read first and what was "
        "read last, of repeated text both together. The learning rate falls to zero at the end, so what is read last "
        "is learned with the smallest steps. Repeated text is a few documents, the same for all seeds. They may be "
        "easier or harder than unread ones, so only a change of the distance tells of memory.",
        *told,
        Drawing(chart, "Bits per byte that text which was read needs less than unread text, over tokens a parameter"),
        Details("The figures of each setting", [Table(columns, rows, right=(2, 3, 4))]),
    ]


def _norm_parts(figures: Figures) -> list[Part]:
    label = "The root mean square of all weights over tokens a parameter"
    drawn = _drawing(figures, "norm", "root mean square of the weights", label)
    if not drawn:
        return []
    rows = [
        (name, point, *(in_words(one[key]) for key in ("norm", "norm_embedding", "norm_blocks")))
        for name, points in _all_points(figures)
        for point, one in points.items()
        if one["norm"]
    ]
    columns = ("text", "setting", "all weights", "embedding", "blocks")
    return [Heading("Weights"), *drawn, Details("Norms", [Table(columns, rows, right=(2, 3, 4))])]


def _rank_parts(figures: Figures) -> list[Part]:
    drawn = _drawing(
        figures,
        "effective_rank",
        "effective rank, share of the width",
        "The effective rank of the output matrix as a share of the width, over tokens a parameter",
    )
    if not drawn:
        return []
    rows = [
        (name, point, in_words(one["effective_rank"]), in_words(one["anisotropy"]))
        for name, points in _all_points(figures)
        for point, one in points.items()
        if one["effective_rank"]
    ]
    parts: list[Part] = [
        Heading("The output matrix"),
        "Godey et al. 2024 find that the output matrix of small models loses rank when they read much, while the last "
        "hidden states come to point the same way (anisotropy: their mean cosine).",
        *drawn,
    ]
    for name, found in figures["rank_change"].items():
        other = figures["anisotropy_change"][name]
        if found and other:
            parts.append(
                f"{_from_to(name, found)} the effective rank changes by {in_words(found['change'], sign=True)} of the "
                f"width, the anisotropy by {in_words(other['change'], sign=True)}."
            )
    columns = ("text", "setting", "effective rank / width", "anisotropy")
    return [*parts, Details("Rank and anisotropy", [Table(columns, rows, right=(2, 3))])]


def _all_points(figures: Figures) -> list[tuple[str, Mapping[str, Any]]]:
    repeated = [(_series_name(label), points) for label, points in figures["repeated"].items()]
    return [(_series_name(FRESH), figures["fresh"]), *repeated]


def _series_name(label: str) -> str:
    return "fresh text" if label == FRESH else f"repeated, {decay_name(label)}"


def _point_name(label: str, point: str) -> str:
    if label == FRESH:
        return point
    return f"{point} {'epoch' if point == '1' else 'epochs'}"


def decay_name(label: str) -> str:
    return "no weight decay" if label == "none" else f"{label} weight decay"


def _share(found: Mapping[str, Any]) -> str:
    """`46% (41% to 51%)`."""
    if found["interval"] is None:
        return format_percent(found["value"], 0)
    low, high = (format_percent(max(0.0, bound), 0) for bound in found["interval"])
    return f"{format_percent(found['value'], 0)} ({low} to {high})"


def _from_to(label: str, growth: Mapping[str, Any]) -> str:
    """`Fresh text, from 1x to 200x:`."""
    first, last = (_point_name(label, growth[end]) for end in ("from", "to"))
    return f"{_series_name(label).capitalize()}, from {first} to {last}:"
