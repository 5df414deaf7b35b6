"""What people type to a small chat program, about 3,800 lines by what they want (`sayings.txt`).

Four writers who had read nothing of Parakeet wrote them, so the wording is not one author's. A generator that only
knows its author's phrases teaches a model that understands nobody else (docs/experiments.md).
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def _all_sayings() -> dict[str, tuple[str, ...]]:
    sayings: dict[str, tuple[str, ...]] = {}
    for block in Path(__file__).with_name("sayings.txt").read_text("utf-8").strip().split("\n\n"):
        heading, *lines = block.splitlines()
        sayings[heading.strip("[]")] = tuple(lines)
    return sayings


def sayings(intent: str) -> tuple[str, ...]:
    """The lines under `[intent]`. Some have slots ("{x}")."""
    return _all_sayings()[intent]


def unlike(texts: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The texts that contain none of `others`, ignoring case and punctuation.

    A question that may be held out must not occur in training, nor almost.
    """
    plain = [_letters(other) for other in others]
    return tuple(text for text in texts if not any(other in _letters(text) for other in plain))


def _letters(text: str) -> str:
    """The words and slots alone, with a space on either side of each."""
    words = " ".join(re.findall(r"[\w{}]+", text.lower().replace("'", "")))
    return f" {words} "
