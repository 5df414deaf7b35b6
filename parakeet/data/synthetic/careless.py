"""Careless typing: what hurried people do to a well-written sentence.

None of it can turn a sentence into another question of a task: words are only misspelt, shortened or added.
"""

from random import Random

from parakeet.data.synthetic.facts import words
from parakeet.data.synthetic.phrasing import pick

CARELESS_SHARE = 0.5
"""Of dialogues. In such a dialogue, each of these happens to a Human turn with its own probability."""

_LOWER_CASE = 0.8
_NO_APOSTROPHES = 0.7
_NO_END = 0.75
_SHORT_WORDS = 0.25
_TYPO = 0.12
_SUFFIX = 0.1
_PREFIX = 0.06
_DOUBLE_SPACE = 0.04

_SHORT = {"you": "u", "are": "r", "your": "ur", "please": "pls", "thanks": "thx", "okay": "ok", "what": "wat"}
# A question never ends in a full stop: "Could you count to 5..." would hold the held-out question "Count to 5."
_ENDS = {"?": ("??", " ?", "???", "?!"), ".": ("...", "!", "!!"), "!": ("!!", "!!!", " !")}
_SUFFIXES = (" pls", " please", " lol", " thx", " plz", " haha", " :)", " now", " man", " quick")
_PREFIXES = (
    "um ",
    "hey ",
    "so ",
    "ok ",
    "yo ",
    "hi ",
    "hey parakeet ",
    "well ",
    "parakeet ",
    "and ",
    "btw ",
    "please ",
    "pls ",
)
# Words in which a slip of the finger cannot change what is asked. "colour" is not among them: it would become "color".
_TYPABLE = frozenset(words("""
    what which capital opposite count from spell please tell about story think know hello thank thanks
    doing today name your could would write give between letters backwards numbers minus plus much question short
"""))  # fmt: skip


def careless(text: str, rng: Random) -> str:
    """`text` as somebody types it who does not care."""
    if rng.random() < _TYPO:
        text = _with_typo(text, rng)
    if rng.random() < _NO_APOSTROPHES:
        text = text.replace("'", "")
    end = text[-1:]
    if end in _ENDS and len(text) > 1 and rng.random() < _NO_END:
        text = text[:-1] + (pick(rng, _ENDS[end]) if rng.random() < 0.2 else "")
    if rng.random() < _SHORT_WORDS:
        text = " ".join(_SHORT.get(part.lower(), part) for part in text.split(" "))
    if rng.random() < _SUFFIX:
        text = text.rstrip(".") + pick(rng, _SUFFIXES)
    if rng.random() < _PREFIX:
        text = pick(rng, _PREFIXES) + text
    if rng.random() < _DOUBLE_SPACE:
        text = text.replace(" ", "  ", 1)
    text = text.strip()
    return text.lower() if rng.random() < _LOWER_CASE else text


def _with_typo(text: str, rng: Random) -> str:
    """One letter of one common word doubled, dropped, or swapped with the next."""
    parts = text.split(" ")
    places = [place for place, part in enumerate(parts) if part.lower() in _TYPABLE]
    if not places:
        return text
    place = pick(rng, places)
    word = parts[place]
    at = 1 + int(rng.random() * (len(word) - 2))
    doubled, dropped = word[:at] + word[at] + word[at:], word[:at] + word[at + 1 :]
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    parts[place] = pick(rng, (doubled, dropped, swapped))
    return " ".join(parts)
