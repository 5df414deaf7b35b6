"""The six scored tasks: every fact, every way to ask for it, and which questions are held out.

Whether a question is held out depends only on the question, never on a count or an order. In four tasks (capitals,
colours, opposites, counting) some phrasings of every fact are held out, and the fact is taught in other words. In
arithmetic and spelling, whole operands and words are held out in every phrasing. These two show how little a tiny model
generalises: after 0.8 to 0.9 M tokens, models of 3 M parameters got 14 to 58 % of the sums right and none of the words.
Counting with whole ranges held out reached 57 %, because where to stop is learned last.

A question must not be part of another question, or a held-out question would occur in a training turn. So each phrasing
has a word before its slot and a stop or question mark after it: "7 plus 5 is what?" would be part of "17 plus 5 is
what?".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b

from parakeet.data.synthetic.facts import (
    ANIMALS,
    CAPITALS,
    COLOURS,
    NUMBER_WORDS,
    OBJECTS,
    OPPOSITES,
    SPELLING_WORDS,
)
from parakeet.data.synthetic.phrasing import phrases, sentence_case
from parakeet.data.synthetic.sayings import sayings, unlike

# With numbers up to 20, in runs of up to 10 (20 from 1), held-out counting fell from 98 % to about 91 %.
LARGEST_COUNT = 12
SHORTEST_COUNT = 3
LONGEST_COUNT = 8
LARGEST_COUNT_FROM_ONE = 20
LARGEST_OPERAND = 20
LONGEST_SPELT_WORD = 9

_CAPITAL_PHRASINGS = (
    "What is the capital of {x}?",
    "What's the capital of {x}?",
    "Which city is the capital of {x}?",
    "What city is the capital of {x}?",
    "What is the capital city of {x}?",
    "Which capital does {x} have?",
    "What is the name of the capital of {x}?",
    "What do you call the capital of {x}?",
    "Name the capital of {x}.",
    "Name the capital city of {x}.",
    "Tell me the capital of {x}.",
    "Tell me the name of the capital of {x}.",
    "Give me the capital of {x}.",
    "Say the capital of {x}.",
    "Do you know the capital of {x}?",
    "Do you know which city {x} has for a capital?",
    "Can you tell me the capital of {x}?",
    "Can you name the capital of {x}?",
    "Could you give me the capital of {x}?",
    "I need the capital of {x}.",
    "I want to know the capital of {x}.",
    "I am looking for the capital of {x}.",
    "I would like to know the capital city of {x}.",
    "I forgot the capital of {x}.",
)
_COLOUR_PHRASINGS = (
    "What colour is {x}?",
    "What color is {x}?",
    "Which colour is {x}?",
    "Which color is {x}?",
    "What is the colour of {x}?",
    "What colour would you say {x} is?",
    "What colour would you paint {x}?",
    "Which colour would you paint {x}?",
    "Which colour do I need to draw {x}?",
    "Name the colour of {x}.",
    "Tell me the colour of {x}.",
    "Tell me what colour {x} is.",
    "Give me the colour of {x}.",
    "Say what colour {x} is.",
    "Do you know the colour of {x}?",
    "Do you know what colour {x} is?",
    "Can you tell me the colour of {x}?",
    "Can you tell me what colour {x} is?",
    "Could you say what colour {x} is?",
    "I need the colour of {x}.",
    "I want to know the colour of {x}.",
    "I want to know what colour {x} is.",
    "I wonder what colour {x} is.",
    "I forgot the colour of {x}.",
)
_OPPOSITE_PHRASINGS = (
    "What is the opposite of {x}?",
    "What's the opposite of {x}?",
    "Which word is the opposite of {x}?",
    "What word is the opposite of {x}?",
    "Which word means the opposite of {x}?",
    "What do you call the opposite of {x}?",
    "What would be the opposite of {x}?",
    "Name the opposite of {x}.",
    "Tell me the opposite of {x}.",
    "Give me the opposite of {x}.",
    "Say the opposite of {x}.",
    "Find the opposite of {x}.",
    "Do you know the opposite of {x}?",
    "Can you tell me the opposite of {x}?",
    "Could you give me the opposite of {x}?",
    "I need the opposite of {x}.",
    "I want to know the opposite of {x}.",
    "I am looking for the opposite of {x}.",
    "I would like the opposite of {x}.",
    "I forgot the opposite of {x}.",
)
_COUNT_UP_PHRASINGS = (
    "Count from {a} to {b}.",
    "Count up from {a} to {b}.",
    "I want you to count, from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "Could you count up from {a} to {b}?",
    "Can you count for me from {a} to {b}?",
    "Write the numbers from {a} to {b}.",
    "List the numbers from {a} to {b}.",
    "Give me the numbers from {a} to {b}.",
    "What are the numbers from {a} to {b}?",
    "I need the numbers from {a} to {b}.",
)
_COUNT_FROM_ONE_PHRASINGS = (
    "Count to {b}.",
    "Count up to {b}.",
    "Can you count to {b}?",
    "Could you count up to {b}?",
)
_COUNT_DOWN_PHRASINGS = (
    "Count down from {a} to {b}.",
    "Count backwards from {a} to {b}.",
    "I want you to count down, from {a} to {b}.",
    "Can you count down from {a} to {b}?",
    "Could you count backwards from {a} to {b}?",
    "Write the numbers backwards from {a} to {b}.",
    "List the numbers down from {a} to {b}.",
    "Give me the numbers backwards from {a} to {b}.",
    "I need the numbers down from {a} to {b}.",
)
_ADDITION_PHRASINGS = (
    "What is {a} plus {b}?",
    "What's {a} plus {b}?",
    "How much is {a} plus {b}?",
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "Work out {a} plus {b}.",
    "Calculate {a} + {b}.",
    "Can you add {a} and {b}?",
    "What is the sum of {a} and {b}?",
    "Tell me what {a} plus {b} is.",
    "Do you know what {a} plus {b} is?",
)
_SUBTRACTION_PHRASINGS = (
    "What is {a} minus {b}?",
    "What's {a} minus {b}?",
    "How much is {a} minus {b}?",
    "What is {a} - {b}?",
    "Work out {a} minus {b}.",
    "Calculate {a} - {b}.",
    "Can you work out {a} minus {b}?",
    "What is left of {a} without {b}?",
    "Tell me what {a} minus {b} is.",
    "Do you know what {a} minus {b} is?",
)
_SPELLING_PHRASINGS = (
    "Spell {x}.",
    "Spell the word {x}.",
    "Spell out {x}.",
    "I want to spell {x}.",
    "How do you spell {x}?",
    "How do I spell {x}?",
    "How is {x} spelt?",
    "Can you spell {x}?",
    "Could you spell the word {x}?",
    "What is the spelling of {x}?",
    "Give me the spelling of {x}.",
    "Write {x} letter by letter.",
)
_CAPITAL_CASUAL = phrases("""
    Capital of {x} | {x} capital | Whats the capital of {x} | Capital city of {x}? | The capital of {x}?
    {x}'s capital?
""") + unlike(sayings("capital"), _CAPITAL_PHRASINGS)
_COLOUR_CASUAL = phrases("""
    Colour of {x} | Color of {x}? | Whats the colour of {x} | What is the color of {x} | What's the color of {x}?
    {x} colour | {x} is what colour?
""") + unlike(sayings("colour"), _COLOUR_PHRASINGS)
_OPPOSITE_CASUAL = phrases("""
    Opposite of {x} | The opposite of {x}? | Whats the opposite of {x} | {x} opposite | Whats opposite of {x}
    Antonym of {x}
""") + unlike(sayings("opposite"), _OPPOSITE_PHRASINGS)
_COUNT_CASUAL = phrases("""
    Count {a} to {b} | Count from {a} till {b} | Count {a}-{b} | {a} to {b} | Pls count from {a} up to {b}
    Numbers from {a} to {b}
""") + unlike(sayings("count_range"), _COUNT_UP_PHRASINGS)
_COUNT_FROM_ONE_CASUAL = phrases("""
    Count till {b} | Count to {b} for me | Please count to {b} | Count until {b} | Count to {b} now | Count to {B}
    Count to {B}. | Can you count to {B}? | Please count to {B}
""") + tuple(said.replace("{b}", number) for said in sayings("count_to") for number in ("{b}", "{B}"))
_COUNT_DOWN_CASUAL = phrases("""
    Count down {a} to {b} | Count backwards {a} to {b} | Countdown from {a} to {b} | Count back from {a} to {b}
""") + unlike(sayings("count_down"), _COUNT_DOWN_PHRASINGS)
_COUNT_DOWN_TO_ONE_CASUAL = phrases("""
    Count down from {a} | Count backwards from {a} | Countdown from {a} | Count down from {a} please
""") + sayings("count_down_from")
_ADDITION_CASUAL = phrases("""
    {a}+{b} | {a} + {b} | {a}+{b}= | {a} + {b} = | {a} + {b} = ? | {a}+{b}=? | {a}+{b}? | {a} plus {b} | {a} plus {b}?
    What is {a}+{b} | Whats {a}+{b} | What's {a}+{b}? | How much is {a}+{b} | {a} and {b} | {a} and {b} make?
    {a} add {b} | Solve {a} + {b} | Calculate {a}+{b} | What does {a} + {b} equal | {a} + {b} equals
    Can you do {a}+{b} | How much is {a} + {b} | Sum of {a} and {b}
    I have {a} apples and get {b} more, how many do I have?
""") + sayings("add")
_SUBTRACTION_CASUAL = phrases("""
    {a}-{b} | {a} - {b} | {a}-{b}= | {a} - {b} = | {a} - {b} = ? | {a}-{b}=? | {a}-{b}? | {a} minus {b}
    {a} minus {b}? | What is {a}-{b} | Whats {a}-{b} | What's {a}-{b}? | How much is {a}-{b} | {a} take away {b}
    Take {b} from {a}. | Subtract {b} from {a} | Solve {a} - {b} | Calculate {a}-{b} | What does {a} - {b} equal
    {a} - {b} equals | Can you do {a}-{b} | How much is {a} - {b} | {a} less {b}
    I have {a} apples and eat {b}, how many are left?
""") + sayings("subtract")
_ADDITION_IN_WORDS = phrases("""
    {A} plus {B} | What is {A} plus {B}? | Whats {A} plus {B} | {A} and {B} | How much is {A} plus {B}? | {A} + {B}
""") + sayings("add_words")
_SUBTRACTION_IN_WORDS = phrases("""
    {A} minus {B} | What is {A} minus {B}? | Whats {A} minus {B} | {A} take away {B} | How much is {A} minus {B}?
    {A} - {B} | Take {B} from {A} | {A} less {B} | Wat is {A} minus {B}
""")
_SPELLING_CASUAL = phrases("""
    {x} spelling | Spelling of {x} | How to spell {x} | How do u spell {x} | How do you write {x}?
    Whats the spelling of {x} | Spell: {x} | How is {x} spelled? | Letters of {x} | Spell "{x}"
    What are the letters of {x}? | Spell {X} | How is {x} written?
""") + sayings("spell")


@dataclass(frozen=True)
class Fact:
    """One answer and every question that it answers.

    `key` is the unit of the split: facts with one key (7 + 5 and 5 + 7) are held out together. `follow_ups` are short
    forms that make sense only after another question of the task ("And of Spain?"). `casual` are hurried forms ("7+5"),
    which are never held out: they could be part of another question. `steps` are the keys of the facts that the answer
    states on its way.
    """

    key: str
    questions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    answer: str
    casual: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredTask:
    """One of the two numbers says how much is held out: phrasings of each fact, or whole keys."""

    name: str
    facts: tuple[Fact, ...]
    held_out_phrasings: int = 0
    held_out_keys: int = 0


@dataclass(frozen=True)
class Split:
    """A task divided into facts to train on, with the questions allowed in training, and held-out questions."""

    training: tuple[Fact, ...]
    held_out: tuple[tuple[Fact, str], ...]


def _fact(
    key: str, phrasings: Sequence[str], follow_ups: Sequence[str], casual: Sequence[str], answer: str, **slots: object
) -> Fact:
    """The fact whose questions are these phrasings with their slots filled in."""
    questions, short, hurried = (
        tuple(sentence_case(text.format(**slots)) for text in texts) for texts in (phrasings, follow_ups, casual)
    )
    return Fact(key, questions, short, answer, hurried)


def _capital(country: str, city: str) -> Fact:
    follow_ups = phrases("""
        And of {x}? | And the capital of {x}? | What about {x}? | And {x}? | {x}? | And for {x}? | No, of {x}.
        No, {x}. | I meant {x}. | No, I meant {x}. | How about {x}? | Now {x}.
    """)
    return _fact(
        country,
        _CAPITAL_PHRASINGS,
        follow_ups + sayings("capital_follow"),
        _CAPITAL_CASUAL,
        f"The capital of {country} is {city}.",
        x=country,
    )


def _colour(thing: str, colour: str) -> Fact:
    follow_ups = phrases("""
        And {x}? | And what about {x}? | What about {x}? | {x}? | No, {x}. | I meant {x}. | How about {x}?
        And of {x}?
    """)
    return _fact(
        thing,
        _COLOUR_PHRASINGS,
        follow_ups + sayings("colour_follow"),
        _COLOUR_CASUAL,
        f"{sentence_case(thing)} is {colour}.",
        x=thing,
    )


def _opposite(word: str, other: str) -> Fact:
    follow_ups = phrases("""
        And of {x}? | And the opposite of {x}? | What about {x}? | And {x}? | {x}? | No, of {x}. | I meant {x}.
        Now {x}.
    """)
    return _fact(
        word,
        _OPPOSITE_PHRASINGS,
        follow_ups + sayings("opposite_follow"),
        _OPPOSITE_CASUAL,
        f"The opposite of {word} is {other}.",
        x=word,
    )


def _count(first: int, last: int) -> Fact:
    step = 1 if first < last else -1
    if step == 1:
        from_one = first == 1
        phrasings = _COUNT_UP_PHRASINGS + (_COUNT_FROM_ONE_PHRASINGS if from_one else ())
        casual = _COUNT_CASUAL + (_COUNT_FROM_ONE_CASUAL if from_one else ())
        follow_ups: tuple[str, ...] = (
            "And from {a} to {b}?",
            "Now from {a} to {b}.",
            "And {a} to {b}?",
            "No, from {a} to {b}.",
        )
    else:
        phrasings = _COUNT_DOWN_PHRASINGS
        casual = _COUNT_DOWN_CASUAL + (_COUNT_DOWN_TO_ONE_CASUAL if last == 1 else ())
        follow_ups = ("And down from {a} to {b}?", "Now backwards from {a} to {b}.")
    answer = ", ".join(map(str, range(first, last + step, step))) + "."
    return _fact(f"{first} to {last}", phrasings, follow_ups, casual, answer, a=first, b=last, B=NUMBER_WORDS[last])


def _counting() -> tuple[Fact, ...]:
    pairs = [
        (low, high)
        for low in range(LARGEST_COUNT + 1)
        for high in range(low + SHORTEST_COUNT - 1, LARGEST_COUNT + 1)
        if high - low < LONGEST_COUNT or low == 1
    ]
    # "Count to 20." is what people say.
    up = [*pairs, *((1, high) for high in range(LARGEST_COUNT + 1, LARGEST_COUNT_FROM_ONE + 1))]
    return tuple(_count(low, high) for low, high in up) + tuple(_count(high, low) for low, high in pairs)


def _sum_key(a: int, b: int) -> str:
    return f"{min(a, b)} + {max(a, b)}"


def sum_members(a: int, b: int) -> list[tuple[int, int]]:
    """3 + 5 to (3, 5), (5, 3), (6, 2), (7, 1): the larger number first, a ten moved at once, then ones.

    Each member differs from the one before it by what is easy to learn: an exchange, or one more and one less. The bare
    result of a sum would have to be known by heart (docs/experiments.md).
    """
    members = [(a, b)]
    if b > a > 0:
        members.append((b, a))
    return members + _moved(max(a, b), min(a, b), 1)


def difference_members(a: int, b: int) -> list[tuple[int, int]]:
    """12 - 3 to (12, 3), (11, 2), (10, 1): a ten taken from both at once, then ones. `b` is at most `a`."""
    return [(a, b), *_moved(a, b, -1)]


def _moved(first: int, second: int, sign: int) -> list[tuple[int, int]]:
    """What follows while a ten or a one of `second` is moved to `first`, down to one of 1."""
    members = []
    while second > 1:
        step = 10 if second >= 10 else 1
        first, second = first + sign * step, second - step
        if second:
            members.append((first, second))
    return members


def _worked(members: Sequence[tuple[int, int]], sign: str, result: int) -> str:
    """`3+5=5+3=6+2=7+1=8.`"""
    return "=".join([*(f"{one}{sign}{other}" for one, other in members), str(result)]) + "."


def addition(a: int, b: int) -> Fact:
    """a + b in every form. 7 + 5 and 5 + 7 have one key."""
    follow_ups = phrases("""
        And {a} plus {b}? | What about {a} plus {b}? | {a}+{b} | And {a}+{b}? | {a} plus {b}? | Now {a} + {b}.
        {a} + {b}
    """) + sayings("sum_follow")
    casual = _ADDITION_CASUAL + _ADDITION_IN_WORDS
    words = {"A": NUMBER_WORDS[a], "B": NUMBER_WORDS[b]}
    members = sum_members(a, b)
    fact = _fact(
        _sum_key(a, b), _ADDITION_PHRASINGS, follow_ups, casual, _worked(members, "+", a + b), a=a, b=b, **words
    )
    return replace(fact, steps=tuple(_sum_key(*member) for member in members[1:]))


def subtraction(a: int, b: int) -> Fact:
    """a - b in every form."""
    follow_ups = phrases("""
        And {a} minus {b}? | What about {a} minus {b}? | {a}-{b} | And {a}-{b}? | {a} minus {b}? | Now {a} - {b}.
        {a} - {b}
    """)
    members = difference_members(a, b)
    answer = _worked(members, "-", a - b)
    casual = _SUBTRACTION_CASUAL + _SUBTRACTION_IN_WORDS
    words = {"A": NUMBER_WORDS[a], "B": NUMBER_WORDS[b]}
    fact = _fact(f"{a} - {b}", _SUBTRACTION_PHRASINGS, follow_ups, casual, answer, a=a, b=b, **words)
    return replace(fact, steps=tuple(f"{one} - {other}" for one, other in members[1:]))


def _arithmetic() -> tuple[Fact, ...]:
    operands = range(LARGEST_OPERAND + 1)
    sums = tuple(addition(a, b) for a in operands for b in operands)
    return sums + tuple(subtraction(a, b) for a in operands for b in range(a + 1))


def spelling(word: str) -> Fact:
    """How a word is spelt, letter by letter, in lower case."""
    return _fact(
        word,
        _SPELLING_PHRASINGS,
        phrases("""
        And {x}? | And the word {x}? | {x}? | Now {x}. | What about {x}?
    """)
        + sayings("spell_follow"),
        _SPELLING_CASUAL,
        "-".join(word) + ".",
        x=word,
        X=sentence_case(word),
    )


def spelt_words() -> tuple[str, ...]:
    """The words of the spelling task, each once: those of the other tasks, and many that occur nowhere else."""
    opposites = (word for pair in OPPOSITES for word in pair)
    colours = (colour for _, colour in COLOURS)
    things = (thing.rsplit(" ", 1)[-1] for thing, _ in COLOURS)
    words = dict.fromkeys((*ANIMALS, *OBJECTS, *colours, *things, *opposites, *SPELLING_WORDS))
    return tuple(word for word in words if 3 <= len(word) <= LONGEST_SPELT_WORD)


@cache
def scored_tasks() -> tuple[ScoredTask, ...]:
    """The six tasks in their order, before any split."""
    opposites = OPPOSITES + tuple((second, first) for first, second in OPPOSITES)
    return (
        ScoredTask("capitals", tuple(_capital(*row) for row in CAPITALS), held_out_phrasings=4),
        ScoredTask("colours", tuple(_colour(*row) for row in COLOURS), held_out_phrasings=5),
        ScoredTask("opposites", tuple(_opposite(*row) for row in opposites), held_out_phrasings=3),
        ScoredTask("counting", _counting(), held_out_phrasings=2),
        ScoredTask("arithmetic", _arithmetic(), held_out_keys=40),
        ScoredTask("spelling", tuple(spelling(word) for word in spelt_words()), held_out_keys=40),
    )


def rank(seed: int, *parts: str) -> bytes:
    """A pseudo-random sort key for the thing named by `parts` (BLAKE2b, 16 bytes), the same in every process."""
    return blake2b("\x1f".join((str(seed), *parts)).encode(), digest_size=16).digest()


def _held_out_keys(task: ScoredTask, seed: int) -> set[str]:
    """At most `held_out_keys` keys, with those of all facts whose answer states one of them on its way."""
    through: dict[str, set[str]] = {fact.key: set() for fact in task.facts}
    for fact in task.facts:
        for step in fact.steps:
            through.setdefault(step, set()).add(fact.key)
    chosen: set[str] = set()
    for key in sorted({fact.key for fact in task.facts}, key=lambda key: rank(seed, task.name, key)):
        more = chosen | {key} | through[key]
        if len(more) <= task.held_out_keys:
            chosen = more
    return chosen


def split_task(task: ScoredTask, seed: int) -> Split:
    """Hold out the keys or phrasings of lowest rank, so that every seed holds out about equally many.

    Phrasings are ranked within their fact, which leaves every fact the same number of training phrasings.
    """
    held_out_keys = _held_out_keys(task, seed)
    training: list[Fact] = []
    held_out: list[tuple[Fact, str]] = []
    for fact in task.facts:
        if fact.key in held_out_keys:
            held_out += [(fact, question) for question in fact.questions]
            continue
        ranked = sorted(fact.questions, key=lambda question: rank(seed, task.name, fact.key, question))
        held_out += [(fact, question) for question in ranked[: task.held_out_phrasings]]
        training.append(replace(fact, questions=tuple(ranked[task.held_out_phrasings :])))
    return Split(tuple(training), tuple(held_out))
