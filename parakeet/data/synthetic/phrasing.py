"""Seeded choice, English articles, and the frame (opener and closer) around every question."""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import TypeVar

from parakeet.conversation import Turn

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

# Most real questions come without them.
OPENER_SHARE = 0.25
CLOSER_SHARE = 0.12


def phrases(table: str) -> tuple[str, ...]:
    """The phrases of a table, separated by bars or line ends."""
    return tuple(phrase.strip() for line in table.strip().splitlines() for phrase in line.split(" | "))


def pick(rng: Random, choices: Sequence[T]) -> T:
    """One of `choices`, uniformly.

    Only `Random.random` is used, because Python promises to keep its sequence across versions, and no other method's.
    """
    return choices[int(rng.random() * len(choices))]


def pick_weighted(rng: Random, choices: Sequence[tuple[T, float]]) -> T:
    """The first member of one of `choices`, drawn by the weights in the second. Weights may have any sum."""
    left = rng.random() * sum(weight for _, weight in choices)
    for choice, weight in choices:
        left -= weight
        if left < 0:
            return choice
    return choices[-1][0]


def with_article(noun_phrase: str) -> str:
    """ "fox" to "a fox", "old fox" to "an old fox".

    Only the letter counts, so "hour" and "unicorn" must stay out of the tables.
    """
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def sentence_case(text: str) -> str:
    """The first letter in upper case, the rest unchanged."""
    return text[:1].upper() + text[1:]


def framed(question: str, frame: tuple[str, str]) -> str:
    """The question between its opener and closer. After a colon or comma it begins in lower case, except for "I"."""
    opener, closer = frame
    if opener.endswith((":", ",")) and not question.startswith("I "):
        question = question[:1].lower() + question[1:]
    return " ".join(part for part in (opener, question, closer) if part)


def pick_frame(rng: Random) -> tuple[str, str]:
    """An opener and a closer; each is often empty."""
    opener = pick(rng, OPENERS[1:]) if rng.random() < OPENER_SHARE else ""
    closer = pick(rng, CLOSERS[1:]) if rng.random() < CLOSER_SHARE else ""
    return opener, closer


def exchange(prompt: str, answer: str) -> tuple[Turn, ...]:
    """A Human turn and the Assistant's reply."""
    return Turn("Human", prompt), Turn("Assistant", answer)
