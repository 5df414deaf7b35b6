"""Facts that are taught but not scored: continents, calendar, animals, plurals, and more."""

from collections.abc import Sequence
from functools import cache

from parakeet.data.synthetic import facts as tables
from parakeet.data.synthetic.phrasing import phrases, sentence_case
from parakeet.data.synthetic.scored_tasks import Fact

_CONTINENT = phrases("""
    Which continent is {x} in? | What continent is {x} in? | On which continent is {x}? | In which continent is {x}?
    Where is {x}? | Where is {x} located? | In what continent is {x}? | What part of the world is {x} in?
    Do you know where {x} is? | Where can I find {x}?
""")
_SOUND = phrases("""
    What does {x} say? | What sound does {x} make? | Which sound does {x} make? | What noise does {x} make?
    How does {x} sound? | What is the sound of {x}? | What does {x} sound like? | Make the sound of {x}.
""")
_LEGS = phrases("""
    How many legs does {x} have? | How many legs has {x}? | How many legs does {x} have in total?
    Number of legs of {x}? | How many feet does {x} have? | Tell me how many legs {x} has.
""")
_PLURAL = phrases("""
    What is the plural of {x}? | What's the plural of {x}? | Plural of {x} | What is the plural form of {x}?
    Tell me the plural of {x}. | Give me the plural of {x}. | One {x}, two what? | The plural of {x}?
""")
_AFTER = phrases("""
    What {u} comes after {x}? | Which {u} comes after {x}? | Which {u} is after {x}? | What comes after {x}?
    What {u} follows {x}? | What is the {u} after {x}? | What {u} is next after {x}? | What is after {x}?
""")
_BEFORE = phrases("""
    What {u} comes before {x}? | Which {u} comes before {x}? | Which {u} is before {x}? | What comes before {x}?
    What is the {u} before {x}? | What is before {x}?
""")


def _made(key: str, phrasings: Sequence[str], answer: str, follow_ups: Sequence[str] = (), **slots: object) -> Fact:
    questions, short = (
        tuple(sentence_case(text.format(**slots)) for text in texts) for texts in (phrasings, follow_ups)
    )
    return Fact(key, questions, short or questions[:2], answer)


def _calendar() -> tuple[Fact, ...]:
    made = []
    for unit, names in (("day", tables.DAYS), ("month", tables.MONTHS)):
        for one, following in zip(names, names[1:] + names[:1], strict=True):
            made.append(_made(one, _AFTER, f"{following} comes after {one}.", u=unit, x=one))
            made.append(_made(following, _BEFORE, f"{one} comes before {following}.", u=unit, x=following))
    return tuple(made)


@cache
def extra_facts() -> tuple[tuple[tuple[Fact, ...], float], ...]:
    """Groups of facts, each with its weight."""
    follow = ("And {x}?", "What about {x}?")
    continents = tuple(
        _made(x, _CONTINENT, f"{sentence_case(x)} is in {y}.", ("And {x}?", "And where is {x}?"), x=x)
        for x, y in tables.CONTINENTS
    )
    sounds = tuple(_made(x, _SOUND, f"{sentence_case(x)} says {y}.", follow, x=x) for x, y in tables.SOUNDS)
    legs = tuple(_made(x, _LEGS, f"{sentence_case(x)} has {y} legs.", follow, x=x) for x, y in tables.LEGS)
    plurals = tuple(_made(x, _PLURAL, f"The plural of {x} is {y}.", ("And of {x}?",), x=x) for x, y in tables.PLURALS)
    general = tuple(
        Fact(
            question,
            (
                f"{sentence_case(question)}?",
                f"Do you know {question}?",
                f"Can you tell me {question}?",
                f"Tell me {question}.",
            ),
            (),
            answer,
        )
        if question.split()[0] in {"how", "what", "where", "who", "why"}
        else Fact(
            question, (f"{sentence_case(question)}{'?' if question.split()[0] in {'is', 'can'} else '.'}",), (), answer
        )
        for question, answer in tables.GENERAL
    )
    return ((continents, 0.1), (sounds, 0.1), (legs, 0.1), (plurals, 0.15), (_calendar(), 0.15), (general, 0.2))
