"""Tiny stories: three to five sentences about an animal, a thing it finds and a friend."""

from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.dialogue import exchange
from parakeet.data.synthetic.facts import ANIMALS, NAMES, OBJECTS
from parakeet.data.synthetic.phrasing import framed, pick, pick_frame, sentence_case, with_article

_REQUESTS = (
    "Tell me a story about {x}.",
    "Tell me a short story about {x}.",
    "Can you tell me a story about {x}?",
    "Please tell me a tiny story about {x}.",
    "Write a short story about {x}.",
    "I would like a story about {x}.",
    "Do you know a story about {x}?",
)
_QUALITIES = (
    "small",
    "brave",
    "clever",
    "gentle",
    "curious",
    "happy",
    "shy",
    "old",
    "young",
    "kind",
    "lazy",
    "hungry",
)
_HOMES = (
    "in a forest",
    "by a river",
    "on a farm",
    "near the sea",
    "under an oak",
    "in a garden",
    "on a hill",
)
_TIMES = ("One morning", "One day", "One evening", "One summer day", "One cold night", "After the rain")
_LOOKS = (
    "shiny",
    "little",
    "golden",
    "strange",
    "wooden",
    "broken",
    "pretty",
    "red",
    "blue",
    "green",
    "old",
    "heavy",
)
_FINDS = (
    "under a tree",
    "in the grass",
    "beside the path",
    "in the mud",
    "behind a wall",
    "near the water",
    "in a hole",
)
_HELP = (
    "{friend} helped to carry it home.",
    "{friend} knew whose it was, and they took it back.",
    "{friend} had never seen such a thing before.",
    "{friend} laughed, and they played with it all day.",
    "{friend} had lost it, and was glad to see it again.",
)
_ENDINGS = (
    "In the end, they were the best of friends.",
    "That night, {name} slept very well.",
    "From that day on, {name} was never alone.",
    "Then they shared a cake and went home.",
    "{name} was proud and happy.",
)


def story(rng: Random) -> tuple[Turn, ...]:
    """A request that names an animal, and a story about it. Two sentences of the middle are sometimes left out."""
    animal = pick(rng, ANIMALS)
    name, pronoun = pick(rng, NAMES)
    friend = pick(rng, [other for other, _ in NAMES if other != name])
    companion = pick(rng, [other for other in ANIMALS if other != animal])
    thing = with_article(f"{pick(rng, _LOOKS)} {pick(rng, OBJECTS)}")
    hero = with_article(f"{pick(rng, _QUALITIES)} {animal}")
    sentences = [
        f"Once there was {hero} called {name}, who lived {pick(rng, _HOMES)}.",
        f"{pick(rng, _TIMES)}, {name} found {thing} {pick(rng, _FINDS)}.",
    ]
    if rng.random() < 0.75:
        sentences.append(f"{sentence_case(pronoun)} showed it to {friend}, {with_article(companion)}.")
        sentences.append(pick(rng, _HELP).format(friend=friend))
        sentences.append(pick(rng, _ENDINGS).format(name=name))
    else:
        sentences.append(f"{sentence_case(pronoun)} took it home and kept it for ever.")
    request = pick(rng, _REQUESTS).format(x=with_article(animal))
    return exchange(framed(request, pick_frame(rng)), " ".join(sentences))
