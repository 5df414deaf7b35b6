"""What study `saturation` answers: what happens if a tiny model is over-saturated with data."""

from collections.abc import Mapping, Sequence
from typing import Any

from parakeet.formatting import counted, format_count
from parakeet.studies.answer import Answer
from parakeet.studies.comparison import in_words, is_above, is_below, is_clear, unless_clear
from parakeet.studies.records import Record
from parakeet.studies.saturation_figures import FRESH, saturation_figures
from parakeet.studies.saturation_parts import decay_name, saturation_parts
from parakeet.studies.seeds import too_few
from parakeet.studies.study import StudyFile

Figures = Mapping[str, Any]


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. Records may be missing: what cannot be said without them is said."""
    figures = saturation_figures(records, file)
    return Answer(figures, _sentence(figures), saturation_parts(figures), _limits(figures))


def _sentence(figures: Figures) -> str:
    said = [one for one in (_said_of_fresh(figures), _said_of_repeated(figures), _said_of_bits(figures)) if one]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "There are no runs to answer from yet."


def _said_of_fresh(figures: Figures) -> str:
    points = list(figures["fresh"].values())
    if not points:
        return ""
    first, last = points[0], points[-1]
    size = format_count(figures["parameters"])
    if len(points) == 1:
        return (
            f"a model of {size} parameters needs {_bits(first)} bits per byte after {_times(first)} a parameter of "
            "fresh text"
        )
    return (
        f"on fresh text a model of {size} parameters goes from {_bits(first)} bits per byte after {_times(first)} a "
        f"parameter to {_bits(last)} after {_times(last)}, {_ended(figures)}"
    )


def _ended(figures: Figures) -> str:
    turn, gain = figures["fresh_turn"], figures["fresh_gain"]
    if turn["rise"] is None:
        clear = is_below(gain["change"])
        return "still improving at the end" if clear else "with no clear gain at the end"
    worse = "which is worse" if is_above(turn["rise"]) else "which is not clearly worse"
    return f"{worse} than {_bits(figures['fresh'][turn['best']])} at {turn['best']}"


def _said_of_repeated(figures: Figures) -> str:
    label, points = next(iter(figures["repeated"].items()), ("", {}))
    turn = figures["repeated_turn"].get(label)
    if not turn:
        return ""
    best, last, name = turn["best"], turn["last"], decay_name(label)
    once, fewest = next((one["a_parameter"] / int(epochs), one) for epochs, one in points.items())
    text = f"a text of {once:.2g} tokens a parameter"
    if int(best) == 1:
        said = f"with {name}, reading {text} again does not help"
    elif found := figures["worth"][label].get(best):
        said = f"with {name}, reading {text} {best} times is worth {_texts(found, int(best))} fresh texts of its length"
    else:
        said = f"with {name}, reading {text} {best} times leads from {_bits(fewest)} to {_bits(points[best])}"
    if turn["rise"] is not None:
        worse = f"{_value(turn['rise'])} worse" if is_above(turn["rise"]) else "not clearly worse"
        said += f", and {last} times is {worse} than {best if int(best) > 1 else 'once'}"
    decay = figures["decay"]
    if decay and last in decay["epochs"]:
        change = decay["epochs"][last]
        more = "fewer" if change["value"] < 0 else "more"
        told = f"needs {abs(change['value']):.3f} {more}" if is_clear(change) else "makes no clear difference"
        said += f"; {decay_name(decay['one'])} then {told}"
    return said


def _said_of_bits(figures: Figures) -> str:
    growth = figures["int4_growth"].get(FRESH)
    if growth is None:
        return ""
    ends = [_times(figures["fresh"][growth[end]]) for end in ("from", "to")]
    before, after = (f"{figures['fresh'][growth[end]]['int4']['value']:.3f}" for end in ("from", "to"))
    return (
        f"rounding the weights to int4 costs {before} bits per byte after {ends[0]} a parameter and {after} after "
        f"{ends[1]}{unless_clear(growth['change'])}"
    )


def _limits(figures: Figures) -> list[str]:
    limits = []
    if few := too_few(figures["seeds"]):
        limits.append(f"{few}, so no figure has an interval, and no difference is told from chance.")
    if figures["fresh"]:
        most = max(one["a_parameter"] for one in figures["fresh"].values())
        limits.append(
            "There is one size, one kind of text and one schedule: a learning rate that falls to zero at the end of "
            f"each run. More than {most:.0f} tokens a parameter were not tried."
        )
    if figures["repeated"]:
        limits.append(
            "Fresh text is read with the recipe's weight decay, repeated text with none or a strong one; the worth of "
            "an epoch is counted from one epoch with the same decay."
        )
    turns = [figures["fresh_turn"], *figures["repeated_turn"].values()]
    if any(turn and turn["rise"] for turn in turns):
        limits.append("The best point is chosen by the same runs, which overstates the rise after it a little.")
    limits.append(
        "Intervals are over seeds, of the first weights and the order of the text. The held-out text is one sample."
    )
    return limits


def _times(setting: Mapping[str, Any]) -> str:
    tokens = setting["a_parameter"]
    return counted(round(tokens), "token") if tokens >= 0.95 else f"{tokens:.2g} tokens"


def _texts(found: Mapping[str, Any], epochs: int) -> str:
    """How many fresh texts of its length so many epochs are worth."""
    interval = found["interval"] and [epochs * max(0.0, bound) for bound in found["interval"]]
    return in_words({"value": epochs * found["value"], "interval": interval}, 1)


def _bits(setting: Mapping[str, Any]) -> str:
    return _value(setting["bits_per_byte"])


def _value(found: Mapping[str, Any]) -> str:
    """Without its interval, which the section has."""
    return f"{found['value']:.3f}"
