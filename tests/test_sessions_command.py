"""`parakeet sessions`: recorded conversations from the shell."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from parakeet.chat.storage import SessionLog, session_path
from parakeet.cli import main
from parakeet.cli.settings import chosen_recipe
from parakeet.data.documents import parts, read_documents
from parakeet.data.reading.collect import collect_documents
from parakeet.progress import Progress

HEADER = {
    "model": "tiny",
    "model_sha256": "00",
    "tokenizer_sha256": "11",
    "dtype": "fp32",
    "device": "cpu",
    "threads": 1,
}


def reply(message: str, text: str, time: str = "2026-11-27T12:00:00+00:00") -> dict[str, Any]:
    more = {"seed": 7, "tokens": 3, "finish_reason": "stop", "dropped": 0, "settings": {}}
    return {"event": "reply", "message": message, "reply": text, "time": time, **more}


def record(home: Path, name: str, *events: dict[str, Any]) -> Path:
    path = session_path(home, name)
    log = SessionLog.create(path, HEADER)
    log.append(*events)
    log.close()
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    record(
        root,
        "lesson",
        {"event": "system", "content": "Be short."},
        reply("Wie heißt du? 你好", "Parakeet.\n\nReally."),
        reply("And then?", ""),
        reply("Bye", "Bye!", "2026-11-27T13:00:00+00:00"),
    )
    record(root, "lesson-2", reply("天" * 300, "y"))
    record(root, "2026-11-26-101500", reply("\x1b[31mred", "ok", "2026-11-26T12:00:00+00:00"))
    session_path(root, "torn").write_text('{"kind": "other"}\n', encoding="utf-8")
    return root


def run(home: Path, *arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, ["sessions", *arguments], env={"PARAKEET_HOME": str(home)}, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def output(home: Path, *arguments: str) -> str:
    result = run(home, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_sessions_are_listed_the_latest_first_and_fit_80_columns(home: Path) -> None:
    text = output(home)
    assert text == output(home, "list")
    lines = text.splitlines()
    assert lines[0].split() == ["SESSION", "LAST", "REPLY", "EXCHANGES", "MODEL", "BEGINS", "WITH"]
    assert [line.split()[0] for line in lines[1:4]] == ["lesson", "lesson-2", "2026-11-26-101500"]
    assert max(map(cell_len, lines[:4])) <= 80
    assert lines[4].startswith("torn: ")
    assert "\x1b" not in text


def test_an_empty_home_says_how_to_begin(tmp_path: Path) -> None:
    assert output(tmp_path) == "No conversation is recorded yet. Start one with: parakeet chat\n"
    assert json.loads(output(tmp_path, "--json")) == {"sessions": []}
    result = run(tmp_path, "show", "lesson")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_the_json_of_a_list_and_of_a_session(home: Path) -> None:
    listed = json.loads(output(home, "--json"))["sessions"]
    assert listed == json.loads(output(home, "list", "--json"))["sessions"]
    assert set(listed[0]) == {"name", "exchanges", "last_reply", "model", "first_words", "problem"}
    assert [row["name"] for row in listed] == ["lesson", "lesson-2", "2026-11-26-101500", "torn"]
    assert [row["problem"] is None for row in listed] == [True, True, True, False]
    shown = json.loads(output(home, "show", "lesson", "--json"))
    assert shown["system"] == "Be short."
    assert [exchange["message"] for exchange in shown["exchanges"]] == ["Wie heißt du? 你好", "And then?", "Bye"]
    assert run(home, "--json", "show", "lesson").exit_code == 2


def test_a_session_is_found_by_its_name_or_the_beginning_of_it(home: Path) -> None:
    assert "Wie heißt du? 你好" in output(home, "show", "lesson")
    assert "red" in output(home, "show", "2026")
    for wrong, message in (
        ("less", "Several sessions begin with 'less': lesson, lesson-2."),
        ("lessen", "No session begins with 'lessen'. There are: lesson"),
        ("torn", "this is not a session of parakeet chat"),
        ("../lesson", "No session begins with"),
        ("", "Several sessions begin with ''"),
    ):
        result = run(home, "show", wrong)
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert message in result.output


def test_what_is_removed_is_asked_for_first(home: Path) -> None:
    result = run(home, "rm", "lesson")
    assert result.exit_code == 1
    assert result.output == "Error: Nothing was removed: there is no terminal to ask on. Confirm with --yes.\n"
    assert session_path(home, "lesson").exists()
    assert output(home, "rm", "--yes", "lesson-2", "2026", "torn").splitlines() == [
        "Removed lesson-2.",
        "Removed 2026-11-26-101500.",
        "Removed torn.",
    ]
    assert [path.name for path in (home / "sessions").iterdir()] == ["lesson.jsonl"]


def test_nothing_is_removed_if_one_of_the_names_is_wrong(home: Path) -> None:
    assert run(home, "rm", "--yes", "lesson", "nothing").exit_code == 1
    assert session_path(home, "lesson").exists()


def test_a_session_that_is_open_stays(home: Path) -> None:
    log = SessionLog.open(session_path(home, "lesson"), HEADER)
    result = run(home, "rm", "--yes", "lesson")
    assert result.output == "Error: The session lesson is open in a chat: leave that chat first.\n"
    log.append(reply("Still here?", "Yes."))
    log.close()
    assert "Still here?" in output(home, "show", "lesson")
    assert run(home, "rm", "--yes", "lesson").exit_code == 0


@pytest.mark.parametrize("name", ["lesson.jsonl", "lesson.json", "LESSON.NDJSON"])
def test_an_exported_session_is_training_text(home: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    # The exchange without a reply teaches nothing.
    assert output(home, "export", "lesson", str(file)) == f"{file}: the session lesson. Left out without a reply: 1\n"
    recipe = chosen_recipe("demo", [str(file)], [], None, None)
    (tmp_path / "documents").mkdir()
    collect_documents(recipe, {}, tmp_path / "documents", Progress())
    (document,) = read_documents(parts(tmp_path / "documents"))
    assert [(turn.role, turn.content) for turn in document.turns] == [
        ("System", "Be short."),
        ("Human", "Wie heißt du? 你好"),
        ("Assistant", "Parakeet.\n\nReally."),
        ("Human", "Bye"),
        ("Assistant", "Bye!"),
    ]


def test_markdown_is_for_people_and_is_the_default(home: Path, tmp_path: Path) -> None:
    text = output(home, "export", "lesson")
    assert text.startswith("# lesson\n\n3 exchanges with tiny")
    assert "## Human\n\nWie heißt du? 你好\n\n## Parakeet\n\nParakeet.\n\nReally.\n" in text
    output(home, "export", "lesson", str(tmp_path / "lesson.md"))
    assert (tmp_path / "lesson.md").read_text(encoding="utf-8") == text
    line = output(home, "export", "--format", "jsonl", "lesson-2")
    assert json.loads(line) == {
        "messages": [{"role": "user", "content": "天" * 300}, {"role": "assistant", "content": "y"}]
    }
    assert line.count("\n") == 1


def test_an_export_overwrites_nothing_and_needs_a_known_format(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.md"
    there.write_text("mine", encoding="utf-8")
    record(home, "silent", reply("Hello?", ""))
    for arguments, message in (
        (("lesson", str(there)), "already exists: choose another name."),
        (("lesson", str(tmp_path / "lesson.pdf")), "Use .md, .json or .jsonl, or give --format."),
        (("lesson", str(tmp_path / "lesson")), "the ending says no format"),
        (("silent", str(tmp_path / "silent.jsonl")), "there is nothing to train on"),
        (("lesson", str(tmp_path / "none" / "a.md")), "there is no folder"),
        (("lesson", str(tmp_path)), "already exists"),
    ):
        result = run(home, "export", *arguments)
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert message in result.output
    assert there.read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.glob("*.jsonl"))
