"""Exercises beside the scored facts, so that rules are learnt: larger sums, products, and made-up words to spell."""

from collections.abc import Callable
from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.phrasing import exchange, phrases, pick, pick_weighted
from parakeet.data.synthetic.scored_tasks import LARGEST_OPERAND, Fact, Split, addition, spelling, subtraction
from parakeet.data.synthetic.unknowns import made_up_word

Turns = tuple[Turn, ...]
Draw = Callable[[Random], Fact]

LARGEST_DRILLED = 99
LARGEST_FACTOR = 10
LONGEST_DRILLED_WORD = 8
MOST_AT_ONCE = 7

_LISTS = phrases("{x} | {x} | What is {x}? | Work out {x}. | Calculate {x} | Solve {x}. | Sums: {x}")
_TIMES = phrases("""
    What is {a} times {b}? | {a} times {b} | {a}*{b} | {a} * {b} | {a} x {b} | What is {a} x {b}?
    What's {a} times {b}?
    Multiply {a} by {b}. | How much is {a} times {b}? | {a}x{b} | Calculate {a} * {b}. | whats {a}*{b}
""")


def drills(arithmetic: Split) -> Callable[[Random], Turns]:
    """A family of exercises. Of the scored sums it uses those of the training split only."""

    def draw(rng: Random) -> Turns:
        kind = rng.random()
        if kind < 0.3:
            return _chain(rng, _word)
        if kind < 0.4:
            return _chain(rng, _product)
        if kind < 0.55:
            return _chain(rng, _large_sum)
        return _list(rng, lambda r: pick(r, arithmetic.training) if r.random() < 0.6 else _large_sum(r))

    return draw


def _chain(rng: Random, one: Draw) -> Turns:
    """One to four exercises, the later ones as follow-ups."""
    fact = one(rng)
    turns = exchange(pick(rng, fact.questions + fact.casual), fact.answer)
    for _ in range(int(rng.random() * 4)):
        fact = one(rng)
        turns += exchange(pick(rng, fact.follow_ups), fact.answer)
    return turns


def _list(rng: Random, one: Draw) -> Turns:
    """Several sums in one turn. They cost half the tokens of single questions, and a rule needs many examples."""
    answers = [one(rng).answer.rstrip(".") for _ in range(2 + int(rng.random() * (MOST_AT_ONCE - 1)))]
    asked = ", ".join(answer.partition("=")[0] for answer in answers)
    return exchange(pick(rng, _LISTS).format(x=asked), ", ".join(answers) + ".")


def _word(rng: Random) -> Fact:
    while True:
        word = made_up_word(rng, 1 + int(rng.random() * 2))
        if 3 <= len(word) <= LONGEST_DRILLED_WORD:
            return spelling(word)


def _product(rng: Random) -> Fact:
    a, b = (int(rng.random() * (LARGEST_FACTOR + 1)) for _ in range(2))
    questions = tuple(text.format(a=a, b=b) for text in _TIMES)
    return Fact(f"{a} * {b}", questions, (f"And {a} times {b}?", f"{a}*{b}", f"{a} times {b}?"), f"{a}*{b}={a * b}.")


def _large_sum(rng: Random) -> Fact:
    """A sum or difference of which at least one number is too large to be scored."""
    large = LARGEST_OPERAND + 1 + int(rng.random() * (LARGEST_DRILLED - LARGEST_OPERAND))
    other = int(rng.random() * (1 + pick_weighted(rng, ((LARGEST_OPERAND, 0.5), (LARGEST_DRILLED, 0.5)))))
    a, b = (large, other) if rng.random() < 0.5 else (other, large)
    return addition(a, b) if rng.random() < 0.6 else subtraction(max(a, b), min(a, b))
