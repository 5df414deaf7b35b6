"""What study `saturation` answers: what happens if a tiny model is over-saturated with data."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import format_count, format_percent
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.comparison import in_words, is_above, is_below
from parakeet.studies.lines import Line, draw_lines
from parakeet.studies.records import Record
from parakeet.studies.saturation_figures import FRESH, saturation_figures
from parakeet.studies.seeds import FEWEST_SEEDS
from parakeet.studies.study import StudyFile

Figures = Mapping[str, Any]
TOKENS = "tokens read for each parameter"


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. Records may be missing: what cannot be said without them is said."""
    figures = saturation_figures(records, file)
    return Answer(figures, _sentence(figures), _parts(figures), _limits(figures))


def _sentence(figures: Figures) -> str:
    said = [one for one in (_said_of_fresh(figures), _said_of_repeated(figures), _said_of_bits(figures)) if one]
    return f"{'; '.join(said)}." if said else "There are no runs to answer from yet."


def _said_of_fresh(figures: Figures) -> str:
    points = list(figures["fresh"].items())
    if not points:
        return ""
    (_, first), (_, last) = points[0], points[-1]
    size = format_count(figures["parameters"])
    if len(points) == 1:
        bits = in_words(first["bits_per_byte"])
        return f"A model of {size} parameters needs {bits} bits per byte after {_times(first)} tokens a parameter"
    return (
        f"On fresh text a model of {size} parameters goes from {in_words(first['bits_per_byte'])} bits per byte after "
        f"{_times(first)} tokens a parameter to {in_words(last['bits_per_byte'])} after {_times(last)}, "
        f"{_turned(figures['fresh_turn'])}"
    )


def _turned(turn: Mapping[str, Any]) -> str:
    if turn["rise"] is None:
        return "and never turns upward"
    where = f"the best was at {turn['best']}, and {turn['last']} needs {in_words(turn['rise'], sign=True)}"
    if is_above(turn["rise"]):
        return f"where it has turned upward: {where}"
    return f"with no rise that seeds could not make: {where}"


def _said_of_repeated(figures: Figures) -> str:
    label, points = next(iter(figures["repeated"].items()), ("", {}))
    if len(points) < 2:
        return ""
    epochs, last = list(points.items())[-1]
    name = _decay_name(label)
    found = figures["worth"][label].get(epochs)
    if found:
        said = (
            f"to read one text {epochs} times ({name}) is worth {_texts(found, int(epochs))} fresh texts of its length"
        )
    else:
        first = next(iter(points.values()))
        said = (
            f"to read one text {epochs} times ({name}) leads from {in_words(first['bits_per_byte'])} to "
            f"{in_words(last['bits_per_byte'])} bits per byte"
        )
    turn = figures["repeated_turn"][label]
    if turn and turn["rise"] is not None:
        said += f", and the best was after {turn['best']}"
    return said


def _said_of_bits(figures: Figures) -> str:
    growth = figures["int4_growth"].get(FRESH)
    if growth is None:
        return ""
    points = figures["fresh"]
    before, after = (in_words(points[growth[end]]["int4"], 4) for end in ("from", "to"))
    said = "more" if is_above(growth["change"]) else "less" if is_below(growth["change"]) else "about as much"
    return (
        f"rounding the weights to int4 costs {before} bits per byte at {growth['from']} and {after} at "
        f"{growth['to']}, {said} than before".replace("about as much than", "about as much as")
    )


def _parts(figures: Figures) -> list[Part]:
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


def _lines(figures: Figures, key: str, repeated: bool = True) -> dict[str, Line]:
    """The figure over tokens a parameter, of fresh text and of repeated text with each weight decay."""
    series = {"fresh text": figures["fresh"]}
    if repeated:
        series |= {f"repeated, {_decay_name(label)}": points for label, points in figures["repeated"].items()}
    return {
        name: [(one["a_parameter"], one[key]) for one in points.values() if one.get(key)]
        for name, points in series.items()
    }


def _drawing(figures: Figures, key: str, y: str, label: str, zero: bool = False) -> list[Part]:
    lines = _lines(figures, key)
    return [Drawing(partial(draw_lines, lines, TOKENS, y, zero=zero), label)] if any(lines.values()) else []


def _bits_parts(figures: Figures) -> list[Part]:
    y = "held-out bits per byte (lower is better)"
    label = "Held-out bits per byte over tokens read for each parameter, of fresh text and of repeated text"
    rows: list[tuple[object, ...]] = [
        ("fresh", point, one["tokens"], f"{one['a_parameter']:.3g}", in_words(one["bits_per_byte"]), "")
        for point, one in figures["fresh"].items()
    ]
    for decay, points in figures["repeated"].items():
        rows += [
            (
                f"repeated, {_decay_name(decay)}",
                f"{point} {'epoch' if point == '1' else 'epochs'}",
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
            f"From {gain['from']} to {gain['to']} of fresh text bits per byte change by "
            f"{in_words(gain['change'], sign=True)}, seed by seed."
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
            Table(("epochs", *(_decay_name(label) for label in labels)), rows, right=range(len(labels) + 1)),
        ]
    for label, found in figures["r_star"].items():
        if found["value"]:
            until = f"{found['value']:.1f}"
            if found["interval"]:
                until += " ({:.1f} to {:.1f})".format(*found["interval"])
            parts.append(
                f"With {_decay_name(label)}, the law of Muennighoff et al. 2023 fits with R* = {until}, from 1 to "
                f"{found['until']} epochs. Theirs is {figures['published_r_star']}, of far larger models and texts."
            )
        else:
            parts.append(f"With {_decay_name(label)}, no R* can be told: {found['reason']}.")
    return parts


def _decay_parts(decay: Mapping[str, Any]) -> list[Part]:
    rows = [(point, in_words(found, sign=True), _verdict(found)) for point, found in decay["epochs"].items()]
    one, other = decay["one"], decay["other"]
    return [
        Heading("Weight decay"),
        f"Bits per byte with {_decay_name(one)} minus those with {_decay_name(other)}, on the same text, seed by seed:",
        Table(("epochs", "difference", ""), rows, right=(0, 1)),
    ]


def _verdict(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return "no interval"
    return "better" if is_below(found) else "worse" if is_above(found) else "could be chance"


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
        if growth and growth["ratio"]:
            parts.append(
                f"{_series_name(name).capitalize()}: from {growth['from']} to {growth['to']} the cost of int4 grows by "
                f"a factor of {in_words(growth['ratio'], 2)}."
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
        lines[f"repeated, {_decay_name(decay)}"] = [
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
    columns = ("text", "setting", "read first: less than unread", "read last: less than unread", "first minus last")
    return [
        Heading("What it remembers of what it read"),
        "Bits per byte of training text, beside training text that was never read. Of fresh text, what was read first "
        "and what was read last; of repeated text, the last epoch's. The learning rate falls to zero at the end, so "
        "what is read last is learned with the smallest steps.",
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
        "Godey et al. 2024 see the output matrix of small models lose rank when they read much, while the last hidden "
        "states come to point the same way (anisotropy: their mean cosine).",
        *drawn,
    ]
    for name, found in figures["rank_change"].items():
        other = figures["anisotropy_change"][name]
        if found and other:
            parts.append(
                f"{_series_name(name).capitalize()}: from {found['from']} to {found['to']} the effective rank changes "
                f"by {in_words(found['change'], sign=True)} of the width, the anisotropy by "
                f"{in_words(other['change'], sign=True)}."
            )
    columns = ("text", "setting", "effective rank / width", "anisotropy")
    return [*parts, Details("Rank and anisotropy", [Table(columns, rows, right=(2, 3))])]


def _limits(figures: Figures) -> list[str]:
    limits = []
    if len(figures["seeds"]) < FEWEST_SEEDS and figures["seeds"]:
        limits.append(
            f"There {'is one seed' if len(figures['seeds']) == 1 else 'are two seeds'}, so no figure has an interval, "
            "and no difference is told from chance."
        )
    if figures["missing"]:
        limits.append(f"No runs of: {'; '.join(figures['missing'])}.")
    if figures["fresh"]:
        most = max(one["a_parameter"] for one in figures["fresh"].values())
        limits.append(
            f"One size, one kind of text, one schedule: a learning rate that falls to zero at the end of each run. "
            f"What happens beyond {most:.0f} tokens a parameter was not tried."
        )
    if figures["repeated"]:
        limits.append(
            "Fresh text is read with the recipe's weight decay, repeated text with none or a strong one; the worth of "
            "an epoch is counted from one epoch with the same decay."
        )
    limits.append(
        "Intervals are over seeds, of the weights and the order of the text. The held-out text is one sample."
    )
    return limits


def _all_points(figures: Figures) -> list[tuple[str, Mapping[str, Any]]]:
    repeated = [(_series_name(label), points) for label, points in figures["repeated"].items()]
    return [(_series_name(FRESH), figures["fresh"]), *repeated]


def _series_name(label: str) -> str:
    return "fresh text" if label == FRESH else f"repeated, {_decay_name(label)}"


def _decay_name(label: str) -> str:
    return "no weight decay" if label == "none" else f"{label} weight decay"


def _times(setting: Mapping[str, Any]) -> str:
    return f"{setting['a_parameter']:.3g}"


def _texts(found: Mapping[str, Any], epochs: int) -> str:
    """How many fresh texts of its length so many epochs are worth."""
    interval = found["interval"] and [epochs * max(0.0, bound) for bound in found["interval"]]
    return in_words({"value": epochs * found["value"], "interval": interval}, 1)


def _share(found: Mapping[str, Any]) -> str:
    """`46% (41% to 51%)`."""
    if found["interval"] is None:
        return format_percent(found["value"], 0)
    low, high = (format_percent(max(0.0, bound), 0) for bound in found["interval"])
    return f"{format_percent(found['value'], 0)} ({low} to {high})"
