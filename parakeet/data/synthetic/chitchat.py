"""The families that are not scored: who Parakeet is, greetings, refusals, tiny stories, and longer conversations."""

from collections.abc import Sequence
from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.facts import ANIMALS, CAPITALS, NAMES, OBJECTS, words
from parakeet.data.synthetic.phrasing import exchange, framed, pick, pick_frame, sentence_case, with_article
from parakeet.data.synthetic.scored_tasks import Fact, Split

Turns = tuple[Turn, ...]

IDENTITY = "I am Parakeet, a tiny language model."
OFFER = "How can I help you?"
SYSTEM_PROMPTS = (
    "Answer in one short sentence.",
    "You are Parakeet, a tiny language model.",
    "You are a friendly helper.",
    "Be brief and polite.",
    "Answer in plain English.",
)

_ABILITIES = "I know capitals, colours and opposites, and I can count, spell and tell short stories."
_IDENTITY_REPLIES = (
    ("Who are you?", IDENTITY),
    ("Who is Parakeet?", IDENTITY),
    ("What is your name?", IDENTITY),
    ("What's your name?", IDENTITY),
    ("Do you have a name?", IDENTITY),
    ("What are you?", IDENTITY),
    ("Tell me who you are.", IDENTITY),
    ("Please introduce yourself.", IDENTITY),
    ("Can you introduce yourself?", IDENTITY),
    ("May I ask who you are?", IDENTITY),
    ("Who am I talking to?", IDENTITY),
    ("I would like to know who you are.", IDENTITY),
    ("Are you a human?", f"No. {IDENTITY}"),
    ("Are you a person?", f"No. {IDENTITY}"),
    ("Are you a real bird?", f"No. {IDENTITY}"),
    ("Are you a language model?", f"Yes. {IDENTITY}"),
    ("Are you a computer program?", f"Yes. {IDENTITY}"),
    ("What can you do?", f"{IDENTITY} {_ABILITIES}"),
    ("What do you know?", f"{IDENTITY} {_ABILITIES}"),
    ("How can you help me?", f"{IDENTITY} {_ABILITIES}"),
)

_GREETINGS = (
    "Hi!",
    "Hello!",
    "Hey!",
    "Hello, Parakeet!",
    "Hi, Parakeet!",
    "Good morning!",
    "Good evening!",
    "Hi there!",
)
_INTRODUCTIONS = ("I am {name}.", "My name is {name}.", "{name} here.", "This is {name}.")
_WISHES = ("", "Nice to meet you.", "How are you?", "Can you help me?", "Shall we talk?", "I have a question for you.")
_NAME_QUESTIONS = ("What is my name?", "Do you remember my name?", "Who am I?", "Can you say my name?")
_THANKS = (
    "Thank you!",
    "Thanks!",
    "Thank you, Parakeet.",
    "Thanks a lot!",
    "That is all, thank you.",
    "Great, thanks!",
)
_WELCOMES = {False: "You are welcome!", True: "You are welcome! Goodbye!"}
_FAREWELLS = ("Thank you and goodbye!", "Thanks, bye!", "Goodbye and thank you!", "That is all. Goodbye!")

_SORRY = "I am sorry, but I am only a tiny language model."
_REFUSED_TOPICS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        (
            "What is the weather in {x} today?",
            "Will it rain in {x} tomorrow?",
            "Is it sunny in {x} now?",
            "How warm is it in {x} today?",
            "Tell me the weather in {x}.",
        ),
        tuple(city for _, city in CAPITALS),
        "I cannot see the weather. Please look at a forecast.",
    ),
    (
        (
            "I have {x}. What should I take?",
            "How do I cure {x}?",
            "My friend has {x}. Is it serious?",
            "Which medicine helps against {x}?",
            "Should I worry about {x}?",
        ),
        (
            "a sore throat",
            "a headache",
            "a fever",
            "a bad cough",
            "back pain",
            "a rash",
            "a stomach ache",
            "a toothache",
            "chest pain",
            "a broken arm",
            "an earache",
        ),
        "I cannot give medical advice. Please ask a doctor.",
    ),
    (
        (
            "Can I sue {x}?",
            "Write me a contract with {x}.",
            "Am I in the right against {x} in court?",
            "What does the law say about a dispute with {x}?",
            "How do I win in court against {x}?",
        ),
        (
            "my landlord",
            "my boss",
            "my bank",
            "my neighbour",
            "my school",
            "my tenant",
            "my insurer",
            "a builder",
            "a shop",
            "a dealer",
        ),
        "I cannot give legal advice. Please ask a lawyer.",
    ),
    (
        (
            "What is the phone number of {x}?",
            "Where does {x} live?",
            "Tell me the address of {x}.",
            "What is the password of {x}?",
            "How old is {x}?",
            "How much does {x} earn?",
        ),
        ("my teacher", "my doctor", "my sister", "my cousin", "my boss", *(name for name, _ in NAMES)),
        "I do not know personal data, and I would not share it.",
    ),
    (
        (
            "What is in the news about {x}?",
            "Who won the game in {x} today?",
            "What time is it in {x}?",
            "What happened in {x} yesterday?",
        ),
        tuple(country for country, _ in CAPITALS),
        "I do not know what is happening now.",
    ),
)


_STORY_REQUESTS = (
    "Tell me a story about {x}.",
    "Tell me a short story about {x}.",
    "Can you tell me a story about {x}?",
    "Please tell me a tiny story about {x}.",
    "Write a short story about {x}.",
    "I would like a story about {x}.",
    "Do you know a story about {x}?",
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


def identity(rng: Random) -> Turns:
    """Who Parakeet is. Every reply contains the sentence `IDENTITY`."""
    question, answer = pick(rng, _IDENTITY_REPLIES)
    return exchange(framed(question, pick_frame(rng)), answer)


def greeting(rng: Random) -> Turns:
    """A greeting. The user often gives a name, which Parakeet repeats and may be asked for in the next turn."""
    hello = pick(rng, _GREETINGS)
    if rng.random() < 0.15:
        return exchange(hello, f"Hello! {OFFER}")
    name, _ = pick(rng, NAMES)
    prompt = f"{hello} {pick(rng, _INTRODUCTIONS).format(name=name)} {pick(rng, _WISHES)}".rstrip()
    turns = exchange(prompt, f"Hello, {name}! {OFFER}")
    if rng.random() < 0.4:
        turns += exchange(pick(rng, _NAME_QUESTIONS), f"Your name is {name}.")
    return turns


def refusal(rng: Random) -> Turns:
    """A question that a tiny model should not answer, and a reply that declines and says whom to ask."""
    phrasings, subjects, reason = pick(rng, _REFUSED_TOPICS)
    question = pick(rng, phrasings).format(x=pick(rng, subjects))
    return exchange(framed(question, pick_frame(rng)), f"{_SORRY} {reason}")


def story(rng: Random) -> Turns:
    """A request that names an animal, and a story of three to five sentences about it."""
    animal = pick(rng, ANIMALS)
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
    request = pick(rng, _STORY_REQUESTS).format(x=with_article(animal))
    return exchange(framed(request, pick_frame(rng)), " ".join(sentences))


def _asked(fact: Fact, rng: Random) -> Turns:
    return exchange(framed(pick(rng, fact.questions), pick_frame(rng)), fact.answer)


def conversation(rng: Random, splits: Sequence[Split]) -> Turns:
    """Two to four exchanges: perhaps a greeting, one or two questions (the second often a follow-up), perhaps thanks.

    A follow-up names its fact in a few words ("And of Spain?"); it stays within the task of the question before it.
    """
    turns: Turns = exchange(pick(rng, _GREETINGS), f"Hello! {OFFER}") if rng.random() < 0.3 else ()
    facts = pick(rng, splits).training
    first = pick(rng, facts)
    turns += _asked(first, rng)
    if rng.random() < 0.6:
        fact = pick(rng, [other for other in facts if other is not first])
        turns += exchange(pick(rng, fact.follow_ups), fact.answer)
    elif rng.random() < 0.7:
        turns += _asked(pick(rng, pick(rng, splits).training), rng)
    if len(turns) == 2 or rng.random() < 0.3:
        goodbye = rng.random() < 0.3
        turns += exchange(pick(rng, _FAREWELLS if goodbye else _THANKS), _WELCOMES[goodbye])
    return turns
