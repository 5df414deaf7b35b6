"""The synthetic source: reproducible, distinct, correct, and with no held-out question in the training text."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydivsufsort import divsufsort, sa_search

from parakeet.data.synthetic import MAXIMUM_DIALOGUES, TASKS, Dialogue, dialogues, held_out_questions
from parakeet.data.synthetic.facts import CAPITALS, COLOURS, NUMBER_WORDS, OPPOSITES, known_words
from parakeet.data.synthetic.sayings import sayings, unlike
from parakeet.data.synthetic.scored_tasks import spelt_words
from parakeet.data.synthetic.unknowns import made_up_word
from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.tokenizer import train_tokenizer

SEEDS = st.integers(min_value=0, max_value=2**32)
ALL = 10**6  # more than any task has
WORDS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
FRAME = re.compile(
    r"^(Hi!|Hello!|Hello, Parakeet\.|Good \w+!|Excuse me\.|I have a question\.|\w+ question:|Parakeet,|OK,|So,) "
    r"| (Thanks!|Thank you\.|Be brief, please\.|I need it for school\.|I am in a hurry\.)$"
)


def test_sayings_are_distinct_and_none_has_a_slot_left_in_the_training_text() -> None:
    sections = Path(sayings.__code__.co_filename).with_name("sayings.txt").read_text("utf-8").strip().split("\n\n")
    intents = [section.splitlines()[0] for section in sections]
    assert len(set(intents)) == len(intents)
    for intent in intents:
        said = sayings(intent.strip("[]"))
        assert said, intent
        assert len(set(said)) == len(said), intent
    assert not re.search(r"\{[A-Za-z]\w*\}", haystack(dialogues(20_000, 3)))


def test_sayings_like_a_question_that_may_be_held_out_are_left_out() -> None:
    assert unlike(["so whats {x}s capital", "hm what IS the capital, of {x}"], ["What is the capital of {x}?"]) == (
        "so whats {x}s capital",
    )
    assert unlike(["recount to {b}"], ["Count to {b}."]) == ("recount to {b}",)


def training_turns(drawn: Iterable[Dialogue]) -> list[str]:
    return [turn.content for dialogue in drawn if dialogue.split == "train" for turn in dialogue.turns]


def training_replies(drawn: Iterable[Dialogue]) -> list[str]:
    return [t.content for d in drawn if d.split == "train" for t in d.turns if t.role == "Assistant"]


def haystack(drawn: Iterable[Dialogue]) -> str:
    """Every training turn once in one string: a search through it finds a question inside any of them."""
    return "\n".join(dict.fromkeys(turn.strip().casefold() for turn in training_turns(drawn)))


def bare(prompt: str) -> str:
    """A question without its opener and closer, in lower case."""
    return FRAME.sub("", prompt).strip().casefold()


def check_worked_out(task: str, question: str, answer: str) -> None:
    """The answer of a counting, arithmetic or spelling question is right, and answers this question."""
    asked = question.casefold()
    if task == "spelling":
        word = answer.replace("-", "").rstrip(".")
        assert answer == "-".join(word) + "."
        assert re.search(rf"\b{word}\b", asked), (question, answer)
        return
    numbers = {WORDS.get(part, part) for part in re.findall(r"\d+|[a-z]+", asked)}
    if task == "counting":
        listed = [int(number) for number in answer.rstrip(".").split(", ")]
        step = 1 if listed[0] < listed[-1] else -1
        assert listed == list(range(listed[0], listed[-1] + step, step))
        ends = {str(listed[0]), str(listed[-1])}
        assert ends - {"1"} <= numbers, (question, answer)
        return
    for chain in re.findall(r"[-+=\d]+", answer):
        (a, _, b, result), *_ = read_sums(chain)
        assert {str(a), str(b)} <= numbers, (question, answer)
        assert chain.endswith(f"={result}")


def read_sums(answer: str) -> list[tuple[int, str, int, int]]:
    """ "7+2=8+1=9, 9-1=8." as numbers and signs with the result of their chain: 7+2=9, 8+1=9, 9-1=8."""
    chains = (match[0].split("=") for match in re.finditer(r"\d+[-+]\d+(?:=\d+[-+]\d+)*=\d+", answer))
    members = ((re.fullmatch(r"(\d+)([-+])(\d+)", member), chain[-1]) for chain in chains for member in chain[:-1])
    return [(int(m[1]), m[2], int(m[3]), int(result)) for m, result in members if m]


@pytest.fixture(scope="module")
def drawn() -> list[Dialogue]:
    return list(dialogues(20_000, 12))


def test_another_process_with_another_hash_seed_makes_the_same_text() -> None:
    program = (
        "from hashlib import sha256\n"
        "from parakeet.data.synthetic import dialogues, held_out_questions\n"
        "print(sha256(repr((list(dialogues(500, 3)), held_out_questions(20, 3))).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_another_seed_makes_other_text_and_another_split() -> None:
    assert list(dialogues(100, 1)) != list(dialogues(100, 2))
    assert {question.prompt for question in held_out_questions(ALL, 1)} != {
        question.prompt for question in held_out_questions(ALL, 2)
    }


@settings(max_examples=15)
@given(seed=SEEDS, count=st.integers(min_value=0, max_value=300))
def test_dialogues_are_distinct_well_formed_and_a_prefix_of_a_longer_run(seed: int, count: int) -> None:
    drawn = list(dialogues(count, seed))
    assert len(drawn) == count
    assert len({dialogue.turns for dialogue in drawn}) == count
    assert drawn == list(islice(dialogues(count + 50, seed), count))
    for dialogue in drawn:
        roles = [turn.role for turn in dialogue.turns]
        body = roles[1:] if roles[0] == "System" else roles
        assert body == ["Human", "Assistant"] * (len(body) // 2)
        assert body
        for turn in dialogue.turns:
            assert turn.content == turn.content.strip() != ""
            if turn.role != "Human":
                assert turn.content == " ".join(turn.content.split())
                assert turn.content.isascii()
                assert turn.content[-1] in ".?!"
                assert re.match(r"[A-Z0-9]|[a-z]-[a-z]-", turn.content)
                assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|[{}]|\.\.", turn.content), turn.content


def test_a_large_corpus_is_distinct_and_about_three_per_cent_held_out() -> None:
    drawn = list(dialogues(60_000, 5))
    assert len({dialogue.turns for dialogue in drawn}) == 60_000
    held_out = [dialogue for dialogue in drawn if dialogue.split == "held_out"]
    assert 0.025 < len(held_out) / len(drawn) < 0.035
    assert {dialogue.task for dialogue in held_out} == set(TASKS)
    assert {dialogue.split for dialogue in drawn} == {"train", "held_out"}


def test_held_out_dialogues_are_held_out_questions() -> None:
    questions = {(q.task, q.prompt, q.answer) for q in held_out_questions(ALL, 11)}
    for dialogue in dialogues(10_000, 11):
        if dialogue.split == "held_out":
            prompt, answer = (turn.content for turn in dialogue.turns)
            assert (dialogue.task, prompt, answer) in questions


@pytest.mark.parametrize("seed", [0, 4, 2**40])
def test_no_held_out_question_occurs_in_a_training_turn(seed: int) -> None:
    """Not even without its opener and closer: a phrasing is held out in every frame."""
    text = haystack(dialogues(30_000, seed)).encode()
    questions = {bare(question.prompt) for question in held_out_questions(ALL, seed)}
    assert len(questions) > 6 * 200
    # `in` would take seconds for thousands of questions.
    order = divsufsort(np.array(bytearray(text)))
    assert sa_search(text, order, text[1000:1020])[0] > 0
    assert [question for question in sorted(questions) if sa_search(text, order, question.encode())[0]] == []


@settings(max_examples=10)
@given(seed=SEEDS, per_task=st.integers(min_value=0, max_value=260))
def test_held_out_questions_are_distinct_and_enough(seed: int, per_task: int) -> None:
    questions = held_out_questions(per_task, seed)
    assert Counter(question.task for question in questions) == Counter(dict.fromkeys(TASKS, per_task))
    assert len({question.prompt.casefold() for question in questions}) == len(questions)
    assert list(dict.fromkeys(question.task for question in questions)) == (list(TASKS) if per_task else [])


def test_fewer_questions_are_the_first_of_more() -> None:
    few, many = held_out_questions(40, 9), held_out_questions(300, 9)
    for task in TASKS:
        assert [q for q in few if q.task == task] == [q for q in many if q.task == task][:40]


def test_two_hundred_questions_are_two_hundred_pairs_of_fact_and_phrasing() -> None:
    questions = held_out_questions(200, 6)
    for task in TASKS:
        assert len({bare(question.prompt) for question in questions if question.task == task}) == 200


@pytest.mark.parametrize("seed", [0, 8])
def test_counting_arithmetic_and_spelling_answers_are_right(seed: int) -> None:
    tasks = {"counting", "arithmetic", "spelling"}
    worked_out = [(q.task, q.prompt, q.answer) for q in held_out_questions(600, seed) if q.task in tasks]
    worked_out += [
        (dialogue.task, dialogue.turns[-2].content, dialogue.turns[-1].content)
        for dialogue in dialogues(5_000, seed)
        if dialogue.task in tasks
    ]
    for task, question, answer in worked_out:
        check_worked_out(task, question, answer)


def test_every_sum_of_the_training_text_is_right(drawn: list[Dialogue]) -> None:
    replies = training_replies(drawn)
    sums = [one for reply in replies for one in read_sums(reply)]
    assert len(sums) > 5_000
    assert all(result == (a + b if sign == "+" else a - b) for a, sign, b, result in sums)


def test_fact_answers_come_from_the_tables() -> None:
    right = {f"The capital of {country} is {city}." for country, city in CAPITALS}
    right |= {f"{thing[0].upper()}{thing[1:]} is {colour}." for thing, colour in COLOURS}
    right |= {f"The opposite of {a} is {b}." for pair in OPPOSITES for a, b in (pair, pair[::-1])}
    questions = [q for q in held_out_questions(400, 2) if q.task in {"capitals", "colours", "opposites"}]
    assert {question.answer for question in questions} <= right
    for question in questions:
        subject = re.sub(r"^The (capital|opposite) of ", "", question.answer).split(" is ")[0]
        assert subject.casefold() in question.prompt.casefold()


def test_tables_give_every_question_one_answer() -> None:
    words = [word for pair in OPPOSITES for word in pair]
    assert len(words) == len(set(words))
    for table in (CAPITALS, COLOURS):
        assert len({first.casefold() for first, _ in table}) == len(table)


def test_every_held_out_fact_is_taught_in_other_words(drawn: list[Dialogue]) -> None:
    answers = set(training_turns(drawn))
    taught = [q for q in held_out_questions(ALL, 12) if q.task not in {"arithmetic", "spelling"}]
    assert {question.answer for question in taught} <= answers


def test_held_out_operands_and_words_are_never_answered_in_training(drawn: list[Dialogue]) -> None:
    answers = set(training_turns(drawn))
    unseen = [q for q in held_out_questions(ALL, 12) if q.task in {"arithmetic", "spelling"}]
    assert answers.isdisjoint(question.answer for question in unseen)
    sums = {frozenset((a, b)) for answer in answers for a, sign, b, _ in read_sums(answer) if sign == "+"}
    # What is asked, not what its answer states on the way. That is taught too.
    asked = [read_sums(q.answer)[0] for q in unseen if q.task == "arithmetic"]
    held_out = {frozenset((a, b)) for a, sign, b, _ in asked if sign == "+"}
    assert held_out
    assert sums.isdisjoint(held_out)
    differences = {(a, b) for answer in answers for a, sign, b, _ in read_sums(answer) if sign == "-"}
    held_out_differences = {(a, b) for a, sign, b, _ in asked if sign == "-"}
    assert held_out_differences
    assert differences.isdisjoint(held_out_differences)


def test_words_to_spell_are_pieces_to_the_demos_tokenizer(drawn: list[Dialogue]) -> None:
    """A word that is one token hides its letters: with 1,900 tokens, no held-out word was spelt."""
    vocabulary = load_recipe("demo").tokenizer.vocabulary
    tokenizer = train_tokenizer(training_turns(drawn)[:20_000], vocabulary)
    whole = [word for word in spelt_words() if len(tokenizer.encode(f" {word}")) == 1]
    assert len(whole) < 0.15 * len(spelt_words())


NAMED = re.compile(r"Hello, ([A-Z][a-z]*)! How can I help you\?")


def test_the_users_name_is_the_last_one_given(drawn: list[Dialogue]) -> None:
    asked = 0
    for dialogue in drawn:
        name = ""
        for turn in dialogue.turns:
            if given := NAMED.fullmatch(turn.content):
                name = given[1]
            elif turn.content.startswith("Your name is "):
                assert turn.content == f"Your name is {name}."
                asked += 1
            elif turn.content.startswith("I don't know your name."):
                assert not name
    assert asked > 100


def test_half_of_the_dialogues_are_typed_carelessly(drawn: list[Dialogue]) -> None:
    human = [t.content for d in drawn if d.split == "train" for t in d.turns if t.role == "Human"]
    shares = {
        "lower case": sum(text == text.lower() and text.lower() != text.upper() for text in human) / len(human),
        "no end": sum(text[-1].isalnum() for text in human) / len(human),
    }
    assert all(0.3 < share < 0.7 for share in shares.values()), shares
    text = "\n".join(human)
    for habit in ("whats", "how r u", " pls", "im ", "??", "who r u", " lol", "7+5", "capital of japan"):
        assert habit in text, habit


def test_made_up_words_are_in_no_table() -> None:
    words = {made_up_word(Random(seed), 1 + seed % 2) for seed in range(3_000)}
    assert len(words) > 2_000
    assert words.isdisjoint(known_words())


def test_what_it_cannot_do_is_declined_whatever_it_is(drawn: list[Dialogue]) -> None:
    declined = {}
    for dialogue in drawn:
        if dialogue.task == "unknown":
            question, reply = dialogue.turns[-2:]
            assert reply.content.startswith("Sorry"), question
            declined[reply.content] = declined.get(reply.content, 0) + 1
    assert len(declined) == 11
    assert min(declined.values()) >= 5


def test_unscored_families_are_there() -> None:
    drawn = list(dialogues(5_000, 1))
    free = {"identity", "greeting", "small_talk", "thanks", "joke", "poem", "story", "facts", "unknown", "drill"}
    assert {dialogue.task for dialogue in drawn} == {*TASKS, *free, "introduction", "conversation"}
    for dialogue in drawn:
        if dialogue.task == "story":
            assert 3 <= len(re.findall(r"[.!]", dialogue.turns[-1].content)) <= 5
    with_system = sum(dialogue.turns[0].role == "System" for dialogue in drawn)
    assert 0.015 < with_system / len(drawn) < 0.045
    exchanges = {sum(turn.role == "Human" for turn in d.turns) for d in drawn if d.task == "conversation"}
    assert {2, 3, 4, 5} <= exchanges


@pytest.mark.parametrize("count", [-1, MAXIMUM_DIALOGUES + 1])
def test_an_impossible_count_is_refused_at_once(count: int) -> None:
    with pytest.raises(ParakeetError, match=f"{MAXIMUM_DIALOGUES:,}"):
        dialogues(count, 0)


def test_a_negative_number_of_questions_is_refused() -> None:
    with pytest.raises(ParakeetError, match="-1"):
        held_out_questions(-1, 0)
