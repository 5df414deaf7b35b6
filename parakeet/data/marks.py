"""Combining marks, which Unicode counts to the word that they stand in, and which `\\w` of `re` does not."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

MOST_MARKS = 30
"""Of Unicode's stream-safe format (UAX 15): no text of any language has more of them on one letter."""
GRAPHEME_JOINER = "\u034f"
SUPPLEMENTARY = "\U000101fd-\U0001e94a"
"""Holds the marks above U+FFFF, and no emoji. `re` looks up a character in a class at once only if the class has few
ranges above U+FFFF; with all of them it reads 6 MB/s."""
_BASIC = range(0x300, 0x10000)
_SELECTORS = range(0xFE00, 0xFE10)
"""Variation selectors choose a picture, most often that of an emoji, and are no part of a word."""


@cache
def word_marks() -> tuple[str, str]:
    """Expressions for a mark (Mn or Mc) that is no variation selector, and for that or some rare letters: 200 MB/s."""
    return _expressions(
        lambda character: unicodedata.category(character) in ("Mn", "Mc") and ord(character) not in _SELECTORS
    )


def stream_safe(text: str) -> str:
    """The text with a U+034F after every 30 marks on one letter; text of any language has none to put in.

    Normalisation sorts the marks of a letter by insertion: for a million of them it would take hours, in C code that
    Ctrl-C does not end.
    """
    if text.isascii():
        return text
    too_many, possibly = _too_many_marks()
    return too_many.sub(rf"\1{GRAPHEME_JOINER}", text) if possibly.search(text) else text


@cache
def _too_many_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    mark, perhaps = _expressions(lambda character: unicodedata.combining(character) > 0)
    return re.compile(f"({mark}{{{MOST_MARKS}}})(?={mark})"), re.compile(f"{perhaps}{{{MOST_MARKS + 1}}}")


def _expressions(chosen: Callable[[str], bool]) -> tuple[str, str]:
    """For the characters for which `chosen` is true, and for those below U+10000 with all of `SUPPLEMENTARY`."""
    first, last = (ord(character) for character in SUPPLEMENTARY.split("-"))
    basic = "".join(filter(chosen, map(chr, _BASIC)))
    supplementary = "".join(filter(chosen, map(chr, range(first, last + 1))))
    return f"(?:[{basic}]|(?=[{SUPPLEMENTARY}])[{supplementary}])", f"[{basic}{SUPPLEMENTARY}]"
