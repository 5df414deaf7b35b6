"""The families that are not scored: small talk, names, jokes, poems, tiny stories, and longer conversations."""

from collections.abc import Callable, Sequence
from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.extra_facts import extra_facts
from parakeet.data.synthetic.facts import ANIMALS, MORE_NAMES, NAMES, OBJECTS, words
from parakeet.data.synthetic.phrasing import (
    exchange,
    framed,
    pick,
    pick_frame,
    pick_weighted,
    sentence_case,
    with_article,
)
from parakeet.data.synthetic.sayings import sayings
from parakeet.data.synthetic.scored_tasks import Fact, Split
from parakeet.data.synthetic.small_talk import (
    ABOUT_PARAKEET,
    AGAIN,
    GREETINGS,
    JOKE_REQUESTS,
    JOKES,
    NAME_QUESTIONS,
    NO_NAME,
    OFFER,
    POEM_REQUESTS,
    POEM_SUBJECTS,
    POEMS,
    REPEAT,
    SMALL_TALK,
    THANKS,
)
from parakeet.data.synthetic.unknowns import made_up_word

Turns = tuple[Turn, ...]

SYSTEM_PROMPTS = (
    "Answer in one short sentence.",
    "You are Parakeet, a tiny language model.",
    "You are a friendly helper.",
    "Be brief and polite.",
    "Answer in plain English.",
)

_INTRODUCTIONS = (
    "I am {name}.",
    "I'm {name}.",
    "My name is {name}.",
    "My name's {name}.",
    "{name} here.",
    "This is {name}.",
    "Call me {name}.",
    "You can call me {name}.",
    "I am called {name}.",
    "They call me {name}.",
    "My name is {name}, by the way.",
    "It's {name}.",
    *sayings("my_name_is"),
)
_NAMES_ALONE = (
    "{name}",
    "{name}.",
    "It's {name}.",
    "It is {name}.",
    "I am {name}.",
    "My name is {name}.",
    "I'm {name}.",
)
_WISHES = (
    "Nice to meet you.",
    "How are you?",
    "Can you help me?",
    "Shall we talk?",
    "I have a question for you.",
    "Who are you?",
    "And you?",
    "What's your name?",
)

_STORY_REQUESTS = (
    "Tell me a story about {x}.",
    "Tell me a short story about {x}.",
    "Can you tell me a story about {x}?",
    "Please tell me a tiny story about {x}.",
    "Write a short story about {x}.",
    "I would like a story about {x}.",
    "Do you know a story about {x}?",
    "A story about {x}, please.",
    "Story about {x}",
    "Tell me about {x} in a story.",
    *sayings("story_about"),
    "Could you tell me a story about {x}?",
    "Tell a story about {x}.",
    "Make up a story about {x}.",
)
_ANY_STORY_REQUESTS = (
    "Tell me a story.",
    "Tell me a short story.",
    "Can you tell me a story?",
    "A story, please.",
    "Story",
    "Story please",
    "Write a story.",
    "Do you know a story?",
    "Tell a story.",
    "I want a story.",
    "Tell me another story.",
    "Another story.",
    "Tell me a bedtime story.",
    "Please tell me a story.",
    *sayings("story"),
)
_STORY_QUALITIES = words("small brave clever gentle curious happy shy old young kind lazy hungry")
_STORY_HOMES = ("in a forest", "by a river", "on a farm", "near the sea", "under an oak", "in a garden", "on a hill")
_STORY_TIMES = ("One morning", "One day", "One evening", "One summer day", "One cold night", "After the rain")
_STORY_LOOKS = words("shiny little golden strange wooden broken pretty red blue green old heavy")
_STORY_FINDS = (
    "under a tree",
    "in the grass",
    "beside the path",
    "in the mud",
    "behind a wall",
    "near the water",
    "in a hole",
)
_STORY_HELP = (
    "{friend} helped to carry it home.",
    "{friend} knew whose it was, and they took it back.",
    "{friend} had never seen such a thing before.",
    "{friend} laughed, and they played with it all day.",
    "{friend} had lost it, and was glad to see it again.",
)
_STORY_ENDINGS = (
    "In the end, they were the best of friends.",
    "That night, {name} slept very well.",
    "From that day on, {name} was never alone.",
    "Then they shared a cake and went home.",
    "{name} was proud and happy.",
)


def _said(rng: Random, table: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> Turns:
    prompts, replies = pick(rng, table)
    return exchange(pick(rng, prompts), pick(rng, replies))


def identity(rng: Random) -> Turns:
    """Who Parakeet is, what it can do and what it likes. Its name and its abilities are asked for most."""
    table = pick_weighted(rng, ((ABOUT_PARAKEET[:1], 0.3), (ABOUT_PARAKEET[1:4], 0.3), (ABOUT_PARAKEET, 0.4)))
    prompts, replies = pick(rng, table)
    return exchange(framed(pick(rng, prompts), pick_frame(rng)), pick(rng, replies))


def small_talk(rng: Random) -> Turns:
    """Moods, compliments, insults, weather and the other things that people say in passing; often "How are you?"."""
    return _said(rng, SMALL_TALK[:2] if rng.random() < 0.2 else SMALL_TALK)


def thanks(rng: Random) -> Turns:
    """Thanks and goodbyes."""
    return _said(rng, THANKS)


def greeting(rng: Random) -> Turns:
    """A greeting without a name."""
    return exchange(pick(rng, GREETINGS), f"Hello! {OFFER}")


def any_name(rng: Random) -> str:
    """A usual name, or a made-up one, so that names are copied and not chosen."""
    if rng.random() < 0.35:
        return sentence_case(made_up_word(rng, 1 + int(rng.random() * 2)))
    return pick(rng, (*(name for name, _ in NAMES), *MORE_NAMES))


def introduction(rng: Random, name: str) -> Turns:
    """The user gives a name, with a greeting or without; Parakeet repeats it."""
    said = pick(rng, _INTRODUCTIONS).format(name=name)
    if rng.random() < 0.45:
        said = f"{pick(rng, GREETINGS)} {said}"
    if rng.random() < 0.25:
        said = f"{said} {pick(rng, _WISHES)}"
    return exchange(said, f"Hello, {name}! {OFFER}")


def name_question(rng: Random, name: str) -> Turns:
    """What is my name? `name` is empty if the user has not said it."""
    question = pick(rng, NAME_QUESTIONS)
    return exchange(question, f"Your name is {name}." if name else NO_NAME)


def name_alone(rng: Random, name: str) -> Turns:
    """The answer to Parakeet's question for a name."""
    return exchange(pick(rng, _NAMES_ALONE).format(name=name), f"Hello, {name}! {OFFER}")


def joke(rng: Random) -> Turns:
    """A joke, and sometimes more of them."""
    return _several(rng, lambda: pick(rng, JOKE_REQUESTS), lambda: pick(rng, JOKES))


def poem(rng: Random) -> Turns:
    """Two lines that rhyme, and sometimes more of them."""
    return _several(rng, lambda: pick(rng, POEM_REQUESTS).format(x=pick(rng, POEM_SUBJECTS)), lambda: pick(rng, POEMS))


def _several(rng: Random, request: Callable[[], str], reply: Callable[[], str]) -> Turns:
    turns = exchange(request(), reply())
    while rng.random() < 0.3:
        turns += exchange(pick(rng, AGAIN), reply())
    return turns


def story(rng: Random) -> Turns:
    """A request that often names an animal, and a story of three to five sentences about it."""
    animal = pick(rng, ANIMALS)
    if rng.random() < 0.25:
        request = pick(rng, _ANY_STORY_REQUESTS)
    else:
        request = pick(rng, _STORY_REQUESTS).format(x=with_article(animal))
    return exchange(framed(request, pick_frame(rng)), _story_about(rng, animal))


def _story_about(rng: Random, animal: str) -> str:
    name, pronoun = pick(rng, NAMES)
    friend = pick(rng, [other for other, _ in NAMES if other != name])
    companion = pick(rng, [other for other in ANIMALS if other != animal])
    thing = with_article(f"{pick(rng, _STORY_LOOKS)} {pick(rng, OBJECTS)}")
    hero = with_article(f"{pick(rng, _STORY_QUALITIES)} {animal}")
    sentences = [
        f"Once there was {hero} called {name}, who lived {pick(rng, _STORY_HOMES)}.",
        f"{pick(rng, _STORY_TIMES)}, {name} found {thing} {pick(rng, _STORY_FINDS)}.",
    ]
    if rng.random() < 0.75:
        sentences.append(f"{sentence_case(pronoun)} showed it to {friend}, {with_article(companion)}.")
        sentences.append(pick(rng, _STORY_HELP).format(friend=friend))
        sentences.append(pick(rng, _STORY_ENDINGS).format(name=name))
    else:
        sentences.append(f"{sentence_case(pronoun)} took it home and kept it for ever.")
    return " ".join(sentences)


def extra_fact(rng: Random) -> Turns:
    """A question about one of the facts that are not scored, and sometimes another of the same kind."""
    facts = pick_weighted(rng, extra_facts())
    turns = ask(rng, pick(rng, facts))
    while rng.random() < 0.2:
        other = pick(rng, facts)
        turns += exchange(pick(rng, other.follow_ups), other.answer) if other.follow_ups else ()
    return turns


# Most people type a sum as "7+5"; a held-out question is never casual.
CASUAL_SHARE = 0.4


def ask(rng: Random, fact: Fact) -> Turns:
    """A question for this fact, in full or in haste."""
    if fact.casual and rng.random() < CASUAL_SHARE:
        return exchange(pick(rng, fact.casual), fact.answer)
    return exchange(framed(pick(rng, fact.questions), pick_frame(rng)), fact.answer)


def conversation(rng: Random, splits: Sequence[Split]) -> Turns:
    """A question and one or two follow-ups.

    A follow-up names its fact in a few words ("And of Spain?"); it stays within the task of the question before it.
    Sometimes the last answer is asked for again.
    """
    facts = pick(rng, splits).training
    turns = ask(rng, pick(rng, facts))
    for _ in range(1 + int(rng.random() * 2)):
        fact = pick(rng, facts)
        turns += exchange(pick(rng, fact.follow_ups), fact.answer)
    if rng.random() < 0.15:
        turns += exchange(pick(rng, REPEAT), turns[-1].content)
    return turns
