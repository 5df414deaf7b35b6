"""What a tiny model cannot answer: unknown facts, other languages, nonsense; and where to ask instead.

The slots are filled with made-up words and random characters too, so that the kind is learnt and not a list.
"""

from random import Random

from parakeet.conversation import Turn
from parakeet.data.synthetic.facts import ANIMALS, CAPITALS, MORE_NAMES, NAMES, OBJECTS, known_words, words
from parakeet.data.synthetic.phrasing import exchange, framed, phrases, pick, pick_frame, pick_weighted, sentence_case
from parakeet.data.synthetic.sayings import sayings
from parakeet.data.synthetic.small_talk import UNKNOWN

Turns = tuple[Turn, ...]

NOT_UNDERSTOOD = "Sorry, I did not understand that. Please ask me in plain English."
ONLY_ENGLISH = "Sorry, I only speak English."
TOO_HARD = "Sorry, that sum is too hard for me. I can add and subtract numbers up to 20."
TOO_FAR = "Sorry, that is too far for me. I can count to 20."

_SORRY = "Sorry, I am only a tiny language model."
_CITIES = tuple(city for _, city in CAPITALS)
_COUNTRIES = tuple(country for country, _ in CAPITALS)
_FIRST_NAMES = (*(name for name, _ in NAMES), *MORE_NAMES)
_PROFESSIONALS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        phrases("""
            What is the weather in {x} today? | Will it rain in {x} tomorrow? | Is it sunny in {x} now?
            How warm is it in {x} today? | Tell me the weather in {x}. | Weather in {x}
            What is the weather like in {x}? | What's the weather? | What is the weather today? | How is the weather?
            Will it rain today? | Is it raining? | Weather today | What is the temperature in {x}?
            Do I need an umbrella today? | Is it cold outside? | How's the weather today? | Is it going to rain?
            What is the weather tomorrow? | Will it snow?
        """)
        + sayings("weather"),
        _CITIES,
        "I cannot see the weather. Please look at a forecast.",
    ),
    (
        phrases("""
            I have {x}. What should I take? | How do I cure {x}? | My friend has {x}. Is it serious?
            Which medicine helps against {x}? | Should I worry about {x}? | I have {x}. | My son has {x}.
            What helps against {x}? | Can you help with {x}? | Is {x} dangerous? | I think I have {x}. | I feel sick.
            I am ill. | How do I get rid of {x}? | What can I do about {x}? | Should I see a doctor? | My head hurts.
            My stomach hurts. | My back hurts. | What pills should I take? | How much aspirin can I take?
        """)
        + sayings("medical"),
        phrases("""
            a sore throat | a headache | a fever | a bad cough | back pain | a rash | a stomach ache | a toothache
            chest pain | a broken arm | an earache | a cold | the flu | cancer | diabetes
        """),
        "I cannot give medical advice. Please ask a doctor.",
    ),
    (
        phrases("""
            Can I sue {x}? | Write me a contract with {x}. | Am I in the right against {x} in court?
            What does the law say about a dispute with {x}? | How do I win in court against {x}?
            I need a lawyer against {x}. | Is it legal to record {x}? | What are my rights against {x}?
        """)
        + sayings("legal"),
        phrases("""
            my landlord | my boss | my bank | my neighbour | my school | my tenant | my insurer | a builder | a shop
            a dealer
        """),
        "I cannot give legal advice. Please ask a lawyer.",
    ),
    (
        phrases("""
            What is the phone number of {x}? | Where does {x} live? | Tell me the address of {x}.
            What is the password of {x}? | How old is {x}? | How much does {x} earn? | Give me {x}'s phone number.
        """)
        + sayings("personal"),
        ("my teacher", "my doctor", "my sister", "my cousin", "my boss", "the neighbour", *_FIRST_NAMES),
        "I do not know personal data, and I would not share it.",
    ),
    (
        phrases("""
            What is in the news about {x}? | Who won the game in {x} today? | What time is it in {x}?
            What happened in {x} yesterday? | What time is it? | What's the time? | What day is it?
            What day is today? | What is the date? | What's the date today? | What is today's date?
            What is in the news? | Any news? | What year is it? | What's in the news today? | Who won the match?
            Who won the game last night? | Tell me the news. | What month is it? | Time? | What is the time now?
            Do you know what time it is? | What day is it today? | Latest news from {x}
        """)
        + sayings("now"),
        _COUNTRIES,
        "I do not know what is happening now.",
    ),
    (
        phrases("""
            Invest in {x}? | Should I buy {x}? | Is {x} a good investment? | How do I get rich with {x}?
            Will {x} go up? | What is the price of {x}? | How much is {x}? | What does {x} cost?
            How much does {x} cost? | Where can I buy {x}? | Price of {x} | How much do I pay for {x}?
            How much is {x} worth?
        """)
        + sayings("prices"),
        (
            "bitcoin",
            "gold",
            "a house",
            "a car",
            "a ticket",
            "an iPhone",
            "a pizza",
            "bread",
            "milk",
            "a bike",
            "a coffee",
            "tesla stock",
            "a laptop",
            "petrol",
            "a flat",
            *(f"a {thing}" for thing in OBJECTS if thing[0] not in "aeiou"),
        ),
        "I do not know prices.",
    ),
)

_QUESTIONS = (
    phrases("""
    Who is the president of {country}? | Who is the king of {country}? | Who is the prime minister of {country}?
    Who is the leader of {country}? | Who rules {country}? | What is the population of {country}?
    How many people live in {country}? | How big is {country}? | What is the currency of {country}?
    What is the flag of {country}? | Tell me the history of {country}. | What should I see in {country}?
    How do I get to {country}? | How far is {country}? | Who was the first king of {country}?
    How many people live in {city}? | How far is it to {city}? | What is the best hotel in {city}?
    How do I get to {city}? | Where is the station in {city}? | What can I do in {city}? | What is {city} famous for?
    Who is {person}? | Who was {person}? | Do you know {person}? | Who is {person} and what did he do?
    When was {person} born? | When did {person} die? | What did {person} invent? | What did {person} write?
    Is {person} famous? | Tell me about {person}. | Where was {person} born? | Who is the wife of {person}?
    What do you think of {person}? | What is {made}? | What is a {made}? | What does {made} mean?
    Tell me about {made}. | Where is {made}? | Who invented {made}? | How does a {made} work? | Define {made}.
    What is the capital of {Made}? | Capital of {Made} | Who is {Made}? | Have you heard of {made}?
    What is the meaning of {made}? | What's the capital of {Made}? | How do you make {made}?
    What colour is a {made}? | Which colour is {made}? | What is the opposite of {made}? | What rhymes with {made}?
    Where is {Made}? | Is {made} good? | What is {made} {made2}? | Explain {made}. | Who won the {event} in {year}?
    When was the {event}? | What happened in {year}? | Who discovered {science}? | Who invented {science}?
    Explain {science}. | How does {science} work? | What is {science}? | Tell me about {science}.
    Can you explain {science} to me? | What do you know about {science}? | Teach me {science}.
    Write a program in {code}. | How do I write a loop in {code}? | Write code in {code} that sorts a list.
    What is {code}? | Fix my {code} code. | Can you code in {code}? | Write a {code} function.
    How do I learn {code}? | Debug this {code} code. | Do you know {code}? | print('hello') | def f(x): return x
    SELECT * FROM users | sudo rm -rf / | import os | Translate {thing} into {language}.
    How do you say {thing} in {language}? | What is {thing} in {language}? | Say {thing} in {language}.
    What is the {language} word for {thing}? | Translate this into {language}. | How do I say hello in {language}?
    What is the meaning of life? | Is there a God? | What happens after death? | Does God exist? | Why are we here?
    What is love? | What is time? | Who will win the election? | What will happen tomorrow? | Can you see the future?
    What is the best phone? | What is consciousness? | Are there aliens? | Are ghosts real? | How do I bake a {thing}?
    How do I cook {food}? | Give me a recipe for {food}. | What is the recipe for {food}? | How do I make {food}?
    How long do I boil {food}? | How many calories are in {food}? | Is {food} healthy? | Recipe for {food}
    Write an essay about {science}. | Write an email to my boss. | Write a letter to {person}. | Write my homework.
    Do my homework. | Summarise {science}. | Write a song about a {thing}. | Write a book.
    Give me a plan for the week. | Help me with my homework. | Make a list of ten {animal}s. | Write a speech.
    Summarise this text. | Read this page. | How do I fix my {thing}? | How do I repair a {thing}?
    How tall is {person}? | How heavy is a {animal}? | How long does a {animal} live? | How fast is a {animal}?
    How old is the {thing}? | Why does a {animal} sleep? | Where do I find a {animal}? | Why do {animal}s run?
    How do I train a {animal}? | How many {thing}s are there? | How many {animal}s are there in the world?
    Who is the best football player? | Who won the world cup? | Who is the richest man in the world?
    Who is the fastest man? | Who is the pope? | Who sang this song? | What is the best film?
    Which team is the best? | What is the speed of light? | What is the square root of {number}? | What is pi?
    How far is the moon? | How hot is the sun? | How old is the earth? | How old is the universe?
    How do I lose weight? | How do I find a job? | How do I make money? | How can I be happy?
    How do I learn to {verb}? | Should I {verb} more? | Why do people {verb}? | Can you teach me to {verb}?
    When should I {verb}? | How do I tie a tie? | What should I wear? | What should I do today?
    Where should I go on holiday? | What is a good name for a {animal}? | Recommend a film. | Recommend a book.
    What should I read? | Play chess with me. | Set an alarm for {number}. | Call {person}. | Open the door.
    Turn on the light. | Send a message to {person}. | Order a pizza. | Book a flight to {city}.
    Remind me to {verb}. | Search the internet for {made}. | Google {made}. | Buy me a {thing}.
    Show me a map of {country}. | Call me a taxi.
""")
    + sayings("unknown_question")
    + sayings("unknown_task")
    + sayings("unknown_deep")
)
_EVENTS = phrases("""
    world cup | Olympics | French revolution | second world war | first world war | Super Bowl | election
    battle of Hastings | moon landing | cold war | civil war | Eurovision | black death | battle of Waterloo
    Renaissance
""")
_SCIENCE = phrases("""
    quantum physics | gravity | the telephone | electricity | relativity | photosynthesis | evolution | DNA
    the internet | black holes | democracy | economics | inflation | machine learning | chemistry | algebra
    penicillin | the light bulb | philosophy | blockchain | atoms | a neural network | calculus | America's history
    Buddhism | the stock market | osmosis | vaccines | the big bang | a computer | a transformer | climate change
    entropy
""")
_CODE = ("Python", "Java", "C++", "JavaScript", "Rust", "HTML", "SQL", "PHP", "Go", "bash", "Ruby", "C", "Excel", "CSS")
_LANGUAGES = phrases("""
    German | French | Spanish | Italian | Chinese | Japanese | Russian | Latin | Greek | Turkish | Arabic | Dutch
    Polish | Hindi | Korean
""")
_FOOD = phrases("""
    pasta | soup | rice | pancakes | bread | chicken | eggs | curry | lasagne | sushi | pizza | potatoes | an omelette
    cookies | fish | steak | a cake
""")
_VERBS = words("swim dance cook sing drive draw run sleep read write paint ski fly type knit work study pray dream")
_FAMOUS = phrases("""
    Albert Einstein | Napoleon | Donald Trump | Taylor Swift | Elon Musk | Julius Caesar | Mozart | Barack Obama
    Cleopatra | Isaac Newton | Shakira | Messi | Ronaldo | Picasso | Beethoven | Marie Curie | Queen Victoria | Plato
    Joe Biden | Angela Merkel | Michael Jackson | Bill Gates | Steve Jobs | Harry Potter | Batman
""")
_FOREIGN = phrases("""
    Hola | Bonjour | Guten Tag | Ciao | Wie geht es dir? | Wie geht's? | Como estas? | Comment ca va? | Que tal?
    Sprichst du Deutsch? | Parlez-vous francais? | Habla espanol? | Wer bist du? | Quien eres? | Qui es-tu?
    Come stai? | Buongiorno | Merci beaucoup | Gracias | Danke | Was ist die Hauptstadt von Frankreich?
    Quelle est la capitale de la France? | Cual es la capital de Francia? | Wie heisst du? | Je ne comprends pas
    No entiendo | Ich verstehe nicht | Ola, tudo bem? | Obrigado | Hvordan har du det? | Hej, hur mar du?
    Jak se mas? | Dzien dobry | Merhaba | Nasilsin? | Konnichiwa | Arigato | Ni hao | Privet | Kak dela? | Spasibo
    Salaam | Namaste | Goedemorgen | Hoe gaat het? | Ich liebe dich | Te quiero | Je t'aime | Erzaehl mir einen Witz
    Cuentame un chiste | Raconte une histoire | Wie spaet ist es? | Que hora es? | Quelle heure est-il?
    Mi chiamo Marco | Ich heisse Anna | Je m'appelle Marie | Me llamo Pedro | Was kannst du? | Que puedes hacer?
    Auf Wiedersehen | Adios | Au revoir
""") + sayings("foreign")
# First and last code points of letters that English does not use.
_SCRIPTS = (
    (0x4E00, 0x5200),
    (0x3041, 0x3096),
    (0x30A1, 0x30FA),
    (0x430, 0x44F),
    (0x410, 0x42F),
    (0x3B1, 0x3C9),
    (0x627, 0x64A),
    (0x5D0, 0x5EA),
    (0x905, 0x939),
    (0xAC00, 0xB000),
    (0xE01, 0xE2E),
)
_MARKS = (
    "?",
    "??",
    "???",
    "...",
    "!",
    "!!!",
    "!?",
    ".",
    "-",
    "*",
    "#",
    "@",
    "&",
    "/",
    "+",
    "=",
    "~",
    "$",
    "%",
    "_",
    "^",
    "()",
    "<>",
    "{}",
    "[]",
    ";",
    ",",
    ":",
    "\\",
)
_KEYS = ("asdfghjkl;", "qwertyuiop", "zxcvbnm,.", "1234567890", "abcdefghijklmnopqrstuvwxyz")
_CONSONANTS = phrases("""
    b | c | d | f | g | h | j | k | l | m | n | p | r | s | t | v | w | z | bl | br | ch | cl | cr | dr | fl | fr | gl
    gr | pl | pr | qu | sh | sk | sl | sm | sn | sp | st | str | sw | th | tr | tw | wh
""")
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "oo", "ou", "ie", "y")
_ENDINGS = (
    "",
    "",
    "",
    "n",
    "r",
    "t",
    "s",
    "l",
    "m",
    "d",
    "ck",
    "nd",
    "ng",
    "nt",
    "st",
    "x",
    "ss",
    "ll",
    "mp",
    "p",
    "er",
    "le",
    "y",
    "et",
    "on",
    "sh",
    "th",
    "rk",
    "rd",
    "lt",
    "ft",
)


def made_up_word(rng: Random, syllables: int) -> str:
    """A word that sounds English and is in no table, "stramble"."""
    while True:
        parts = [pick(rng, _CONSONANTS) + pick(rng, _VOWELS) for _ in range(syllables)]
        word = "".join(parts) + pick(rng, _ENDINGS)
        if word not in known_words():
            return word


def unknown_fact(rng: Random) -> Turns:
    """A question of fact or a wish that is beyond a tiny model, and the reply that says so."""
    return exchange(framed(_filled(rng, pick(rng, _QUESTIONS)), pick_frame(rng)), UNKNOWN)


def _filled(rng: Random, text: str, x: str = "") -> str:
    """`text` with something for each slot; `x` for {x}."""
    if "{" not in text:
        return text
    person = (
        pick(rng, _FAMOUS) if rng.random() < 0.4 else f"{pick(rng, _FIRST_NAMES)} {sentence_case(made_up_word(rng, 2))}"
    )
    made = made_up_word(rng, 1 + int(rng.random() * 3))
    return text.format(
        x=x,
        country=pick(rng, _COUNTRIES),
        city=pick(rng, _CITIES),
        person=person,
        made=made,
        Made=sentence_case(made),
        made2=made_up_word(rng, 1),
        event=pick(rng, _EVENTS),
        year=str(1066 + int(rng.random() * 970)),
        science=pick(rng, _SCIENCE),
        code=pick(rng, _CODE),
        thing=pick(rng, OBJECTS),
        language=pick(rng, _LANGUAGES),
        food=pick(rng, _FOOD),
        animal=pick(rng, ANIMALS),
        number=str(3 + int(rng.random() * 97)),
        verb=pick(rng, _VERBS),
    )


def refusal(rng: Random) -> Turns:
    """A question that a tiny model should not answer, and a reply that declines and says whom to ask."""
    phrasings, subjects, reason = pick(rng, _PROFESSIONALS)
    question = _filled(rng, pick(rng, phrasings), pick(rng, subjects))
    return exchange(framed(question, pick_frame(rng)), f"{_SORRY} {reason}")


def other_language(rng: Random) -> Turns:
    """Words of another language, or of another script."""
    if rng.random() < 0.5:
        return exchange(pick(rng, _FOREIGN), ONLY_ENGLISH)
    first, last = pick(rng, _SCRIPTS)
    groups = (_characters(rng, first, last) for _ in range(1 + int(rng.random() * 3)))
    return exchange(" ".join(groups) + pick(rng, ("", "", "?", "!")), ONLY_ENGLISH)


def _characters(rng: Random, first: int, last: int) -> str:
    return "".join(chr(first + int(rng.random() * (last - first + 1))) for _ in range(1 + int(rng.random() * 6)))


def nonsense(rng: Random) -> Turns:
    """Keys hit at random, lone marks, and words that do not exist."""
    kind = rng.random()
    if kind < 0.25:
        text = _filled(rng, pick(rng, sayings("nonsense")))
    elif kind < 0.5:
        row = pick(rng, _KEYS)
        start = int(rng.random() * (len(row) - 2))
        text = row[start : start + 3 + int(rng.random() * 5)] * (1 + int(rng.random() * 2))
    elif kind < 0.7:
        text = "".join(pick(rng, _KEYS[-1]) for _ in range(3 + int(rng.random() * 8)))
    elif kind < 0.8:
        text = pick(rng, _MARKS) * (1 + int(rng.random() * 4))
    else:
        text = " ".join(made_up_word(rng, 1 + int(rng.random() * 2)) for _ in range(1 + int(rng.random() * 3)))
    return exchange(text, NOT_UNDERSTOOD)


# {a} and {b} are above 20, {c} is from 2 to 20. Beyond this model are also products and quotients.
_HARD_SUMS = phrases("""
    {a}+{b} | What is {a} + {b}? | {a} - {b} | What is {a} plus {b}? | What's {a} minus {b}? | {a}*{b} | {a} * {c}
    What is {a} times {b}? | {c}*{c} | {a} / {c} | What is {c} times {c}? | What is {a} divided by {c}? | {a}+{c}
    {a} divided by {c} | {c}^{c} | {a}/{b} | What is {a} / {c}? | {c} x {c} | What is {c} percent of {a}? | {a}-{c}
    Solve {c}x + {b} = {a} | {c} + {a} | {a} + {b} | Calculate {a} + {c} | What is {c} plus {a}? | Multiply {a} by {c}
    {c} times {c} | How much is {a} minus {c}? | {c} / {c} | Square root of {a}
""") + sayings("hard_sum")
_FAR_COUNTS = phrases("""
    Count to {far}. | Can you count to {far}? | Count from 1 to {far}. | Count to one hundred. | Count to a million.
    Count to a thousand. | Count from {c} to {a}. | How far can you count? | Count to {far}
""") + sayings("far_count")


def too_hard(rng: Random) -> Turns:
    """Sums beyond two digits, other operations, and counting too far."""
    a, b = (21 + int(10 ** (1 + 4 * rng.random())) for _ in range(2))
    c = 2 + int(rng.random() * 19)
    if rng.random() < 0.75:
        return exchange(pick(rng, _HARD_SUMS).format(a=a, b=b, c=c), TOO_HARD)
    far = 21 + int(10 ** (3 * rng.random()))
    return exchange(pick(rng, _FAR_COUNTS).format(far=far, a=a, c=c), TOO_FAR)


_KINDS = ((unknown_fact, 0.55), (nonsense, 0.14), (other_language, 0.1), (too_hard, 0.12), (refusal, 0.22))


def unknown(rng: Random) -> Turns:
    """Something that Parakeet cannot answer, of any kind."""
    return pick_weighted(rng, _KINDS)(rng)
