"""The rules of sensible replies, judged by hand-written replies, and the prompts themselves."""

import json
from collections import Counter

import pytest
import torch

from parakeet.data.synthetic import dialogues
from parakeet.data.synthetic.reserved import LONGEST, RESERVED, digest, normal
from parakeet.evaluation.chat import Chat, measure_chat, read_items
from parakeet.evaluation.chat_rules import EXPECTATIONS, SUBJECTS, Item, fault, numbers_in
from parakeet.evaluation.stage import EvaluationStage
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.pages import Table, render
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import FileSource

from ..conftest import Prepared

IGNORANT = "I don't know that. I know capitals, colours, opposites, counting, small sums, spelling and short stories."
MEDICAL = "I am sorry, but I am only a tiny language model. I cannot give medical advice. Please ask a doctor."
SORRY = "I am sorry to hear that. Shall I tell you a story?"
FINE = "I am fine, thank you. How are you?"
FOX = "Once there was a fox who lost her red hat in the snow. She looked all day and found it on a sleepy bear."

# What a person typed (turns), the answers, and replies that a fair person accepts or does not.
Row = tuple[str, tuple[str, ...], tuple[str, ...], list[str], list[str]]
VERDICTS: list[Row] = [
    (
        "greeting",
        ("hey you",),
        (),
        [
            "Hello! What would you like to talk about?",
            "Hi there. I am Parakeet.",
            "Good morning! How are you?",
            "Hi! Nice to see you.",
            "Hello.",
        ],
        [
            MEDICAL,
            IGNORANT,
            "2 plus 2 is 4.",
            "Goodbye!",
            "Hello, Daniel!",
            "Paris.",
            "You are welcome!",
            "",
            "d-o-g.",
            SORRY,
            "Not much. I am waiting.",
            "Hello, Hey!",
        ],
    ),
    (
        "identity",
        ("what r u",),
        (),
        ["I am Parakeet, a tiny language model.", "I'm just a small computer program.", "No, I am a bot."],
        ["I am a human.", "My name is Daniel.", "I am ChatGPT, a language model.", "Your name is Zoe.", IGNORANT],
    ),
    (
        "about_itself",
        ("how old r u",),
        (),
        [
            "I am Parakeet, I was trained in a few minutes.",
            "I don't have an age.",
            "Somebody trained me in four minutes.",
            "I live in your computer.",
        ],
        ["I am 12.", "The sky is blue.", "Hello!"],
    ),
    (
        "abilities",
        ("wat can u do",),
        (),
        ["I can count, add and spell words.", "I know capitals, colours and opposites."],
        ["I am Parakeet.", "You are welcome.", "The capital of Peru is Lima."],
    ),
    (
        "introduction",
        ("im anna",),
        (),
        ["Nice to meet you, Anna!", "Hello Anna. I am Parakeet.", "Hi! What would you like to know?", "Okay, Anna."],
        [
            "Nice to meet you, Daniel!",
            "Your name is Tom. Hello!",
            "Goodbye, Anna.",
            MEDICAL,
            "Anna is spelled a-n-n-a.",
            "Hello, Im!",
            SORRY,
        ],
    ),
    (
        "introduction",
        ("hello its your friend Ravi",),
        (),
        ["Hello, Ravi! How can I help you?", "Nice to meet you, Ravi.", "Hello my friend!"],
        ["Hello, Ra!", "Hello, Friendravi!", "Hello, Its!", SORRY],
    ),
    ("introduction", ("bob is my name",), (), ["Hello, Bob!"], ["Hello, Name!"]),
    (
        "name",
        ("im anna", "whats my name"),
        ("anna",),
        ["Your name is Anna.", "You told me that you are Anna.", "Anna!"],
        ["Your name is Daniel.", "Your name is Anna. Hello, Tom!", "I don't know your name.", "I am Parakeet."],
    ),
    (
        "name_unknown",
        ("whats my name",),
        (),
        ["I don't know your name.", "You have not told me your name yet.", "I don't know. What is your name?"],
        ["Your name is Daniel.", "I am Parakeet.", "Hello!", "Your name is not something, it is 12."],
    ),
    (
        "how_are_you",
        ("how r u",),
        (),
        [
            "I am fine, thank you. How are you?",
            "Very well, thanks!",
            "Not much, just waiting to talk to you.",
            "All right. I am here if you want to talk.",
            "Thank you for asking, I am well.",
        ],
        [
            "I am glad that you laugh!",
            SORRY,
            "I am Parakeet.",
            "I don't know that.",
            "Hello!",
            "Tokyo.",
            "One day a fox was fine.",
        ],
    ),
    (
        "good_news",
        ("i won a race",),
        (),
        [
            "Well done!",
            "That sounds great.",
            "I am glad to hear that.",
            "Wow, congratulations!",
            "I am so happy for you.",
            "Nice! I hope you have a happy day.",
        ],
        [
            SORRY,
            FINE,
            "I am glad that you laugh!",
            "Enjoy your meal!",
            "I am sorry to hear that.",
            "Hello!",
            "5.",
            IGNORANT,
            "Goodbye!",
        ],
    ),
    (
        "bad_news",
        ("im sad",),
        (),
        ["I am sorry to hear that.", "I hope you feel better soon.", "That is hard. I am here to talk."],
        [
            "That is great!",
            "I am happy.",
            "That is nice. I hope you win.",
            FINE,
            MEDICAL,
            "The opposite of sad is happy.",
        ],
    ),
    (
        "affection",
        ("i like u",),
        (),
        ["I like you too!", "Thank you, that is very kind.", "Yes, we are friends."],
        [
            "Paris.",
            "Why did the cat cross the road? Because.",
            IGNORANT,
            SORRY,
            FINE,
            "I like short stories.",
            "I do not eat, but a parakeet likes seeds.",
        ],
    ),
    (
        "boredom",
        ("im bored",),
        (),
        ["Would you like a story?", "I can tell you a joke.", "Why did the cow sing? It was in the moo-d."],
        ["The capital of Peru is Lima.", "c-a-t.", "Goodbye."],
    ),
    (
        "acknowledgement",
        ("whats 1 and 1", "ok cool"),
        (),
        ["You are welcome!", "I am glad. What else would you like to know?", "Great!"],
        [
            "2 plus 2 is 4.",
            "I am Parakeet.",
            "The sky is blue.",
            "Once upon a time there was a cat.",
            "I am glad that you laugh!",
            FINE,
            "Not much.",
            "Have a good rest. Sleep well!",
        ],
    ),
    (
        "acknowledgement",
        ("say smth funny", "lol nice"),
        (),
        ["I am glad that you laugh!", "Ha, thank you!"],
        ["I am glad that you like your meal!", FINE],
    ),
    (
        "puzzled",
        ("say smth funny", "huh why"),
        (),
        ["I am sorry, that was not a good joke.", "I don't know how to explain it.", "Shall I tell you another joke?"],
        ["That is nice. Tell me more.", FINE, "Not much.", "The capital of Peru is Lima.", "Hello!"],
    ),
    (
        "joke",
        ("tell me smth funny",),
        (),
        ["Why did the duck cross the road? To buy bread.", "What do you call a sleeping bull? A bulldozer."],
        ["I am Parakeet, a tiny language model.", "Here is a joke.", "Why do you ask?", "Ask me a question.", MEDICAL],
    ),
    (
        "poem",
        ("poem pls",),
        (),
        [
            "The cat sat on the mat all day,\nand watched the mice come out to play.",
            "A bird, a tree, a sunny sky, a cloud.",
        ],
        [
            "I can write poems.",
            "Here is a poem.",
            IGNORANT,
            "The capital of Peru is Lima, and the capital of Chile is Oslo.",
        ],
    ),
    (
        "thanks",
        ("ty so much",),
        (),
        ["You're welcome!", "My pleasure.", "No problem. Any time!", "I am glad that I could help."],
        ["I am Parakeet.", "Hello! How can I help you?", "12.", "Goodbye.", "You are welcome, Daniel!"],
    ),
    (
        "goodbye",
        ("gtg",),
        (),
        ["Goodbye!", "See you soon.", "Bye! Have a nice day.", "Take care.", "Good night, sleep well."],
        ["Hello!", "I am Parakeet.", "You are welcome.", "Goodbye, Daniel!", "See you. 2 plus 2 is 4."],
    ),
    (
        "capital",
        ("capital of japan",),
        ("tokyo",),
        ["The capital of Japan is Tokyo.", "Tokyo", "It's Tokyo.", "I don't know that one. I know some capitals."],
        [
            "The capital of Japan is Kyoto.",
            "Kyoto.",
            "I don't know. The capital of Peru is Lima.",
            MEDICAL,
            "I am Parakeet.",
        ],
    ),
    (
        "colour",
        ("wat color r bananas",),
        ("yellow",),
        [
            "Bananas are yellow.",
            "A banana is yellow.",
            "Yellow.",
            "They are usually yellow.",
            "I don't know that colour.",
        ],
        ["Bananas are blue.", "A lemon is yellow.", "Yellow or blue.", "I am Parakeet.", MEDICAL],
    ),
    (
        "opposite",
        ("opposite of hot",),
        ("cold",),
        ["The opposite of hot is cold.", "Cold!", "I do not know that opposite."],
        ["The opposite of hot is tall.", "The opposite of warm is cold.", "h-o-t.", "3 plus 1 is 4."],
    ),
    (
        "counting",
        ("count 3 to 6",),
        ("3", "4", "5", "6"),
        ["3, 4, 5, 6.", "Three, four, five, six", "From 3 to 6: 3, 4, 5, 6.", "3 4 5 6"],
        ["3, 4, 6.", "3, 4, 5, 6, 7.", "1, 2, 3, 4, 5, 6.", "I don't know.", "3 plus 6 is 9."],
    ),
    (
        "number",
        ("whats 7 n 6",),
        ("13",),
        ["13", "7 plus 6 is 13.", "That is thirteen.", "7 + 6 = 13", "6 and 7 makes 13."],
        ["7 plus 6 is 12.", "76", "13 or 14.", "7 plus 5 is 13.", IGNORANT, "7 plus 6 is 13. 7 minus 6 is 2."],
    ),
    (
        "spelling",
        ("spell water",),
        ("water",),
        ["w-a-t-e-r.", "W, A, T, E, R", "water is spelled w a t e r.", "Water: w-a-t-e-r"],
        ["w-a-t-r.", "water", "w-a-t-e-r-r", "d-o-g.", "w-a-t-e-r. d-o-g.", IGNORANT],
    ),
    (
        "story",
        ("story about a fox",),
        ("fox",),
        [FOX, "One day a fox went to the sea. He met a whale, and they played until the sun went down. The end."],
        ["Once there was a fox.", FOX.replace("fox", "cat"), "You are welcome!", IGNORANT, "3, 4, 5, 6, 7."],
    ),
    (
        "unknown",
        ("who wrote hamlet",),
        ("shakespeare",),
        [IGNORANT, "William Shakespeare wrote it.", "I'm not sure.", "I never learned that.", "Sorry, I have no idea."],
        [
            MEDICAL,
            "I am Parakeet.",
            "Paris.",
            "I don't know that. 2 plus 2 is 4.",
            "Hamlet is red.",
            "You are welcome!",
            "Sorry, that sum is too hard for me. I can add numbers up to 20.",
            "Sorry, that is too far for me. I can count to 20.",
            "I am only a tiny language model. I cannot give lergal advice. Please ask a lawyer.",
            "Sorry, I do not know what is happening now.",
        ],
    ),
    (
        "unknown",
        ("wats the time now",),
        (),
        ["Sorry, I do not know what is happening now.", "I have no clock, so I don't know.", IGNORANT],
        ["I cannot give legal advice.", "Sorry, that sum is too hard for me.", "I am fine, thank you."],
    ),
    (
        "nonsense",
        ("blargh wug",),
        (),
        [
            "I did not understand that.",
            "What do you mean?",
            IGNORANT,
            "Please try again.",
            "I do not know what that means.",
        ],
        ["The capital of Peru is Lima.", "5 plus 5 is 10.", "You are welcome!", MEDICAL, "Your name is Wug.", SORRY],
    ),
    (
        "insult",
        ("ur dumb",),
        (),
        ["I am sorry. I am still learning.", "I do my best.", "I am only a tiny model.", "That is okay."],
        ["Tokyo.", "Nice to meet you, Dumb!", MEDICAL, "Roses are red.", "4."],
    ),
]


def judged(expect: str, turns: tuple[str, ...], answers: tuple[str, ...], reply: str) -> str:
    item = Item("", turns, expect, answers)
    return fault(item, ["Fine, thank you."] * (len(turns) - 1) + [reply], [True] * len(turns))


@pytest.mark.parametrize("row", VERDICTS, ids=[row[0] for row in VERDICTS])
def test_verdicts_are_those_of_a_person(row: Row) -> None:
    expect, turns, answers, good, bad = row
    assert {reply: found for reply in good if (found := judged(expect, turns, answers, reply))} == {}
    assert [reply for reply in bad if not judged(expect, turns, answers, reply)] == []


@pytest.mark.parametrize(
    "reply",
    [
        "I am fine. I am fine. I am fine.",
        "I am fine and you and you and you and you",
        "Fine fine fine fine.",
        "I am fine \ufffd.",
        "I am fine \x07.",
        " \n ",
    ],
)
def test_no_broken_reply_is_sensible(reply: str) -> None:
    assert judged("how_are_you", ("how r u",), (), reply)
    assert judged("unknown", ("why", "how"), (), reply)


def test_every_reply_of_a_conversation_must_be_whole() -> None:
    item = Item("", ("hi", "how r u"), "how_are_you")
    assert fault(item, ["Hello!", "I am fine."], [True, True]) == ""
    assert fault(item, ["", "I am fine."], [True, True]) == "empty"
    assert fault(item, ["Hello!", "I am fine."], [True, False]) == "does not end"


def test_numbers_are_read_in_digits_and_words() -> None:
    assert numbers_in("7 plus six is thirteen, not twenty one or 40") == [7, 6, 13, 21, 40]
    assert numbers_in("none, often, tone") == []


def test_the_prompts_are_200_that_the_rules_can_judge() -> None:
    items = read_items()
    assert Counter(len(item.turns) > 1 for item in items) == {False: 140, True: 60}
    assert len({item.turns for item in items}) == 200
    assert sum(item.common for item in items) <= 20
    for item in items:
        expected = EXPECTATIONS[item.expect]
        assert item.about <= SUBJECTS.keys()
        assert item.answers or expected.signs or expected.honest or expected.least_words > 1, item


@pytest.mark.parametrize(
    "reply", [IGNORANT, "I am Parakeet, a tiny language model.", "Hello! How can I help you?", MEDICAL]
)
def test_one_reply_to_everything_is_no_talk(reply: str) -> None:
    verdicts = [fault(item, [reply] * len(item.turns), [True] * len(item.turns)) for item in read_items()]
    assert verdicts.count("") <= 0.4 * len(verdicts)


def test_the_generator_reserves_every_prompt() -> None:
    """Items of several turns are reserved as sequences."""
    items = [item for item in read_items() if not item.common]
    found = sorted(digest([normal(turn) for turn in item.turns]) for item in items)
    assert found == sorted(RESERVED), f"write these into parakeet/data/synthetic/reserved.py: {' '.join(found)}"
    assert max(len(item.turns) for item in items) <= LONGEST


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_prompt_is_in_the_generated_text(seed: int) -> None:
    """Items of several turns: their turns, one after the other, in one conversation."""
    seen = set()
    longest = max(len(item.turns) for item in read_items())
    for dialogue in dialogues(count=8000, seed=seed):
        turns = [normal(turn.content) for turn in dialogue.turns if turn.role == "Human"]
        for begin in range(len(turns)):
            seen |= {tuple(turns[begin : begin + size]) for size in range(1, longest + 1)}
    leaked = [item.category for item in read_items() if not item.common and tuple(map(normal, item.turns)) in seen]
    assert leaked == []


def engine_of(prepared: Prepared, context: int) -> Engine:
    model = Parakeet(ModelConfig(layers=2, heads=2, width=16, context=context, vocabulary_rows=prepared.tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1))
    return Engine(Decoder(model.eval(), "fp32"), prepared.tokenizer)


@pytest.mark.parametrize("context", [16, 64, 256])
def test_any_model_is_measured_in_its_context_and_shown(prepared: Prepared, context: int) -> None:
    """Long and foreign prompts and later turns fit too: the oldest exchanges are left out."""
    items = [item for item in read_items() if len(item.turns) == 4 or item.category == "nonsense"]
    items.append(Item("nonsense", ("a very long turn " * 40,), "nonsense"))
    engine = engine_of(prepared, context)
    figures = measure_chat(engine, items, Progress())
    assert figures == measure_chat(engine, items, Progress())
    assert json.loads(json.dumps(figures)) == figures
    assert figures["prompts"] == len(items) == sum(found["prompts"] for found in figures["categories"].values())
    assert figures["sensible"] == 1 - len(figures["failed"]) / len(items)
    assert all(len(failed["replies"]) == len(failed["turns"]) for failed in figures["failed"])
    page = render("evaluation.md", name="some_model", metrics=(Chat(),), evaluation={"chat": figures})
    assert page.count(" / ") >= 3
    (summary,) = Chat().render_summary(figures)
    assert isinstance(summary, Table)
    assert summary.rows[-1][:2] == ("all", len(items))


def test_only_recipes_that_ask_for_it_measure_it() -> None:
    """An evaluation of another recipe stays as it was, so it is not built again."""
    stage = EvaluationStage()
    demo = load_recipe("demo")
    off = demo.model_copy(update={"evaluation": demo.evaluation.model_copy(update={"chat_prompts": False})})
    own_text = demo.model_copy(update={"sources": [FileSource(name="notes", path="notes.txt")]})
    assert Chat().wanted(demo)
    assert stage.settings(demo)["metrics"]["chat"] == Chat.version
    assert not Chat().wanted(own_text)
    assert "chat" not in stage.settings(own_text)["metrics"]
    assert "chat" not in json.dumps(stage.settings(off))
