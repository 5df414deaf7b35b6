"""clean_documents: what is normalised, what is dropped and why, and that the number of workers changes nothing."""

import io
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.clean import EXAMPLES_PER_REASON, EXCERPT_CHARACTERS, clean_documents, normalise
from parakeet.data.documents import Document, DocumentWriter, parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

PROSE = (
    "The lighthouse keeper woke before dawn, as he had for thirty years, and climbed the narrow iron stair to trim "
    "the lamp. Below him the grey sea moved without hurry against the rocks, and a single trawler was coming home "
    "late from the banks with gulls behind it. He wrote the hour in his book, noted the wind, and put the kettle on."
)


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts would start worker processes, which takes seconds: only the tests about them do."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def recipe(**clean: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "sources": [{"name": "a", "path": "a.txt"}, {"name": "b", "path": "b.txt"}],
            "clean": clean,
            "packing": {"row_tokens": 64},
            "model": {"layers": 2, "heads": 2, "width": 16, "context": 64},
            "training": {"tokens": 1000, "batch_tokens": 64, "learning_rate": 1e-3},
        }
    )


def plain(text: str, source: str = "a") -> Document:
    return Document(source, "CC0-1.0", (Turn("text", text),), {"file": "x"})


def chat(*contents: str) -> Document:
    roles = ("Human", "Assistant")
    return Document("a", "CC0-1.0", tuple(Turn(roles[n % 2], text) for n, text in enumerate(contents)))


def write_parts(directory: Path, *groups: list[Document]) -> Path:
    directory.mkdir(parents=True)
    for number, documents in enumerate(groups):
        with DocumentWriter(directory / "new") as writer:
            for document in documents:
                writer.write(document)
        (directory / "new" / "part-00000.parquet").rename(directory / f"part-{number:05d}.parquet")
    (directory / "new").rmdir()
    return directory


def clean(tmp_path: Path, *groups: list[Document], name: str = "clean", **values: Any) -> tuple[Path, dict[str, Any]]:
    documents = write_parts(tmp_path / f"{name}-input", *groups)
    output = tmp_path / name
    output.mkdir()
    return output, clean_documents(recipe(**values), {"documents": documents}, output, Progress(io.StringIO()))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("\ufeffa\x00b\x1b[31mc\x9bd\x7f\ud800", "ab[31mcd"),
        ("tab\tkept  \nline \t\n", "tab\tkept\nline"),
        ("a\n\n\nb\n\n\n\n\n\nc", "a\n\n\nb\n\n\nc"),
        ("e\u0301", "é"),
        ("  \n\n ", ""),
        ("naïve 数 👩‍🚀", "naïve 数 👩‍🚀"),
    ],
)
def test_normalise(before: str, after: str) -> None:
    assert normalise(before) == after


@given(st.text(st.characters() | st.sampled_from("\r\n \t\x0b\x85\u2028\ufeff\x00e\u0301\ud800")))
def test_normalised_text_is_clean_and_normalising_again_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once == once.strip()
    assert unicodedata.is_normalized("NFC", once)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]| \n|\n{4}", once)


def test_each_dropped_document_has_its_reason(tmp_path: Path) -> None:
    lines = "\n".join(f"{PROSE}\nBuy now and save on every order placed today, only at our shop!" for _ in range(9))
    documents = [
        plain(PROSE),
        plain("x"),
        plain("y" * 5001),
        chat("Hello?", " \u200a\x00"),
        plain(lines),
        plain("spam eggs " * 80),
        plain(f"{PROSE}\n\n{PROSE}", "b"),
    ]
    output, counts = clean(tmp_path, documents, max_characters=5000)
    assert counts["sources"]["a"] == {
        "kept": 1,
        "dropped": {
            "empty turn": 1,
            "repetition: duplicate lines": 1,
            "repetition: one frequent phrase": 1,
            "too long": 1,
            "too short": 1,
        },
    }
    assert counts["sources"]["b"] == {"kept": 0, "dropped": {"repetition: duplicate paragraphs": 1}}
    assert (counts["documents"], counts["dropped"]) == (1, 6)
    examples = [json.loads(line) for line in (output / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(examples) == 6
    assert all(len(example["excerpt"]) <= EXCERPT_CHARACTERS for example in examples)
    assert sorted(path.name for path in output.iterdir()) == ["dropped.jsonl", "part-00000.parquet"]


def test_repetition_is_allowed_where_it_belongs(tmp_path: Path) -> None:
    speech = [line for n in range(0, 300, 60) for line in ("FIRST CITIZEN:", PROSE[n : n + 60], "")]
    documents = [plain("la la la " * 5), chat("Say it.", "yes " * 100), plain("\n".join(speech))]
    _, counts = clean(tmp_path, documents)
    assert counts["dropped"] == 0
    _, counts = clean(tmp_path, [plain("yes " * 100)], name="switched-off", repetition=False)
    assert counts["dropped"] == 0


def test_a_play_loses_almost_nothing(tmp_path: Path) -> None:
    file = Path(__file__).parents[3] / "shared/data/corpora/tinyshakespeare.txt"
    if not file.exists():
        pytest.skip("tinyshakespeare.txt is not on this machine")
    pieces = re.findall(r"(?s).{1000,}?\n\n", file.read_text(encoding="utf-8"))
    _, counts = clean(tmp_path, [plain(piece) for piece in pieces])
    assert len(pieces) > 800
    assert counts["dropped"] <= len(pieces) * 0.005


def test_documents_keep_order_source_licence_roles_and_metadata(tmp_path: Path) -> None:
    documents = [plain(f"number {n}", "ab"[n % 2]) for n in range(30)] + [chat("Hi  \r\n", "Hello")]
    output, _ = clean(tmp_path, documents[:20], documents[20:])
    assert list(read_documents(parts(output))) == [*documents[:30], chat("Hi", "Hello")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=3), min_size=1, max_size=12))
def test_every_document_is_kept_or_counted_under_a_reason(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[str]]
) -> None:
    strip_surrogates = [[text.encode("utf-8", "ignore").decode() for text in texts] for texts in contents]
    documents = [plain(texts[0]) if len(texts) == 1 else chat(*texts) for texts in strip_surrogates]
    output, counts = clean(tmp_path_factory.mktemp("property"), [*documents, plain("always kept")])
    dropped = sum(counts["sources"]["a"]["dropped"].values())
    assert counts["documents"] + dropped == len(documents) + 1
    assert dropped == counts["dropped"]
    assert len(list(read_documents(parts(output)))) == counts["documents"]


def test_examples_are_limited_per_reason(tmp_path: Path) -> None:
    output, counts = clean(tmp_path, [plain("kept"), *[plain("x")] * 15], [plain("y")] * 15)
    assert counts["sources"]["a"]["dropped"] == {"too short": 30}
    assert len((output / "dropped.jsonl").read_text().splitlines()) == EXAMPLES_PER_REASON


def test_one_worker_and_two_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[plain(f"{PROSE} {part} {n}") for n in range(20)] for part in range(2)] + [[plain("x")], [plain(PROSE)]]
    written = []
    for workers in (1, 2, 2):
        monkeypatch.setattr(os, "cpu_count", lambda workers=workers: workers)
        output, counts = clean(tmp_path, *groups, name=f"run{len(written)}")
        written.append((counts, {path.name: path.read_bytes() for path in output.iterdir()}))
    assert written[0] == written[1] == written[2]
    assert sorted(written[0][1]) == ["dropped.jsonl", *(f"part-{n:05d}.parquet" for n in range(3))]


def test_nothing_left_says_why_and_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"all 3 were dropped \(too short 2, too long 1\)") as error:
        clean(tmp_path, [plain("x"), plain(""), plain("long" * 10)], max_characters=20)
    assert "lower clean.min_characters" in str(error.value)
    assert "raise clean.max_characters" in str(error.value)
    with pytest.raises(ParakeetError, match="no document to clean"):
        clean(tmp_path, [], name="empty")
