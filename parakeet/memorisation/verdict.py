"""The verdict: a paragraph that is written from the figures alone."""

import math
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from parakeet.formatting import format_percent
from parakeet.intervals import FEWEST_TEXTS

NOT_ENOUGH = "not enough data"
LEAST = 100
"""Fewer windows are too few for a statement about a rate of a few percent."""
LEAST_EXCERPTS = 20
"""With less held-out text the interval itself is a guess."""
SLIGHT = 0.01
"""A smaller difference of extraction rates is not called memorising, however many windows show it."""
SLIGHT_BITS = 0.02
"""Bits per byte. If the margin may be greater, and may be below 0, there is too little text to tell."""


def verdict_of(figures: Mapping[str, Any]) -> dict[str, str]:
    """{"answer", "opening", "text"}, of which the opening is the beginning of the text.

    The answer is "learned", "memorised", "both", "neither" or "not enough data".
    """
    learned, about_learning = _learned(figures["margin"])
    memorised, about_memory = _memorised(figures["extraction"], figures["gap"]["all"])
    repeats, about_canaries = _canaries(figures["canaries"])
    if repeats:
        memorised = True
    if learned and memorised is None and _held_out_is_easier(figures["extraction"]):
        answer = "learned"
        opening = (
            "Learned: it predicts text that it has not read. Whether it memorised some of its training text cannot be "
            "told here: the held-out text is easier to continue."
        )
    elif learned is None or memorised is None:
        answer = NOT_ENOUGH
        opening = "Not enough data for an answer."
    else:
        answer = {(True, True): "both", (True, False): "learned", (False, True): "memorised"}.get(
            (learned, memorised), "neither"
        )
        opening = {
            "both": "Both: it learned from the text, and it memorised some of it.",
            "learned": "Learned: it predicts text that it has not read, and repeats text that it has read no more "
            "often than could be guessed.",
            "memorised": "Memorised: it repeats text that it has read, and predicts other text no better than a "
            "look-up table of its training text.",
            "neither": "Neither: it predicts text that it has not read no better than a look-up table of its training "
            "text, and does not repeat its training text.",
        }[answer]
    parts = [opening, about_learning, about_memory, about_canaries]
    return {"answer": answer, "opening": opening, "text": " ".join(part for part in parts if part)}


def _learned(margin: Mapping[str, Any] | None) -> tuple[bool | None, str]:
    """Whether the network beats the n-gram model; None if that is uncertain for lack of text."""
    if margin is None:
        return None, "No text is held out, so nothing says what it predicts of text that it has not read."
    found, n, documents = margin["margin"], margin["excerpts"], margin["margin"]["n"]
    low, high = found["interval"] or (-math.inf, math.inf)
    network, ngram = (f"{margin[key]['value']:.3f}" for key in ("network", "ngram"))
    said = (
        f"On {n:,} excerpts of {documents:,} held-out documents it needs {network} bits per byte, and the n-gram "
        f"model, a look-up table of the same training text, {ngram}: a margin of {found['value']:+.3f}{_span(found)}."
    )
    if n < LEAST_EXCERPTS or documents < FEWEST_TEXTS:
        return None, f"{said} So little text is not enough to rely on."
    if low <= 0.0 <= high:
        if high > SLIGHT_BITS:
            return None, f"{said} So little text cannot show which of them is better."
        return False, f"{said} That is no difference that so much text can show."
    return low > 0.0, said


def _memorised(extraction: Mapping[str, Any], gap: Mapping[str, Any] | None) -> tuple[bool | None, str]:
    """Whether training text is extracted more often than held-out text can be guessed; None if that is uncertain."""
    k = extraction["prefix"]
    about_gap = f" {_about_gap(gap)}" if gap else ""
    if k is None:
        most = {
            side: max((found[side]["n"] for found in extraction["by_prefix"].values() if found[side]), default=0)
            for side in ("train", "held_out")
        }
        return None, (
            f"Too few documents are long enough to see whether it repeats its training text: {most['train']:,} "
            f"passages of training text and {most['held_out']:,} of held-out text, of {LEAST} needed.{about_gap}"
        )
    found = extraction["by_prefix"][k]
    train, held_out, difference = found["train"], found["held_out"], found["difference"]
    low, high = difference["interval"]
    said = (
        f"Given {k} tokens of a text that it has read, it writes the next {extraction['continuation']} exactly in "
        f"{format_percent(train['share'])} of {train['n']:,} cases; of text that it has not read in "
        f"{format_percent(held_out['share'])} of {held_out['n']:,}. The difference is {100 * difference['share']:+.1f} "
        f"percentage points ({100 * low:+.1f} to {100 * high:+.1f})."
    )
    if _held_out_is_easier(extraction):
        return None, f"{said} So this held-out text does not say how much could be guessed.{about_gap}"
    memorised = low > 0.0 and difference["share"] >= SLIGHT
    if not memorised and high >= 0.1:
        return None, f"{said} So few windows could hide one of {100 * high:.0f} points.{about_gap}"
    return memorised, f"{said}{about_gap}"


def _held_out_is_easier(extraction: Mapping[str, Any]) -> bool:
    """Whether held-out text is clearly continued more often than training text, and so is no floor."""
    k = extraction["prefix"]
    return k is not None and bool(extraction["by_prefix"][k]["difference"]["interval"][1] < 0.0)


def _about_gap(gap: Mapping[str, Any]) -> str:
    found = gap["gap"]
    low, high = found["interval"] or (-math.inf, math.inf)
    said = f"{abs(found['value']):.3f} bits per byte{_span(found)}"
    if low <= 0.0 <= high:
        return f"Text that it has read and text that it has not cost about the same: a difference of {said}."
    return f"Text that it has read costs it {'less' if high < 0 else 'more'} than text that it has not, by {said}."


def _span(found: Mapping[str, Any]) -> str:
    return "" if found["interval"] is None else " ({:+.3f} to {:+.3f})".format(*found["interval"])


def _canaries(canaries: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether canaries are clearly extracted more often than those that were never planted."""
    if canaries is None or not canaries["by_copies"]:
        return False, ""
    floor, *planted = canaries["by_copies"]
    most = planted[-1]
    highest = floor["extraction"]["interval"][1]
    clear = list(takewhile(lambda row: row["extraction"]["interval"][0] > highest, reversed(planted)))
    first = clear[-1] if clear else None
    shares = [format_percent(row["extraction"]["share"]) for row in (most, floor)]
    said = (
        f"Of the canaries (made-up texts) that were planted {most['copies']:,} times {shares[0]} are extracted, of "
        f"those never planted {shares[1]}."
    )
    if first is None:
        return False, f"{said} At no number of copies is the difference clear."
    times = first["copies"] * canaries["passes"]
    return (
        True,
        f"{said} From {first['copies']:,} copies on, which it read {times:,.0f} times, the difference is clear.",
    )
