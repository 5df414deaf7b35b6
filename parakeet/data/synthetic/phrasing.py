"""Seeded choice, English articles, and the frame (opener, question, closer) around every question."""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import TypeVar

T = TypeVar("T")

OPENERS: tuple[str, ...] = (
    "",
    "Hi!",
    "Hello!",
    "Hello, Parakeet.",
    "Good morning!",
    "Good evening!",
    "Excuse me.",
    "I have a question.",
    "Quick question:",
    "Next question:",
    "Parakeet,",
    "OK,",
    "So,",
)
CLOSERS: tuple[str, ...] = (
    "",
    "Thanks!",
    "Thank you.",
    "Be brief, please.",
    "I need it for school.",
    "I am in a hurry.",
)
FRAMES: tuple[tuple[str, str], ...] = tuple(product(OPENERS, CLOSERS))

# Most questions of real users come bare.
OPENER_SHARE = 0.55
CLOSER_SHARE = 0.35


def pick(rng: Random, choices: Sequence[T]) -> T:
    """One of `choices`, uniformly.

    Built on `Random.random` alone: it is the one method whose sequence Python promises to keep across versions.
    """
    return choices[int(rng.random() * len(choices))]


def pick_weighted(rng: Random, choices: Sequence[tuple[T, float]]) -> T:
    """One of the first members of `choices`, by the weights (of any sum) in the second."""
    left = rng.random() * sum(weight for _, weight in choices)
    for choice, weight in choices:
        left -= weight
        if left < 0:
            return choice
    return choices[-1][0]


def with_article(noun_phrase: str) -> str:
    """ "fox" to "a fox", "old fox" to "an old fox". Goes by the letter: keep "hour" and "unicorn" out of the tables."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def sentence_case(text: str) -> str:
    """The first letter upper case, the rest as it stands."""
    return text[:1].upper() + text[1:]


def framed(question: str, frame: tuple[str, str]) -> str:
    """The question within its opener and closer. After a colon or comma it goes on in lower case, but for "I"."""
    opener, closer = frame
    if opener.endswith((":", ",")) and not question.startswith("I "):
        question = question[:1].lower() + question[1:]
    return " ".join(part for part in (opener, question, closer) if part)


def pick_frame(rng: Random) -> tuple[str, str]:
    """An opener and a closer, each of them often empty."""
    opener = pick(rng, OPENERS[1:]) if rng.random() < OPENER_SHARE else ""
    closer = pick(rng, CLOSERS[1:]) if rng.random() < CLOSER_SHARE else ""
    return opener, closer
