from pathlib import Path

import pytest

from parakeet.conversation import Turn
from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.questions import Question, read_questions, refuse_leaks, write_questions
from parakeet.errors import ParakeetError


def test_questions_come_back(tmp_path: Path) -> None:
    questions = [Question("s", "t", "Wie geht’s?", "Gut."), Question("s", "t", "a\nb", "c")]
    write_questions(tmp_path, questions)
    assert read_questions(tmp_path) == questions


def test_a_leaked_question_is_refused_by_name(tmp_path: Path) -> None:
    with DocumentWriter(tmp_path) as writer:
        for words, reply, held_out in (("So: WHAT is up?", "Up.", False), ("Held?", "Yes.", True)):
            turns = (Turn("Human", words), Turn("Assistant", reply))
            writer.write(Document("a", "MIT", turns, {"held_out": held_out}))
    refuse_leaks(tmp_path, [Question("s", "t", "Held?", "Yes.")])
    refuse_leaks(tmp_path, [])
    with pytest.raises(ParakeetError, match="what is up"):
        refuse_leaks(tmp_path, [Question("s", "t", "What is up?", "Up.")])
