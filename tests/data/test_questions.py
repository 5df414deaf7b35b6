from pathlib import Path

import pytest

from parakeet.conversation import Turn
from parakeet.data.documents import Document
from parakeet.data.questions import LeakSearch, Question, read_questions, write_questions
from parakeet.errors import ParakeetError


def test_questions_come_back(tmp_path: Path) -> None:
    questions = [Question("s", "t", "Wie geht’s?", "Gut."), Question("s", "t", "a\nb", "c")]
    write_questions(tmp_path, questions)
    assert read_questions(tmp_path) == questions


def search(*questions: Question) -> None:
    leaks = LeakSearch(questions)
    for words, reply, held_out in (("So: WHAT is up?", "Up.", False), ("Held?", "Yes.", True)):
        turns = (Turn("Human", words), Turn("Assistant", reply))
        leaks.add(Document("a", "MIT", turns, {"held_out": held_out}))
    leaks.finish()


def test_a_leaked_question_is_refused_by_name() -> None:
    search(Question("s", "t", "Held?", "Yes."))
    search()
    with pytest.raises(ParakeetError, match="what is up"):
        search(Question("s", "t", "What is up?", "Up."))
