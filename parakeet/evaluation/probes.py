"""Probes of what no text teaches by heart: to copy, to find what followed before, and to add and subtract."""

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.evaluation.base import Metric, Score, Subject
from parakeet.evaluation.preference import is_best
from parakeet.evaluation.shares import plot_shares, share_cells
from parakeet.formatting import format_percent
from parakeet.intervals import mean_share, share_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

STRINGS = 60
STRING_TOKENS = 16
FILLER_TOKENS = 8
GROUPS, CHOICES = 30, 4
LARGEST_DIGIT, LARGEST_SUM = 9, 18
FEWEST_IDS = 64
"""If fewer ordinary ids occur in the held-out text, the strings are made of all ids that the tokenizer has."""


class Probes(Metric):
    """{"n", "share", "interval", "chance"} each of `copy`, `induction` and `arithmetic`.

    copy: random tokens t1 … t16 stand twice; the mean share of t2 … t16 of the second time that are the likeliest
    token, over `n` strings. induction: the share of strings "… a b … a" after which b is the likeliest token.
    arithmetic: the share of sums and differences such as "3 + 4 = 7" whose answer is likelier than three others, each
    of which is the answer of another of the `n`. Ties are wrong.
    """

    name = "probes"
    version = 1
    since = 4
    title = "Probes: copy, induction, arithmetic"
    introduction = (
        "Copy: random tokens stand twice; which of the second time are predicted? Induction: random tokens, and one of "
        'them again; is the one after it predicted? Arithmetic, as text: is the right answer to "3 + 4 =" likelier '
        "than three others?"
    )
    on_model_card = False
    plot_file = "probes.png"
    plot_title = "Probes"

    def measure(self, subject: Subject) -> dict[str, Any]:
        from parakeet.evaluation.scoring import opening, score_sequences

        begin, ids = opening(subject), _ids_of_strings(subject)
        by_luck = 1 / len(subject.tokenizer.defined_ids())
        copies = [[*begin, *string, *string] for string in _strings("copy", ids, STRING_TOKENS)]
        inductions = [
            [*begin, *string, *string[FILLER_TOKENS : FILLER_TOKENS + 2]]
            for string in _strings("induction", ids, 2 * FILLER_TOKENS + 2)
        ]
        # Of a copy, the first token does not count: nothing says that it begins again.
        found = score_sequences(subject.model, copies + inductions)
        copied = [float(scores.likeliest[1 - STRING_TOKENS :].mean()) for scores in found[:STRINGS]]
        induced = [bool(scores.likeliest[-1]) for scores in found[STRINGS:]]
        return {
            "copy": {**mean_share(copied), "chance": by_luck},
            "induction": {**share_of(induced), "chance": by_luck},
            "arithmetic": {**share_of(_solved(subject, begin)), "chance": 1 / CHOICES},
        }

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        from parakeet.pages import Table

        rows = [(name, *share_cells(found), format_percent(found["chance"])) for name, found in figures.items()]
        return [Table(("probe", "n", "right", "95% interval", "chance"), rows, right=(2, 4))]

    def scores(self, figures: Mapping[str, Any]) -> list[Score]:
        return [
            Score(
                f"{name} (probe)",
                found["share"],
                found["n"],
                "tries",
                tuple(found["interval"]) if found["interval"] else None,
                found["chance"],
            )
            for name, found in figures.items()
        ]

    def plot(self, figures: Mapping[str, Any], palette: "Palette") -> "Figure":
        chance = {name: found["chance"] for name, found in figures.items()}
        return plot_shares(palette, {self.title: figures}, "right, % (dashed: chance)", chance)


def _ids_of_strings(subject: Subject) -> list[int]:
    """The ordinary ids of the held-out text that is measured, ascending: a model knows little of other ids."""
    from parakeet.evaluation.scoring import is_control, read_whole

    chosen = [number for documents in subject.documents.values() for number in documents]
    ids = np.unique(read_whole(subject.held_out, chosen)).astype(np.int64)
    found: list[int] = ids[~is_control(subject.tokenizer)[ids]].tolist()
    return found if len(found) >= FEWEST_IDS else subject.tokenizer.defined_ids()


def _strings(probe: str, ids: list[int], length: int) -> list[list[int]]:
    """STRINGS random strings of so many different ids, the same for the same ids."""
    chosen = random.Random(probe)
    return [chosen.sample(ids, length) for _ in range(STRINGS)]


def arithmetic_items() -> list[tuple[str, int, list[int]]]:
    """Question such as "3 + 4 =", its answer, and the answers to choose from, of as many digits; the same at each call.

    A group of CHOICES questions shares its answers, and each is right once. So whoever only likes some numbers better
    than others is right by chance.
    """
    chosen, asked = random.Random("arithmetic"), set[str]()
    items = []
    for number in range(GROUPS):
        two_digits = number % 3 == 0
        possible = range(LARGEST_DIGIT + 1, LARGEST_SUM + 1) if two_digits else range(LARGEST_DIGIT + 1)
        answers = chosen.sample(possible, CHOICES)
        for answer in answers:
            question = chosen.choice([one for one in _questions(answer) if one not in asked] or _questions(answer))
            asked.add(question)
            items.append((question, answer, answers))
    return items


def _questions(answer: int) -> list[str]:
    """Every sum of two digits and difference of digits with this answer."""
    digits = range(LARGEST_DIGIT + 1)
    sums = [f"{one} + {answer - one} =" for one in digits if answer - one in digits]
    return sums + [f"{one} - {one - answer} =" for one in digits if one - answer in digits]


def _solved(subject: Subject, begin: list[int]) -> Iterator[bool]:
    """Whether each answer is the likeliest of its choices."""
    from parakeet.evaluation.scoring import score_sequences

    items = arithmetic_items()
    texts = [f"{question} {choice}" for question, _, choices in items for choice in choices]
    found = score_sequences(subject.model, [begin + subject.tokenizer.encode(text) for text in texts])
    for number, (_, answer, choices) in enumerate(items):
        scored = [-float(scores.nats.sum()) for scores in found[number * CHOICES : (number + 1) * CHOICES]]
        yield is_best(scored, choices.index(answer))
