"""Decontamination: every copy of an evaluation set is caught, however it is written, and hardly anything else."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.cleaning.decontaminate import EvaluationIndex, build_index, folded_words
from parakeet.data.documents import Document, parts, read_documents
from parakeet.data.reading.shapes import shape
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Decontamination
from parakeet.recipe_sources import FileSource

from .cleaning import PROSE, chat, clean, plain

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"


def rows_of(name: str) -> list[dict[str, str]]:
    if not (CORPORA / name).exists():
        pytest.skip(f"{name} is not on this machine")
    return [json.loads(line) for line in (CORPORA / name).read_text(encoding="utf-8").splitlines()]


def index_of(folder: Path, records: Sequence[Any], words: int = 13, **columns: str) -> EvaluationIndex:
    """The index of one set with these records, as the tasks read it."""
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    chosen = {"name": "set", "path": str(path), "columns": columns or None}
    progress = Progress(io.StringIO())
    decontamination = Decontamination.model_validate({"sets": [chosen], "words": words})
    build_index(decontamination, {}, progress).save(folder / "set.npz")
    return EvaluationIndex.load(folder / "set.npz")


def mapped(row: dict[str, str]) -> Document:
    return shape(row, FileSource(name="a", path="a.jsonl")).document


def disguised(number: int, row: dict[str, str]) -> str:
    """A question and its answer inside a longer text, in capitals and with other white space."""
    text = f"{row['question']}\n\nAnswer: {row['answer']}".upper().replace(
        " ", ("  ", "\n", "\t", " \r\n ")[number % 4]
    )
    return f"Exercise {number}.\n\n{text}\n\nThat was exercise {number}. {PROSE}"


def test_the_whole_of_gsm8k_test_is_caught_in_three_disguises(tmp_path: Path) -> None:
    rows = rows_of("gsm8k-test.jsonl")
    raw = [chat(row["question"], row["answer"]) for row in rows]
    texts = [plain(disguised(number, row), "b") for number, row in enumerate(rows)]
    innocent = [plain(f"{PROSE} {number}", "b") for number in range(10)]
    chosen = [{"name": "gsm8k-test", "path": str(CORPORA / "gsm8k-test.jsonl")}]
    groups = [raw, [mapped(row) for row in rows], texts, innocent]
    output, counts = clean(tmp_path, *groups, sets=chosen, repetition=None)
    reason = "contaminated: gsm8k-test"
    assert len(rows) == 1319
    assert counts["sources"]["a"] == {"kept": 0, "dropped": {reason: 2 * 1319}, "found": {}}
    assert counts["sources"]["b"] == {"kept": 10, "dropped": {reason: 1319}, "found": {}}
    assert counts["evaluation_sets"] == {
        "gsm8k-test": {"records": 1319, "short": 0, "bad": 0, "found": 1319, "documents": 3 * 1319}
    }
    assert list(read_documents(parts(output))) == innocent
    example = json.loads((output / "dropped.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert example["reason"] == reason
    assert example["excerpt"] == " ".join(folded_words(rows[0]["question"])[:13])


def test_almost_nothing_of_gsm8k_train_matches_the_test_set(tmp_path: Path) -> None:
    rows_of("gsm8k-test.jsonl")
    chosen = {"sets": [{"name": "gsm8k-test", "path": str(CORPORA / "gsm8k-test.jsonl")}]}
    index = build_index(Decontamination.model_validate(chosen), {}, Progress(io.StringIO()))
    train = [mapped(row).content for row in rows_of("gsm8k-train.jsonl")]
    assert len(train) == 7473
    assert sum(index.find(text) is not None for text in train) <= 10


WORD = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=3)


@given(st.data(), st.lists(WORD, min_size=5, max_size=30), st.integers(5, 12))
def test_any_window_is_caught(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, record: list[str], words: int
) -> None:
    if len(record) < words:
        record = record * 3
    index = index_of(tmp_path_factory.mktemp("set"), [{"text": " ".join(record)}], words)
    start = data.draw(st.integers(0, len(record) - words))
    gaps = data.draw(st.lists(st.sampled_from([" ", "\n", ", ", ". ", " - "]), min_size=words, max_size=words))
    window = "".join(word + gap for word, gap in zip(record[start : start + words], gaps, strict=True))
    before, after = data.draw(st.lists(WORD, max_size=5)), data.draw(st.lists(WORD, max_size=5))
    hits = index.find(" ".join([*before, window.upper(), *after]))
    assert hits is not None
    assert hits.sets == {"set": [0]}


@given(st.lists(WORD, min_size=5, max_size=40), st.lists(WORD, max_size=60), st.integers(5, 12))
def test_only_so_many_words_in_a_row_are_caught(
    tmp_path_factory: pytest.TempPathFactory, record: list[str], text: list[str], words: int
) -> None:
    if len(record) < words:
        record = record * 3
    index = index_of(tmp_path_factory.mktemp("set"), [{"text": " ".join(record)}], words)
    windows = {tuple(record[n : n + words]) for n in range(len(record) - words + 1)}
    shared = any(tuple(text[n : n + words]) in windows for n in range(len(text) - words + 1))
    assert (index.find(" ".join(text)) is not None) == shared
    # Every run of one word less, with a word between that the record does not have.
    broken = [word for n in range(0, len(record), words - 1) for word in [*record[n : n + words - 1], "zzz"]]
    assert index.find(" ".join(broken)) is None


def test_a_short_question_is_caught_with_its_whole_answer(tmp_path: Path) -> None:
    records = [
        {"question": "What is seven plus 5?", "answer": "7+5=<<7+5=12>>12\n#### 12", "id": "q1"},
        {"question": "Who wrote Emma?", "answer": "Jane Austen."},
        {"question": "What are two and two?", "answer": "4"},
    ]
    index = index_of(tmp_path, records)
    assert (index.sets[0].records, index.sets[0].short) == (3, 0)
    for text in (
        "What is seven plus 5?\n7+5=12\nThe answer is 12.",
        "what is SEVEN plus 5\n\n7+5=<<7+5=12>>12 #### 12",
        "So: What is seven plus 5? Answer: 7+5=12. The answer is 12. Well done.",
        "Human: Who wrote Emma?\n\nAssistant: Jane Austen",
        "What are two and two? A: 4",
    ):
        assert index.find(text) is not None, text
    for text in ("What is seven plus 5?", "Jane Austen wrote Emma.", "Who wrote Emma? I do not know: Jane Austen?"):
        assert index.find(text) is None, text


def test_a_short_text_is_caught_whole_and_the_shortest_are_counted(tmp_path: Path) -> None:
    index = index_of(tmp_path, [{"text": "To be or not to be"}, {"text": "Once more"}])
    assert (index.sets[0].records, index.sets[0].short) == (1, 1)
    assert index.find("He said: to be, or not to be?") is not None
    assert index.find("To be or not to") is None
    assert index.find("Once more") is None


def test_records_of_other_shapes_are_caught_as_they_stand_in_the_file(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(14))
    system = " ".join(f"rule{n}" for n in range(14))
    records = [
        {"ctx": "A short one", "endings": [long, "another"], "label": 0},
        {"question": "Which is red of these here?", "choices": ["blood", "grass"], "answer": 0},
        {
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": "Is it so?"},
                {"role": "assistant", "content": "It is so."},
            ]
        },
    ]
    index = index_of(tmp_path, records)
    assert index.sets[0].records == 3
    assert [index.find(text) is not None for text in (long, "Which is red of these here?\nBlood", system)] == [
        True,
        True,
        False,
    ]
    assert index.find("is it so\nit is so") is not None


def test_neither_case_nor_form_of_letters_hides_a_copy(tmp_path: Path) -> None:
    text = "Die Straße führt ﬁnster über schöne Hügel und weiter bis an das große Meer dort"
    index = index_of(tmp_path, [{"text": text}])
    for copy in (text.upper(), text.replace("ﬁ", "fi"), text.replace("ö", "o\u0308"), text.replace("ß", "ss")):
        assert index.find(copy) is not None


def test_a_window_joins_a_question_and_its_reply(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(13)]
    index = index_of(tmp_path, [{"text": " ".join(words)}])
    assert index.find(chat(" ".join(words[:6]), " ".join(words[6:])).content) is not None


def test_two_sets_are_counted_apart(tmp_path: Path) -> None:
    texts = [" ".join(f"{name}{n}" for n in range(20)) for name in ("one", "two")]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.jsonl").write_text((json.dumps({"text": text}) + "\n") * 99 + "no record\n")
    sets = [{"name": f"set-{number}", "path": str(tmp_path / f"{number}.jsonl")} for number in range(2)]
    documents = [plain(texts[1]), plain(f"{texts[1]}\n{texts[0]}"), plain(PROSE)]
    _, counts = clean(tmp_path, documents[:1], documents[1:], sets=sets, workers=2)
    assert counts["sources"]["a"]["dropped"] == {"contaminated: set-0": 1, "contaminated: set-1": 1}
    about = {"records": 99, "short": 0, "bad": 1, "found": 99}
    assert counts["evaluation_sets"] == {"set-0": {**about, "documents": 1}, "set-1": {**about, "documents": 2}}


def test_a_set_with_nothing_to_look_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"Evaluation set set .* 0 of its records cannot be read, 1 are too short"):
        index_of(tmp_path, [{"text": "Too short"}])
    sets = [{"name": "gone", "path": str(tmp_path / "nothing.jsonl")}]
    with pytest.raises(ParakeetError, match="gone"):
        clean(tmp_path, [plain(PROSE)], sets=sets)


def test_a_set_of_which_much_cannot_be_read_is_refused(tmp_path: Path) -> None:
    good = {"text": PROSE}
    assert index_of(tmp_path, [*[good] * 99, 5]).sets[0].bad == 1
    with pytest.raises(
        ParakeetError, match=r"set: 2 of its records .*at most 1% .*\n  .*set\.jsonl:3: not a JSON object"
    ):
        index_of(tmp_path, [good, good, 5, 6, *[good] * 100])
