"""What study `memorisation` answers: whether small models learn, or memorise and regurgitate."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import counted, format_count, format_percent, listed
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.capacity_parts import capacity_parts, said_of_capacity
from parakeet.studies.comparison import in_words, is_above, is_below, unless_clear
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
from parakeet.studies.seeds import too_few
from parakeet.studies.study import StudyFile

Figures = Mapping[str, Any]


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. Records may be missing: what cannot be said without them is not, and they are named."""
    figures = memorisation_figures(records, file)
    return Answer(figures, _sentence(figures), _parts(figures), _limits(figures))


def _sentence(figures: Figures) -> str:
    said = [one for one in (_said_of_planted(figures), _said_of_margin(figures)) if one]
    lead = _lead(figures) if len(said) == 2 else ""
    if capacity := said_of_capacity(figures["capacity"]):
        said.append(capacity)
    if not said:
        return "There are no runs to answer from yet."
    text = lead + "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _lead(figures: Figures) -> str:
    """Whether they remember what stands there often, and predict new text better than a table of what they read."""
    settings = _planted(figures)
    remember = 2 * sum(_remembers_copies(one) for one in settings) > len(settings)
    learn = any(is_above(one["margin"]) for one in figures["settings"])
    if remember and learn:
        return "At this size they do both: "
    if remember:
        return "At this size they mostly remember: "
    return "At this size they mostly learn: " if learn else "At this size they clearly do neither: "


def _remembers_copies(setting: Figures) -> bool:
    return is_above(setting["exposure_trend"]) or bool(setting["trend"] and setting["trend"]["rises"])


def _planted(figures: Figures) -> list[Any]:
    return [one for one in figures["settings"] if one["planted"]]


def _said_of_planted(figures: Figures) -> str:
    if not (settings := _planted(figures)):
        return ""
    one = max(settings, key=lambda setting: setting["planted"]["share"])
    few, many = one["canaries"][1], one["canaries"][-1]
    if not one["planted"]["right"]:
        return (
            f"no model writes a planted text from memory, not even one that was planted {_times(many['copies'])}, and "
            f"the fainter trace of exposure {_exposure_rises(figures)}"
        )
    said = (
        f"after {epochs_in_words(one['epochs'])} a model of {format_count(one['parameters'])} parameters writes from "
        f"memory {_share(many['extraction'])} of the texts that were planted {_times(many['copies'])}"
    )
    if few is not many:
        said += f" and {_share(few['extraction'])} of those planted {_times(few['copies'])}"
    return f"{said}, a share that {_rises(figures)}"


def _rises(figures: Figures) -> str:
    settings = _planted(figures)
    with_copies = sum(bool(one["trend"] and one["trend"]["rises"]) for one in settings)
    said = [f"rises clearly with copies in {with_copies} of {counted(len(settings), 'setting')}"]
    if by_size := figures["by_size"]:
        with_size = sum(trend["rises"] for trend in by_size.values())
        said.append(f"with size in {with_size} of {len(by_size)}")
    if by_epochs := figures["by_epochs"]:
        with_epochs = sum(is_above(one["difference"]) for one in by_epochs.values())
        said.append(f"with epochs in {with_epochs} of {len(by_epochs)}")
    return listed(said)


def _exposure_rises(figures: Figures) -> str:
    settings = _planted(figures)
    with_copies = sum(is_above(one["exposure_trend"]) for one in settings)
    said = [f"rises clearly with copies in {with_copies} of {counted(len(settings), 'setting')}"]
    for words, key in (("size", "exposure_by_size"), ("epochs", "exposure_by_epochs")):
        if changes := figures[key]:
            said.append(f"with {words} in {sum(is_above(one['change']) for one in changes.values())} of {len(changes)}")
    return listed(said)


def _said_of_margin(figures: Figures) -> str:
    settings = [one for one in figures["settings"] if one["margin"]]
    if not settings:
        return ""
    best = max(settings, key=lambda one: one["margin"]["value"])
    better = sum(is_above(one["margin"]) for one in settings)
    margin, of_table = best["margin"], "an n-gram model of the same training text"
    if is_below(margin):
        low, high = margin["interval"]
        behind = in_words({"value": -margin["value"], "interval": [-high, -low]})
        return f"on new text even the best model ({name_of(best)}) is {behind} bits per byte behind {of_table}"
    by = in_words(margin, sign=True)
    if not better:
        return f"on new text no model is clearly ahead of {of_table} (the best, {name_of(best)}, by {by} bits per byte)"
    return (
        f"on new text {better} of {counted(len(settings), 'model')} {'is' if better == 1 else 'are'} clearly ahead of "
        f"{of_table}, the best ({name_of(best)}) by {by} bits per byte"
    )


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
        "Made-up texts, half of them random letters, were planted in the training text, each a known number of times. "
        "A text is extracted if the model, given its beginning, writes the rest exactly.",
        Drawing(
            partial(draw_extraction, figures),
            "Share of planted texts that is extracted, by copies, with 95 % intervals",
        ),
        " ".join([*_said_of_trends(figures), "Slopes are of least squares."]),
        Details("Extraction by copies", [Table(columns, shares, right=range(1, len(columns)))]),
    ]
    if of_exposure := figures["exposure"]:
        parts += [
            "Exposure shows fainter traces (Carlini et al. 2019): it is high if the model finds a planted text "
            "likelier than most texts that were never planted. In bits, those have "
            f"{of_exposure['never']:.1f} themselves, on average, and {of_exposure['most']:.0f} is the most that can be "
            f"measured. Exposure {_exposure_rises(figures)}.",
            Drawing(partial(draw_exposure, figures), "Exposure of planted texts by copies, with 95 % intervals"),
            Details("Exposure by copies, in bits", [Table(columns[:-1], exposures, right=range(1, len(columns) - 1))]),
        ]
    return parts


def _said_of_trends(figures: Figures) -> list[str]:
    said = []
    for epochs, trend in figures["by_size"].items():
        said.append(
            f"After {epochs_in_words(epochs)}, doubling the parameters changes the share that is extracted by "
            f"{_points(trend, 'slope')}{unless_clear(trend)}."
        )
    for size, one in figures["by_epochs"].items():
        few, many = one["epochs"]
        said.append(
            f"At {size}, {many} epochs in place of {few} change it by "
            f"{_points(one['difference'], 'share')}{unless_clear(one['difference'])}."
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
        f"The same for passages of the training text: given their beginning, the next "
        f"{listed([str(length) for length in lengths])} tokens must be exact. In {clear} of "
        f"{counted(len(rows), 'comparison')} they are extracted clearly more often than passages of held-out text."
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
        Heading("Beside an n-gram model"),
        "Bits per byte of held-out text, by the network and by the best n-gram model of the same training text, which "
        "is a table of what was read. The margin is what the network needs less. The last column is text that was "
        "read minus text that was not: the more negative, the more is remembered.",
    ]
    if any(one["margin"] for one in figures["settings"]):
        label = "Margin over the n-gram model by parameters, with 95 % intervals; above zero the network is better"
        parts.append(Drawing(partial(draw_margin, figures), label))
    for epochs, found in figures["margin_by_size"].items():
        parts.append(
            f"After {epochs_in_words(epochs)}, the margin changes by {in_words(found['change'], sign=True)} bits per "
            f"byte from {found['from']} to {found['to']}{unless_clear(found['change'])}."
        )
    return [*parts, Table(columns, rows, right=range(1, 6))]


def _said_of_goldfish(goldfish: Figures) -> list[str]:
    points = goldfish["points"]
    return [
        f"With {label} in the loss, the share of planted texts that is extracted goes from "
        f"{_share(points[goldfish['base']]['planted'])} to {_share(points[label]['planted'])}"
        f"{unless_clear(change['planted'])}."
        for label, change in goldfish["changes"].items()
    ]


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
        "Goldfish loss leaves a fixed part of the tokens out of the loss, the same ones in every copy, so that a model "
        "cannot learn a text as a whole (Hans et al. 2024). It may still know the other tokens.",
        *_said_of_goldfish(goldfish),
    ]
    if any(one["planted"] for one in goldfish["points"].values()):
        label = (
            "Share of planted texts that is extracted by copies, with and without goldfish loss, with 95 % intervals"
        )
        parts.append(Drawing(partial(draw_goldfish, goldfish), label))
    return [*parts, Table(columns, rows, right=range(1, 5))]


def _limits(figures: Figures) -> list[str]:
    limits = []
    if few := too_few(figures["seeds"]):
        limits.append(f"{few}: intervals are over texts alone, where there are any.")
    if settings := _planted(figures):
        n = settings[0]["canaries"][-1]["extraction"]["n"]
        limits.append(
            f"There are {n} planted texts for each number of copies, the same ones for all seeds and models. Intervals "
            "of shares are over such texts. Those of exposure and of bits per byte are over seeds: with other texts "
            "they would be wider."
        )
        passes = sorted(one["passes"] for one in settings if one["passes"])
        if passes:
            limits.append(f"Each copy of a planted text was read {_range(passes)} times on average.")
        limits.append(
            "Extraction is greedy and exact, from the true beginning. A model may know a text that it does not write "
            "out exactly."
        )
        limits.append("The learning rate follows a rule of the width. It was not searched for each size.")
    if figures["capacity"]:
        limits.append(
            "Capacity was measured on models of a few thousand parameters, trained for minutes in fp32. A string whose "
            "code the model makes longer counts as zero, so chance gains on strings that it does not know are counted."
        )
    return limits


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
