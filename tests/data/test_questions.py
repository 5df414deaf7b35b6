from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.documents import Document
from parakeet.data.questions import LeakSearch, Question, read_questions, write_questions


def test_questions_come_back(tmp_path: Path) -> None:
    questions = [Question("s", "t", "Wie geht’s?", "Gut."), Question("s", "t", "a\nb", "c")]
    write_questions(tmp_path, questions)
    assert read_questions(tmp_path) == questions


def found(*questions: Question) -> list[str]:
    leaks = LeakSearch(questions)
    documents = []
    for words, reply, held_out in (("So: WHAT is up?", "Up.", False), ("Held?", "Yes.", True)):
        turns = (Turn("Human", words), Turn("Assistant", reply))
        documents.append(Document("a", "MIT", turns, held_out=held_out))
    return [leaks.find(document) for document in documents]


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "Dd?", "é", "ſ", "\u2009"]), min_size=1, max_size=4).map(" ".join)


@given(prompt=WORDS, before=st.text("ab \n", max_size=3), after=st.text("ab \n", max_size=3))
def test_a_leaked_question_is_found_anywhere(prompt: str, before: str, after: str) -> None:
    leaks = LeakSearch([Question("s", "t", prompt, "Yes.")])
    text = Document("a", "MIT", (Turn("text", before + prompt.strip().upper() + after),))
    assert leaks.find(text) == prompt.strip().casefold()


def test_only_what_is_trained_on_is_searched() -> None:
    assert found(Question("s", "t", "Held?", "Yes.")) == found() == ["", ""]
    assert found(Question("s", "t", "Held?", "Yes."), Question("s", "t", "What is up?", "Up.")) == ["what is up?", ""]
