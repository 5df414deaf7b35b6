"""`@file` in what a person types, and one message from text, files and standard input."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.files import MAX_FILE_BYTES, complete_path, read_text, with_files
from parakeet.chat.message import one_message
from parakeet.errors import ParakeetError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a few files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("one line\n", encoding="utf-8")
    (tmp_path / "two.md").write_text("# Two\n\nlines @one.txt\n", encoding="utf-8")
    (tmp_path / "with space.txt").write_text("spaced", encoding="utf-8")
    (tmp_path / "Größe [1] 日本.txt").write_text("any script", encoding="utf-8")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "in.txt").write_text("inside", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("@one.txt", "one line"),
        ("  @one.txt ", "  one line "),
        ("@./one.txt", "one line"),
        ("@sub/in.txt", "inside"),
        ('@"with space.txt"', "spaced"),
        (r"@with\ space.txt", "spaced"),
        ('See @"with space.txt".', "See spaced."),
        ('@"Größe [1] 日本.txt"', "any script"),
        ("@empty", ""),
        ("What is @one.txt?", "What is one line?"),
        ("@one.txt, @sub/in.txt and @one.txt", "one line, inside and one line"),
        # What a file says is not looked at again.
        ("Summarise @two.md", "Summarise \n\n# Two\n\nlines @one.txt"),
        ("Summarise\n@two.md\nbriefly", "Summarise\n\n# Two\n\nlines @one.txt\n\nbriefly"),
        ("@two.md Summarise", "# Two\n\nlines @one.txt\n\n Summarise"),
        ("@@one.txt", "@one.txt"),
        ("say @@one.txt", "say @one.txt"),
        ("@@nobody", "@nobody"),
        ("say @@nobody and @@", "say @@nobody and @@"),
        ("me@one.txt", "me@one.txt"),
        ("a @ b", "a @ b"),
        ("@", "@"),
        ("hi @nobody", "hi @nobody"),
        ("go @sub now", "go @sub now"),
        ("@@ -1,2 +1,2 @@", "@@ -1,2 +1,2 @@"),
        ("@app.route('/') \\ def f(): pass", "@app.route('/') \\ def f(): pass"),
    ],
)
def test_a_file_stands_in_place_of_its_name(folder: Path, typed: str, sent: str) -> None:
    assert with_files(typed, lambda note: None) == sent


def test_home_and_whole_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert with_files("@~/one.txt", print) == with_files(f"@{folder}/one.txt", print) == "one line"


def test_a_word_like_a_missing_file_is_sent_with_a_note(folder: Path) -> None:
    notes: list[str] = []
    assert with_files("Summarise @onne.txt and @sub/x", notes.append) == "Summarise @onne.txt and @sub/x"
    assert notes == [
        "There is no file onne.txt: @onne.txt is sent as it is.",
        "There is no file sub/x: @sub/x is sent as it is.",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x89PNG\r\n\x1a\n", "is not UTF-8 text: byte 1 is not"),
        (b"caf\xe9", "is not UTF-8 text: byte 4 is not. .*iconv -f latin1 -t utf-8"),
        (b"a\x00b", "is not text: its character 2 is NUL"),
        (b"\xff\xfea", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_text_is_refused(folder: Path, content: bytes, problem: str) -> None:
    (folder / "bad").write_bytes(content)
    with pytest.raises(ParakeetError, match=problem):
        with_files("@bad", print)


def test_files_that_cannot_be_read_are_refused(folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    os.mkfifo(folder / "fifo")
    for name, problem in (
        ("missing", "There is no file missing"),
        ("sub", "sub is a folder"),
        ("fifo", "fifo is not a file"),
        ("huge", r"huge has 16\.0 MiB, but a message can hold 16\.0 MiB"),
    ):
        with pytest.raises(ParakeetError, match=problem):
            with_files("@" + name, print)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_other_systems(folder: Path, encoding: str) -> None:
    (folder / "text").write_bytes("é\r\n日本\r\n".encode(encoding))
    assert read_text(folder / "text") == "é\n日本"


@given(st.text(max_size=60))
def test_any_other_text_is_sent_as_it_is(text: str) -> None:
    without = text.replace("@", "a")
    assert with_files(without, print) == without


def test_names_are_completed(folder: Path) -> None:
    (folder / ".hidden").touch()
    assert list(complete_path("o")) == ["one.txt"]
    assert list(complete_path("sub/")) == ["sub/deep/", "sub/in.txt"]
    assert list(complete_path("w")) == [r"with\ space.txt"]
    assert list(complete_path(r"with\ s")) == [r"with\ space.txt"]
    assert list(complete_path(".h")) == [".hidden"]
    assert "one.txt" in complete_path("")
    assert ".hidden" not in complete_path("")
    assert list(complete_path("nowhere/x")) == []


def message(*arguments: str, **streams: object) -> str:
    """The message that a process makes of its arguments and standard input, or its error."""
    code = (
        "import sys; from parakeet.chat.message import one_message; from parakeet.errors import ParakeetError\n"
        "try: sys.stdout.write(repr(one_message(sys.argv[1], print)))\n"
        "except ParakeetError as error: print('Error:', error)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **streams)  # type: ignore[call-overload]
    assert "Traceback" not in done.stderr, done.stderr
    return str(done.stdout)


def test_standard_input_follows_the_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped(b"\xef\xbb\xbfone\r\n\ntwo\n")
    assert one_message("What is this?", print) == "What is this?\n\none\n\ntwo"
    piped(b"one\n\ntwo\n")
    assert one_message("-", print) == "one\n\ntwo"
    piped(b" \n")
    assert one_message("What?", print) == "What?"
    piped(b"alone")
    assert one_message(" ", print) == "alone"
    piped(b"piped @one.txt")
    assert one_message("See @one.txt:", print) == "See one line:\n\npiped @one.txt"
    piped(b"\x89PNG")
    with pytest.raises(ParakeetError, match="Standard input is not UTF-8 text"):
        one_message("What?", print)
    piped(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ParakeetError, match=r"Standard input is over 16\.0 MiB"):
        one_message("-", print)
    monkeypatch.setattr(sys, "stdin", None)
    assert one_message("What?", print) == "What?"
    with pytest.raises(ParakeetError, match="Standard input is closed"):
        one_message("-", print)


def test_a_shell_loop_keeps_its_lines(folder: Path) -> None:
    with (folder / "two.md").open("rb", buffering=0) as file:
        assert message("What?", stdin=file) == repr("What?\n\n# Two\n\nlines @one.txt")
        file.seek(1)  # as after `read -r line`
        assert message("What?", stdin=file) == repr("What?")
        assert file.tell() == 1
