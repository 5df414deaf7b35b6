import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.prompt import MAX_ENTRY_LENGTH, MAX_HISTORY_BYTES, PromptHistory

from ..conftest import without_root_rights


def opened(path: Path | None) -> PromptHistory:
    return PromptHistory(path, lambda text: text)


def entries(history: PromptHistory) -> list[str]:
    return list(history.load_history_strings())


def test_what_was_typed_comes_back_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    first = PromptHistory(path, lambda text: text.replace("¤", "a paste"))
    for text in ("one", "two\nlines\x1b", "two\nlines\x1b", " ", "x" * (MAX_ENTRY_LENGTH + 1), "with ¤ \udc80"):
        first.append_string(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().isascii()
    again = opened(path)
    assert entries(again) == entries(first) == ["with a paste \udc80", "two\nlines\x1b", "one"]
    assert first.notes == again.notes == []


def test_without_a_file_it_lasts_as_long_as_the_chat() -> None:
    history = opened(None)
    history.append_string("one")
    assert (entries(history), history.notes) == (["one"], [])


@given(st.binary(max_size=300))
def test_any_file_is_a_history(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("history") / "history"
    path.write_bytes(b'"kept"\n' + content)
    path.chmod(0o600)
    history = opened(path)
    assert entries(history)[-1] == "kept"
    history.append_string("a new one")
    assert entries(opened(path))[0] == "a new one"
    assert history.notes == []


def test_of_a_huge_file_the_newest_part_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f'"entry {number:08d}"\n' for number in range(200_000)), encoding="utf-8")
    path.chmod(0o600)
    history = opened(path)
    assert entries(history)[0] == "entry 00199999"
    assert all(len(entry) == 14 for entry in entries(history))
    assert MAX_HISTORY_BYTES // 3 < path.stat().st_size < MAX_HISTORY_BYTES
    assert entries(opened(path)) == entries(history)


def test_a_file_that_others_could_read_is_tightened(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('"old"\n', encoding="utf-8")
    path.chmod(0o644)
    history = opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [note for note in history.notes if "only you can read it" in note]
    assert entries(history) == ["old"]


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "below a file"])
def test_without_a_usable_file_there_is_one_note(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "history"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    else:
        path.write_bytes(b"")
        path = path / "history"
    history = opened(path)
    history.append_string("one")
    history.append_string("two")
    assert entries(history) == ["two", "one"]
    (note,) = history.notes
    assert "will not be saved" in note


def test_a_read_only_home_is_one_note(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from parakeet.chat.prompt import PromptHistory\n"
        "history = PromptHistory(Path(sys.argv[1]), str); history.append_string('x'); print(history.notes)"
    )
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [*without_root_rights(), sys.executable, "-c", code, tmp_path / "history"], capture_output=True, text=True
    )
    tmp_path.chmod(0o755)
    assert done.stdout.count("Permission denied") == 1, done.stderr
