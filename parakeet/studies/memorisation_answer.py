"""What study `memorisation` answers: whether small models learn, or memorise and regurgitate."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import counted, format_count, format_percent
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.capacity_parts import capacity_parts, said_of_capacity
from parakeet.studies.comparison import in_words, is_above, is_below
from parakeet.studies.memorisation_charts import (
    draw_exposure,
    draw_extraction,
    draw_goldfish,
    draw_margin,
    epochs_in_words,
    name_of,
)
from parakeet.studies.memorisation_figures import memorisation_figures
from parakeet.studies.records import Record
from parakeet.studies.seeds import FEWEST_SEEDS
from parakeet.studies.study import StudyFile

Figures = Mapping[str, Any]
MOST_NAMED = 4
"""If an arm lacks more settings, they are counted."""


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. Records may be missing: what cannot be said without them is not, and they are named."""
    figures = memorisation_figures(records, file)
    return Answer(figures, _sentence(figures), _parts(figures), _limits(figures))


def _sentence(figures: Figures) -> str:
    said = [
        one
        for one in (
            _said_of_planted(figures),
            _said_of_margin(figures),
            said_of_capacity(figures["capacity"]),
            _said_of_goldfish(figures["goldfish"]),
        )
        if one
    ]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "There are no runs to answer from yet."


def _planted(figures: Figures) -> list[Any]:
    return [one for one in figures["settings"] if one["planted"]]


def _said_of_planted(figures: Figures) -> str:
    if not (settings := _planted(figures)):
        return ""
    one = max(settings, key=lambda setting: setting["planted"]["share"])
    few, many = one["canaries"][1], one["canaries"][-1]
    said = (
        f"a model of {_size(one)} parameters after {epochs_in_words(one['epochs'])} writes from memory "
        f"{_share(many['extraction'])} of the made-up texts that stand in its text {_times(many['copies'])}"
    )
    if few is not many:
        said += f", and {_share(few['extraction'])} of those that stand there {_times(few['copies'])}"
    return f"{said}; that share {_rises(figures)}; exposure, which sees fainter traces, {_exposure_rises(figures)}"


def _rises(figures: Figures) -> str:
    settings = _planted(figures)
    with_copies = sum(bool(one["trend"] and one["trend"]["rises"]) for one in settings)
    said = [f"rises clearly with copies in {with_copies} of {counted(len(settings), 'setting')}"]
    if by_size := figures["by_size"]:
        with_size = sum(trend["rises"] for trend in by_size.values())
        said.append(f"with size at {with_size} of {counted(len(by_size), 'number')} of epochs")
    if by_epochs := figures["by_epochs"]:
        with_epochs = sum(is_above(one["difference"]) for one in by_epochs.values())
        said.append(f"with epochs in {with_epochs} of {counted(len(by_epochs), 'size')}")
    return _listed(said)


def _exposure_rises(figures: Figures) -> str:
    settings = _planted(figures)
    with_copies = sum(is_above(one["exposure_trend"]) for one in settings)
    said = [f"rises clearly with copies in {with_copies} of {len(settings)}"]
    for words, key in (("with size at", "exposure_by_size"), ("with epochs in", "exposure_by_epochs")):
        if changes := figures[key]:
            said.append(f"{words} {sum(is_above(one['change']) for one in changes.values())} of {len(changes)}")
    return _listed(said)


def _said_of_margin(figures: Figures) -> str:
    settings = [one for one in figures["settings"] if one["margin"]]
    if not settings:
        return ""
    best = max(settings, key=lambda one: one["margin"]["value"])
    margin = best["margin"]
    said = f"on text that was not read the best of them, {name_of(best)},"
    if is_below(margin):
        low, high = margin["interval"]
        behind = {"value": -margin["value"], "interval": [-high, -low]}
        return f"{said} is behind a look-up table of the training text by {in_words(behind)} bits per byte"
    verb = "beats" if is_above(margin) else "does not clearly beat"
    return f"{said} {verb} a look-up table of the training text, by {in_words(margin, sign=True)} bits per byte"


def _said_of_goldfish(goldfish: Figures | None) -> str:
    if goldfish is None or not goldfish["changes"]:
        return ""
    label, change = next(iter(goldfish["changes"].items()))
    with_it, without = goldfish["points"][label]["planted"], goldfish["points"][goldfish["base"]]["planted"]
    clear = "" if _is_clear(change["planted"]) else ", which is not clear of chance"
    return f"a loss of only {label} tokens takes extraction from {_share(without)} to {_share(with_it)}{clear}"


def _is_clear(difference: Figures) -> bool:
    return is_above(difference) or is_below(difference)


def _parts(figures: Figures) -> list[Part]:
    parts: list[Part] = []
    if _planted(figures):
        parts += _planted_parts(figures)
    if any(one["passages"] for one in figures["settings"]):
        parts += _passage_parts(figures)
    if any(one["margin"] or one["gap"] for one in figures["settings"]):
        parts += _learned_parts(figures)
    if figures["capacity"]:
        parts += capacity_parts(figures["capacity"])
    if figures["goldfish"]:
        parts += _goldfish_parts(figures["goldfish"])
    return parts


def _planted_parts(figures: Figures) -> list[Part]:
    settings = _planted(figures)
    copies = sorted({row["copies"] for one in settings for row in one["canaries"]})
    columns = (
        "model",
        *("never" if number == 0 else f"{number:,}" for number in copies),
        "a doubling adds",
        "clear in",
    )
    shares, exposures = [], []
    for one in settings:
        rows = {row["copies"]: row for row in one["canaries"]}
        cells = [_share(rows[number]["extraction"]) if number in rows else "" for number in copies]
        of_trend = [_points(one["trend"], "slope"), f"{one['seeds_rising']} of {counted(one['n'], 'seed')}"]
        shares.append((name_of(one), *cells, *(of_trend if one["trend"] else ["", ""])))
        cells = [in_words(rows[number]["exposure"], 1) if number in rows else "" for number in copies]
        exposures.append((name_of(one), *cells, in_words(one["exposure_trend"], 2, sign=True)))
    parts: list[Part] = [
        Heading("Texts that were planted"),
        "Made-up texts, half of them random letters, stand a known number of times in the training text. One is "
        "extracted if the model, given its beginning, writes the rest exactly.",
        Drawing(
            partial(draw_extraction, figures),
            "Share of planted texts that is extracted, by copies, with 95 % intervals",
        ),
        " ".join([*_said_of_trends(figures), "Slopes are of least squares, their intervals of Jeffreys' kind."]),
        Details("Extraction by copies", [Table(columns, shares, right=range(1, len(columns)))]),
        Drawing(partial(draw_exposure, figures), "Exposure of planted texts by copies, with 95 % intervals"),
        "Exposure sees more than extraction: how much likelier a text is than those that were never planted, in bits. "
        "They have 1.4 on average, and 7 is the most that is measured (Carlini et al. 2019).",
        Details("Exposure by copies, in bits", [Table(columns[:-1], exposures, right=range(1, len(columns) - 1))]),
    ]
    return parts


def _said_of_trends(figures: Figures) -> list[str]:
    said = []
    for epochs, trend in figures["by_size"].items():
        verdict = "rises" if trend["rises"] else "falls" if trend["falls"] else "is not clear of chance"
        said.append(
            f"After {epochs_in_words(epochs)} a doubling of the parameters adds {_points(trend, 'slope')} to the share "
            "that "
            f"is extracted: it {verdict}."
        )
    for size, one in figures["by_epochs"].items():
        few, many = one["epochs"]
        verdict = "" if _is_clear(one["difference"]) else ", which is not clear of chance"
        said.append(
            f"{many} epochs in place of {few} add {_points(one['difference'], 'share')} to it at {size}{verdict}."
        )
    return said


def _passage_parts(figures: Figures) -> list[Part]:
    rows: list[tuple[object, ...]] = []
    for one in figures["settings"]:
        for k, found in one["passages"].items():
            sides = [
                (_share(found[side]), found[side]["n"]) if found[side] else ("", 0) for side in ("train", "held_out")
            ]
            difference = _points(found["difference"], "share") if found["difference"] else ""
            rows.append((name_of(one), int(k), *sides[0], *sides[1], difference))
    columns = ("model", "given tokens", "training text", "passages", "held-out text", "passages", "difference")
    lengths = sorted({one["continuation"] for one in figures["settings"] if one["continuation"]})
    clear = sum(
        is_above(found["difference"])
        for one in figures["settings"]
        for found in one["passages"].values()
        if found["difference"]
    )
    said = (
        f"The same of passages of the text itself: the next {_listed([str(length) for length in lengths])} tokens, "
        f"exactly. In {clear} of {counted(len(rows), 'row')} they are extracted more often than held-out text."
    )
    parts: list[Part] = [
        Heading("Passages that nobody planted"),
        said,
        Details("Extraction by the length of what is given", [Table(columns, rows, right=range(1, 7))]),
    ]
    with_duplicates = [one for one in figures["settings"] if one["duplicates"]]
    if with_duplicates:
        strata = list(dict.fromkeys(name for one in with_duplicates for name in one["duplicates"]))
        cells = [
            (name_of(one), *(_share(one["duplicates"][name]) if one["duplicates"].get(name) else "" for name in strata))
            for one in with_duplicates
        ]
        table = Table(
            ("model", *("once" if name == "1" else f"{name} times" for name in strata)),
            cells,
            right=range(1, 1 + len(strata)),
        )
        parts.append(Details("Extraction by how often a passage stands in the training text", [table]))
    return parts


def _learned_parts(figures: Figures) -> list[Part]:
    rows = [
        (
            name_of(one),
            one["parameters"],
            *(in_words(one[key]) for key in ("network", "ngram")),
            in_words(one["margin"], sign=True),
            in_words(one["gap"], sign=True),
        )
        for one in figures["settings"]
    ]
    columns = ("model", "parameters", "network", "n-gram model", "margin", "read minus held out")
    parts: list[Part] = [
        Heading("Beside a look-up table"),
        "Bits per byte of held-out text, by the network and by the best n-gram model of the same training text. A "
        "model "
        "that only looked up what it read would not have a positive margin. The last column is text that was read "
        "minus "
        "text that was not: the more negative, the more is remembered.",
    ]
    if any(one["margin"] for one in figures["settings"]):
        label = (
            "Margin over the n-gram model by parameters, with 95 % intervals; above the dashed line the network "
            "is better"
        )
        parts.append(Drawing(partial(draw_margin, figures), label))
    for epochs, found in figures["margin_by_size"].items():
        parts.append(
            f"After {epochs_in_words(epochs)} the margin changes by {in_words(found['change'], sign=True)} bits per "
            "byte "
            f"from {found['from']} to {found['to']}{_unless_clear(found['change'])}."
        )
    return [*parts, Table(columns, rows, right=range(1, 6))]


def _unless_clear(found: Figures) -> str:
    return "" if _is_clear(found) else ", which is not clear of chance"


def _goldfish_parts(goldfish: Figures) -> list[Part]:
    rows = []
    for label, one in goldfish["points"].items():
        change = goldfish["changes"].get(label)
        rows.append(
            (
                label,
                _share(one["planted"]) if one["planted"] else "",
                _points(change["planted"], "share") if change else "",
                in_words(one["bits_per_byte"]),
                in_words(change["bits_per_byte"], sign=True) if change else "",
            )
        )
    columns = ("tokens in the loss", "planted texts extracted", "change", "held-out bits per byte", "change")
    parts: list[Part] = [
        Heading("Goldfish loss"),
        "If a fixed part of the tokens is left out of the loss, the same ones in every copy, a model cannot learn a "
        "text "
        "as a whole (Hans et al. 2024). It may still know the other tokens.",
    ]
    if any(one["planted"] for one in goldfish["points"].values()):
        label = (
            "Share of planted texts that is extracted by copies, with and without goldfish loss, with 95 % intervals"
        )
        parts.append(Drawing(partial(draw_goldfish, goldfish), label))
    return [*parts, Table(columns, rows, right=range(1, 5))]


def _limits(figures: Figures) -> list[str]:
    limits = []
    if lost := figures["missing"]:
        each = [
            f"{arm.replace('_', ' ')}: "
            f"{'; '.join(points) if len(points) <= MOST_NAMED else counted(len(points), 'setting')}"
            for arm, points in lost.items()
        ]
        limits.append(f"There are no runs of {', of '.join(each)}.")
    seeds = len(figures["seeds"])
    if 0 < seeds < FEWEST_SEEDS:
        limits.append(
            f"There {'is one seed' if seeds == 1 else 'are two seeds'}: intervals are over texts alone, where there "
            "are any."
        )
    if settings := _planted(figures):
        n = settings[0]["canaries"][-1]["extraction"]["n"]
        limits.append(
            f"{n} trials for each number of copies: all seeds have the same planted texts, which are counted as "
            "trials of "
            "their own. An interval over other texts would be wider."
        )
        passes = sorted(one["passes"] for one in settings if one["passes"])
        if passes:
            limits.append(
                f"Each copy of a planted text was read {_range(passes)} times. The learning rate goes by a rule of the "
                "width; it was not searched for each size."
            )
        limits.append(
            "Extraction is greedy and exact, from the true beginning. A model may know a text that it does not write "
            "so."
        )
    if figures["capacity"]:
        limits.append(
            "Capacity is that of models of some thousand parameters, trained for minutes in fp32. A string that the "
            "model "
            "makes longer counts as nothing memorised, so that chance gains of strings that it does not know are "
            "counted."
        )
    return limits


def _size(setting: Figures) -> str:
    return format_count(setting["parameters"])


def _share(found: Figures | None) -> str:
    """`47% (40 to 54)`."""
    if found is None:
        return ""
    low, high = (format_percent(bound, 0).removesuffix("%") for bound in found["interval"])
    return f"{format_percent(found['share'], 0)} ({low} to {high})"


def _points(found: Figures, key: str) -> str:
    """`+4.1 points (+3.0 to +5.2)`."""
    low, high = found["interval"]
    return f"{100 * found[key]:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _times(copies: int) -> str:
    return "once" if copies == 1 else f"{copies:,} times"


def _range(numbers: Sequence[float]) -> str:
    """Of sorted numbers: `0.86 to 3.4`."""
    low, high = f"{numbers[0]:.2g}", f"{numbers[-1]:.2g}"
    return low if low == high else f"{low} to {high}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
