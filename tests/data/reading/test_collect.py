import gzip
from pathlib import Path
from typing import Any

import pytest

from parakeet.data.synthetic import dialogues
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import Columns, FileSource, Source, SyntheticSource

from . import collecting
from .collecting import documents, jsonl, recipe_of, rows

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def collect(output: Path, *sources: Source) -> dict[str, Any]:
    return collecting.collect(output, recipe_of(*sources))


def texts(count: int) -> list[dict[str, str]]:
    return [{"text": f"text {number}"} for number in range(count)]


def test_sources_come_in_the_recipes_order(tmp_path: Path, output: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2.txt").write_text("second\n", encoding="utf-8")
    (tmp_path / "b/1.md.gz").write_bytes(gzip.compress(b"first\n"))
    chats = jsonl(tmp_path / "a.jsonl", [{"q": "Hi", "a": "é"}])
    counts = collect(
        output,
        FileSource(name="z", path=str(tmp_path / "b"), licence="MIT"),
        FileSource(name="a", path=chats, columns=Columns(human="q", assistant="a")),
    )
    assert [(d.source, d.licence, d.content) for d in documents(output)] == [
        ("z", "MIT", "first"),
        ("z", "MIT", "second"),
        ("a", "unknown", "Hi\né"),
    ]
    nothing_bad = {"bad": 0, "not_taken": 0, "bad_reasons": {}, "notes": {}, "unused_columns": {}}
    assert counts == {
        "documents": 3,
        "records": 3,
        "bytes": 15,
        "sources": {
            "z": {"files": 2, "records": 2, "documents": 2, "bytes": 11, "licence": "MIT", **nothing_bad},
            "a": {"files": 1, "records": 1, "documents": 1, "bytes": 4, "licence": "unknown", **nothing_bad},
        },
    }
    assert rows(output / "problems.jsonl") == rows(output / "questions.jsonl") == []


def test_every_record_is_accounted_for(tmp_path: Path, output: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*texts(998), {"body": "\x1b[2J" + "x" * 500}, [1]])
    counts = collect(output, FileSource(name="mine", path=path))["sources"]["mine"]
    assert (counts["records"], counts["documents"], counts["bad"]) == (1000, 998, 2)
    assert counts["bad_reasons"] == {"unknown columns": 1, "not a JSON object": 1}
    unknown, no_object = rows(output / "problems.jsonl")
    assert (unknown["source"], unknown["file"], unknown["row"]) == ("mine", "a.jsonl", 999)
    assert unknown["reason"].startswith("unknown columns: body")
    assert len(unknown["excerpt"]) == 200
    assert no_object == {
        "source": "mine",
        "file": "a.jsonl",
        "row": 1000,
        "reason": "not a JSON object",
        "excerpt": "[1]",
    }


def test_a_note_is_counted(tmp_path: Path, output: Path) -> None:
    messages = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    counts = collect(output, FileSource(name="mine", path=path))["sources"]["mine"]
    assert counts["notes"] == {"trailing Human turn without a reply dropped": 1}


@pytest.mark.parametrize("bad", [10, 11])
def test_more_than_one_in_a_hundred_bad_stops(tmp_path: Path, output: Path, bad: int) -> None:
    broken = [{"text": f"\x1b]0;title\x07{number}\0"} for number in range(bad)]
    path = jsonl(tmp_path / "a.jsonl", broken + texts(1000 - bad))
    source = FileSource(name="mine", path=path)
    if bad == 10:
        assert collect(output, source)["sources"]["mine"]["bad"] == 10
        return
    with pytest.raises(ParakeetError, match=r"mine: 11 of 1,000 records") as error:
        collect(output, source)
    shown = str(error.value).splitlines()[1:]
    assert [line.partition(": NUL")[0] for line in shown] == [f"  {path}:{row}" for row in range(1, 6)]
    assert not {"\x1b", "\x07", "\0"} & set(str(error.value))


NORMAL = [
    {"messages": []},
    {"messages": [{"role": "user", "content": "Hm?"}]},
    {"messages": [{"role": "assistant", "content": "Hm."}]},
    {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": " "}]},
    {"text": ""},
]


@pytest.mark.parametrize("good", [200, 199])
def test_what_is_normal_in_published_sets_may_be_half_of_a_source(tmp_path: Path, output: Path, good: int) -> None:
    path = jsonl(tmp_path / "a.jsonl", NORMAL * 40 + texts(good))
    source = FileSource(name="mine", path=path)
    if good == 200:
        counts = collect(output, source)["sources"]["mine"]
        reasons = ["empty conversation", "empty text", "empty turn", "no Human turn", "no reply"]
        assert counts["bad_reasons"] == dict.fromkeys(reasons, 40)
        assert (counts["records"], counts["documents"]) == (400, 200)
        return
    with pytest.raises(ParakeetError, match=r"200 of 399 records .*empty text.* at most 50% .*\n.*a\.jsonl:1: empty"):
        collect(output, source)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "good"}, {"text": "bad\0"}], ""),
        ([*texts(97), {"text": ""}, [1]], ""),
        ([*texts(97), {"text": "bad\0"}, [1]], r"2 of 99 records .*\(NUL character, not a JSON object\).* at most 1%"),
        ([{"text": ""}, [1]], r"2 of 2 records cannot be used \(empty text, not a JSON object\)\."),
        ([[1]], "1 of 1 records cannot be used"),
    ],
)
def test_a_small_source_may_have_one_bad_record(tmp_path: Path, output: Path, records: list[Any], message: str) -> None:
    source = FileSource(name="mine", path=jsonl(tmp_path / "a.jsonl", records))
    if not message:
        assert collect(output, source)["sources"]["mine"]["documents"] > 0
        return
    with pytest.raises(ParakeetError, match=message):
        collect(output, source)


def test_what_is_normal_does_not_hide_the_faults_that_refuse_a_source(tmp_path: Path, output: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": ""}] * 150 + [[1], [2], [3], [4]] + texts(200))
    with pytest.raises(ParakeetError, match=r"4 of 354 records .*\(not a JSON object\)") as error:
        collect(output, FileSource(name="mine", path=path))
    assert [line.split(":")[1] for line in str(error.value).splitlines()[1:]] == ["151", "152", "153", "154"]


def test_only_the_first_hundred_problems_are_kept(tmp_path: Path, output: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": ""}] * 150)
    with pytest.raises(ParakeetError, match="150 of 150"):
        collect(output, FileSource(name="mine", path=path))
    assert [problem["row"] for problem in rows(output / "problems.jsonl")] == list(range(1, 101))


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_an_empty_source_stops(tmp_path: Path, output: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    full = FileSource(name="full", path=jsonl(tmp_path / "b.jsonl", texts(1)))
    with pytest.raises(ParakeetError, match=r"hollow \(.*a\.json\) is empty"):
        collect(output, full, FileSource(name="hollow", path=str(tmp_path / "a.json")))


def test_a_synthetic_source_brings_its_questions(output: Path) -> None:
    counts = collect(output, SyntheticSource(name="talk", kind="synthetic", documents=400, seed=5))
    assert counts["sources"]["talk"]["documents"] == counts["records"] == 400
    expected = list(dialogues(count=400, seed=5))
    found = documents(output)
    assert [d.content for d in found] == ["\n".join(turn.content for turn in d.turns) for d in expected]
    assert [(d.metadata, d.held_out) for d in found] == [({"task": d.task}, d.split == "held_out") for d in expected]
    assert {d.held_out for d in found} == {True, False}
    questions = rows(output / "questions.jsonl")
    assert {row["source"] for row in questions} == {"talk"}
    tasks = [row["task"] for row in questions]
    assert all(tasks.count(task) == 3 for task in tasks)
    assert all(row["prompt"] and row["answer"] for row in questions)


@pytest.mark.parametrize(
    ("name", "records", "bad"),
    [
        # Line 1779 is a string that was cut into turns of one letter each, the blanks among them.
        ("chatterbot-english.jsonl", 2026, 1),
        ("gsm8k-train.jsonl", 7473, 0),
        ("gsm8k-test.jsonl", 1319, 0),
        ("alpaca-en-1k.json", 999, 0),
        ("gpteacher-roleplay.json", 1923, 0),
        ("tinyshakespeare.txt", 259, 0),
        ("peps.jsonl.gz", 746, 0),
        ("books.jsonl.gz", 56, 0),
    ],
)
def test_real_corpora(name: str, records: int, bad: int, output: Path) -> None:
    if not (CORPORA / name).is_file():
        pytest.skip(f"{CORPORA / name} is not there")
    counts = collect(output, FileSource(name="real", path=str(CORPORA / name)))["sources"]["real"]
    assert (counts["records"], counts["bad"]) == (records, bad)
    if name.startswith("gsm8k"):
        replies = [document.turns[1].content for document in documents(output)]
        assert not any("<<" in reply or "####" in reply for reply in replies)
        assert all(reply.splitlines()[-1].startswith("The answer is ") for reply in replies)
    if name.startswith("tiny"):
        original = (CORPORA / name).read_text(encoding="utf-8")
        assert " ".join(document.content for document in documents(output)).split() == original.split()
