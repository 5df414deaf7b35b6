"""Exercises beside the scored facts, so that rules are learnt: lists of sums, and made-up words to spell."""

from collections.abc import Callable
from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.phrasing import exchange, phrases, pick
from parakeet.data.synthetic.scored_tasks import Split, spelling
from parakeet.data.synthetic.unknowns import made_up_word

Turns = tuple[Turn, ...]

LIST_SHARE = 0.35
LONGEST_DRILLED_WORD = 8
MOST_AT_ONCE = 3

_LISTS = phrases("{x} | {x} | What is {x}? | Work out {x}. | Calculate {x} | Solve {x}. | Sums: {x}")


def drills(arithmetic: Split) -> Callable[[Random], Turns]:
    """A family of exercises. The sums are those of the training split."""
    return lambda rng: _list(rng, arithmetic) if rng.random() < LIST_SHARE else _words(rng)


def _list(rng: Random, arithmetic: Split) -> Turns:
    """Several sums in one turn. They cost half the tokens of single questions, and a rule needs many examples."""
    answers = [pick(rng, arithmetic.training).answer.rstrip(".") for _ in range(2 + int(rng.random() * MOST_AT_ONCE))]
    asked = ", ".join(answer.partition("=")[0] for answer in answers)
    return exchange(pick(rng, _LISTS).format(x=asked), ", ".join(answers) + ".")


def _words(rng: Random) -> Turns:
    """One to four words, the later ones as follow-ups."""
    fact = spelling(_word(rng))
    turns = exchange(pick(rng, fact.questions + fact.casual), fact.answer)
    for _ in range(int(rng.random() * 4)):
        fact = spelling(_word(rng))
        turns += exchange(pick(rng, fact.follow_ups), fact.answer)
    return turns


def _word(rng: Random) -> str:
    while True:
        word = made_up_word(rng, 1 + int(rng.random() * 2))
        if 3 <= len(word) <= LONGEST_DRILLED_WORD:
            return word
