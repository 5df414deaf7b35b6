"""clean_documents: what is kept, what is dropped and why, and that neither workers nor kills change anything."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.cleaning.clean import clean_documents
from parakeet.data.cleaning.counts import EXAMPLES_PER_REASON, EXCERPT_CHARACTERS
from parakeet.data.documents import Document, parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.progress import Progress

from .cleaning import PROSE, chat, clean, plain, recipe, written


def test_each_dropped_document_has_its_reason(tmp_path: Path) -> None:
    lines = "\n".join(f"{PROSE}\nBuy now and save on every order placed today, only at our shop!" for _ in range(9))
    documents = [
        plain(PROSE),
        plain("x"),
        plain("y" * 5001),
        chat("Hello?", " \u200a\x00"),
        plain("<|endoftext|>\n<|im_start|>assistant <|im_end|> Human: [INST] </s>"),
        chat("What?", "<|endofprompt|>"),
        plain(lines),
        plain("spam eggs " * 80),
        plain(f"{PROSE}\n\n{PROSE}", "b", file="b.txt", row=7),
    ]
    output, counts = clean(tmp_path, documents, max_characters=5000)
    assert counts["sources"]["a"] == {
        "kept": 1,
        "dropped": {
            "empty turn": 1,
            "only control tokens": 2,
            "repetition: duplicate lines": 1,
            "repetition: one frequent phrase": 1,
            "too long": 1,
            "too short": 1,
        },
        "found": {},
    }
    assert counts["sources"]["b"] == {"kept": 0, "dropped": {"repetition: duplicate paragraphs": 1}, "found": {}}
    assert (counts["documents"], counts["dropped"]) == (1, 8)
    examples = [json.loads(line) for line in (output / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(examples) == 8
    assert all(len(example["excerpt"]) <= EXCERPT_CHARACTERS for example in examples)
    assert (examples[-1]["source"], examples[-1]["file"], examples[-1]["row"]) == ("b", "b.txt", 7)
    assert sorted(written(output)) == ["dropped.jsonl", "part-00000.parquet"]


def test_what_mentions_a_control_token_is_kept(tmp_path: Path) -> None:
    documents = [plain("What does <|endoftext|> mean?"), chat("Say </s>.", "</s> ends a text."), plain("Human: Hi")]
    assert clean(tmp_path, documents)[1]["dropped"] == 0


def test_repetition_is_allowed_where_it_belongs(tmp_path: Path) -> None:
    speech = [line for n in range(0, 300, 60) for line in ("FIRST CITIZEN:", PROSE[n : n + 60], "")]
    documents = [plain("la la la " * 5), chat("Say it.", "yes " * 100), plain("\n".join(speech))]
    assert clean(tmp_path, documents)[1]["dropped"] == 0
    assert clean(tmp_path, [plain("yes " * 100)], name="off", repetition=None)[1]["dropped"] == 0


def test_thresholds_of_repetition_are_the_recipe_s(tmp_path: Path) -> None:
    twice = f"{PROSE}\n\n{PROSE}\n\nThe end."
    lenient = {"duplicate_paragraphs": 0.5, "duplicate_paragraph_characters": None, "duplicate_line_characters": None}
    lenient |= {"top_phrases": {}, "duplicate_phrases": {}}
    assert clean(tmp_path, [plain(twice)], name="lenient", repetition=lenient)[1]["dropped"] == 0
    # 0 lets no duplicate pass; datatrove would take it for a rule that is off.
    strict = lenient | {"duplicate_paragraphs": 0.0}
    _, counts = clean(tmp_path, [plain(twice), plain(PROSE)], name="strict", repetition=strict)
    assert counts["sources"]["a"]["dropped"] == {"repetition: duplicate paragraphs": 1}
    unheld = clean(tmp_path, [plain(twice)], name="short", repetition=strict | {"min_words": 500})[1]
    assert unheld["dropped"] == 0


def test_quality_rules_hold_for_plain_documents_only(tmp_path: Path) -> None:
    documents = [
        plain(PROSE),
        plain("Too few words."),
        plain(". . . ! ! ? ___"),
        plain(" ".join(f"{n} {n * 7}" for n in range(100, 150)) + " the and"),
        plain(" ".join(["Lorem ipsum dolor sit amet consectetur elit sed"] * 8)),
        plain("\n".join(f"- {PROSE[n : n + 40]}" for n in range(0, 300, 40))),
        plain(PROSE.replace(",", " # #") + " #" * 20),
        chat("1 2 3?", "4 5 6."),
    ]
    _, counts = clean(tmp_path, documents, quality={}, repetition=None)
    assert counts["sources"]["a"]["dropped"] == {
        "quality: too few stop words": 1,
        "quality: too few words": 2,
        "quality: too few words with letters": 1,
        "quality: too many bullets": 1,
        "quality: too many symbols": 1,
    }
    off = {"min_words": None, "min_stop_words": None, "max_symbols": None, "max_bullet_lines": None}
    _, counts = clean(tmp_path, documents, name="off", quality=off | {"min_alphabetic_words": None}, repetition=None)
    assert counts["sources"]["a"]["dropped"] == {"quality: too few words": 1}


def test_boilerplate_of_chat_models_is_counted_and_dropped_on_request(tmp_path: Path) -> None:
    documents = [
        chat("Do you like tea?", "As an AI language model, I do not drink."),
        chat("Write it.", "I'm sorry, but I cannot fulfil that request."),
        chat("As an AI, who are you?", "My name is Parakeet."),
        plain("It said: As an AI language model, I do not drink."),
        plain("Artificial intelligence is an old dream."),
    ]
    _, counts = clean(tmp_path, documents)
    assert counts["sources"]["a"] == {"kept": 5, "dropped": {}, "found": {"boilerplate": 3}}
    output, counts = clean(tmp_path, documents, name="drop", boilerplate="drop")
    assert counts["sources"]["a"] == {"kept": 2, "dropped": {"boilerplate": 3}, "found": {"boilerplate": 3}}
    assert list(read_documents(parts(output))) == [documents[2], documents[4]]


def test_personal_data_is_counted_and_masked_on_request(tmp_path: Path) -> None:
    documents = [chat("Whom do I ask?", "Mail jane@example.com or call +44 20 7946 0958."), plain("Version 2.10.3.14.")]
    output, counts = clean(tmp_path, documents)
    assert counts["sources"]["a"]["found"] == {"e-mail": 1, "phone": 1}
    assert list(read_documents(parts(output))) == documents
    output, counts = clean(tmp_path, documents, name="mask", personal_data="mask")
    assert counts["sources"]["a"]["found"] == {"e-mail": 1, "phone": 1}
    kept = list(read_documents(parts(output)))
    assert kept == [chat("Whom do I ask?", "Mail <email> or call <phone>."), documents[1]]


def test_mojibake_is_repaired_and_counted(tmp_path: Path) -> None:
    documents = [plain("We donâ€™t know the cafÃ©."), plain("naïve “quotes”, Ã la carte 数")]
    output, counts = clean(tmp_path, documents)
    assert [document.content for document in read_documents(parts(output))] == [
        "We don’t know the café.",
        "naïve “quotes”, Ã la carte 数",
    ]
    assert counts["sources"]["a"]["found"] == {"mended": 1}
    output, counts = clean(tmp_path, documents, name="off", mojibake=False)
    assert list(read_documents(parts(output))) == documents


def test_languages_are_kept_by_code(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    german = "Der Leuchtturmwärter erwachte wie seit dreißig Jahren vor der Dämmerung und stieg die Treppe hinauf."
    documents = [plain(PROSE), plain(german), plain("12 + 30 = 42"), chat("Hi", "Hello")]
    _, counts = clean(tmp_path, documents, languages=["en"])
    assert counts["sources"]["a"]["dropped"] == {"language: de": 1}
    assert clean(tmp_path, documents, name="both", languages=["en", "de"])[1]["dropped"] == 0
    with pytest.raises(ParakeetError, match=r"no language 'eng': did you mean en\?"):
        clean(tmp_path, documents, name="unknown", languages=["eng"])


def test_a_play_loses_almost_nothing(tmp_path: Path) -> None:
    file = Path(__file__).parents[4] / "shared/data/corpora/tinyshakespeare.txt"
    if not file.exists():
        pytest.skip("tinyshakespeare.txt is not on this machine")
    pieces = re.findall(r"(?s).{1000,}?\n\n", file.read_text(encoding="utf-8"))
    _, counts = clean(tmp_path, [plain(piece) for piece in pieces])
    assert len(pieces) > 800
    assert counts["dropped"] <= len(pieces) * 0.005


def test_documents_keep_order_source_licence_roles_and_metadata(tmp_path: Path) -> None:
    documents = [plain(f"number {n}", "ab"[n % 2], file="x") for n in range(30)] + [chat("Hi  \r\n", "Hello")]
    output, _ = clean(tmp_path, documents[:20], documents[20:])
    assert list(read_documents(parts(output))) == [*documents[:30], chat("Hi", "Hello")]


@settings(max_examples=40)
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


def many_parts(number: int) -> list[list[Document]]:
    """Parts with something to drop, to repair and to find in each; the last but one keeps nothing."""
    groups = [
        [plain(f"{PROSE} {part} {n}", row=n) for n in range(40)]
        + [plain("x"), plain(f"Itâ€™s part {part}."), chat("Why?", "As an AI language model, I cannot say.")]
        for part in range(number)
    ]
    return [*groups, [plain("x")], [plain(PROSE)]]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    runs = []
    for workers in (1, 2, 3):
        output, counts = clean(tmp_path, *many_parts(3), name=f"run{workers}", workers=workers)
        runs.append((counts, written(output)))
    assert runs[0] == runs[1] == runs[2]
    assert sorted(runs[0][1]) == ["dropped.jsonl", *(f"part-{n:05d}.parquet" for n in range(4))]


KILLED = """
import io, sys
from pathlib import Path
from parakeet.data.cleaning.clean import clean_documents
from parakeet.progress import Progress
from tests.data.cleaning.cleaning import recipe
if __name__ == "__main__":
    documents, output = map(Path, sys.argv[1:])
    clean_documents(recipe(workers=2), {"documents": documents}, output, Progress(io.StringIO()))
"""


def test_a_killed_stage_resumes_and_writes_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, counts = clean(tmp_path, *many_parts(30), name="undisturbed")
    documents, output = tmp_path / "undisturbed-input", tmp_path / "killed"
    output.mkdir()
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script), str(documents), str(output)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    completions = output / "work" / "cleaning" / "completions"
    while process.poll() is None and len(list(completions.glob("*"))) < 3:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = [path.name for path in completions.glob("*")]
    assert 3 <= len(finished) < 32
    kept = output / "work" / "kept"
    before = {rank: (kept / rank / "part-00000.parquet").stat().st_mtime_ns for rank in finished}
    again = clean_documents(recipe(), {"documents": documents}, output, Progress(io.StringIO()))
    assert again == counts
    assert written(output) == written(undisturbed)
    # Parts move when all is done, and moving keeps the time of writing; part 30 keeps nothing and stays.
    moves = dict(json.loads((kept / "moves.json").read_text()))
    for rank, when in before.items():
        name = f"{rank}/part-00000.parquet"
        path = output / moves[name] if name in moves else kept / name
        assert path.stat().st_mtime_ns == when


def test_a_stage_killed_while_it_moves_its_parts_resumes(tmp_path: Path) -> None:
    whole, counts = clean(tmp_path, *many_parts(2), name="whole")
    documents = tmp_path / "whole-input"
    shutil.copytree(whole, tmp_path / "half")
    half = tmp_path / "half"
    (half / "part-00001.parquet").rename(half / "work" / "kept" / "00001" / "part-00000.parquet")
    (half / "dropped.jsonl").unlink()
    (half / "work" / "tallies" / ".00001.123").write_text('{"kept": {"a"')
    assert clean_documents(recipe(), {"documents": documents}, half, Progress(io.StringIO())) == counts
    assert written(half) == written(whole)


def test_nothing_left_says_why_and_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"all 3 were dropped \(too short 2, too long 1\)") as error:
        clean(tmp_path, [plain("x"), plain(""), plain("long" * 10)], max_characters=20)
    assert "lower clean.min_characters" in str(error.value)
    assert "raise clean.max_characters" in str(error.value)
    with pytest.raises(ParakeetError, match="no document to clean"):
        clean(tmp_path, [], name="empty")


def test_a_system_message_is_no_turn_of_the_assistant(tmp_path: Path) -> None:
    turns = (Turn("System", "You are an AI. As an AI language model, you help."), *chat("Hi", "Hello").turns)
    _, counts = clean(tmp_path, [Document("a", "MIT", turns)])
    assert counts["sources"]["a"]["found"] == {}
