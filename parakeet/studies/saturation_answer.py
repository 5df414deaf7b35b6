"""What study `saturation` answers: what happens if a tiny model is over-saturated with data."""

from collections.abc import Mapping, Sequence
from typing import Any

from parakeet.formatting import format_count
from parakeet.studies.answer import Answer
from parakeet.studies.comparison import in_words, is_above, is_below
from parakeet.studies.records import Record
from parakeet.studies.saturation_figures import FRESH, saturation_figures
from parakeet.studies.saturation_parts import decay_name, saturation_parts
from parakeet.studies.seeds import FEWEST_SEEDS
from parakeet.studies.study import StudyFile

Figures = Mapping[str, Any]


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. Records may be missing: what cannot be said without them is said."""
    figures = saturation_figures(records, file)
    return Answer(figures, _sentence(figures), saturation_parts(figures), _limits(figures))


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
    name = decay_name(label)
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
    decay = figures["decay"]
    if decay and epochs in decay["epochs"]:
        changed = in_words(decay["epochs"][epochs], sign=True)
        said += f"; {decay_name(decay['one'])} then changes bits per byte by {changed}"
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


def _times(setting: Mapping[str, Any]) -> str:
    return f"{setting['a_parameter']:.3g}"


def _texts(found: Mapping[str, Any], epochs: int) -> str:
    """How many fresh texts of its length so many epochs are worth."""
    interval = found["interval"] and [epochs * max(0.0, bound) for bound in found["interval"]]
    return in_words({"value": epochs * found["value"], "interval": interval}, 1)
