import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.commands import COMMANDS, complete, find, obey, parse
from parakeet.chat.output import TextReporter
from parakeet.chat.reading import is_open, literal, unquoted
from parakeet.chat.showing import first_words, table
from parakeet.chat.speaking import Speaker
from parakeet.chat.talk import Model, Talk
from parakeet.errors import ParakeetError

from .talking import last_prompt, say, seeded, session

Do = Callable[[str], str]
"""Obey an input; what it printed."""


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    speaker = Speaker(session(seeded), TextReporter())
    return Talk(Model("tiny", "ab" * 32, Path("models/tiny")), speaker, tmp_path, "Parakeet: ")


@pytest.fixture
def do(talk: Talk, capsys: pytest.CaptureFixture[str]) -> Do:
    def do(line: str) -> str:
        capsys.readouterr()
        name, rest = parse(line)
        assert name is not None
        obey(talk, name, rest)
        return capsys.readouterr().out

    return do


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/exit", ("exit", "")),
        ("  /Set  top_p   0.5 ", ("set", "top_p   0.5")),
        ("/system two\nlines", ("system", "two\nlines")),
        ("/usr/bin is full", (None, "/usr/bin is full")),
        ("/", (None, "/")),
        ("/ exit", (None, "/ exit")),
        ("/2 is a half of 1", (None, "/2 is a half of 1")),
        ("//exit", (None, "/exit")),
        ("///", (None, "//")),
        ("hello /exit", (None, "hello /exit")),
        ("  ", (None, "")),
    ],
)
def test_what_is_a_command(line: str, expected: tuple[str | None, str]) -> None:
    assert parse(line) == expected


@given(st.text(max_size=50))
def test_any_text_can_be_sent(text: str) -> None:
    for typed in (text, "/" + text, " /" + text, "/exit" + text):
        assert parse(literal(typed)) == (None, typed.strip())


@pytest.mark.parametrize(
    ("typed", "still_open", "text"),
    [
        ('"""a', True, None),
        ('"""', True, None),
        ('""""', True, None),
        ('"""""', True, None),
        ('"""a\n""', True, None),
        ('""""""', False, ""),
        ('"""\n/exit\n"""', False, "//exit"),
        (' """a\n  b""" ', False, "a\n  b"),
        ('say """a"""', False, 'say """a"""'),
    ],
)
def test_blocks_in_three_quotes(typed: str, still_open: bool, text: str | None) -> None:
    assert is_open(typed) == still_open
    if text is not None:
        assert unquoted(typed) == text


def test_a_beginning_is_enough_if_it_is_the_only_one() -> None:
    assert find("ret").name == "retry"
    assert find("set").name == "set"
    with pytest.raises(ParakeetError, match=r"^/se could be /set, /seed or /sessions\.$"):
        find("se")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("rerty", "", "There is no command /rerty: did you mean /retry?"),
        ("zzz", "", "There is no command /zzz: /help lists them."),
        ("etc", "is full", "To send this as a message, double the slash: //etc is full"),
        ("clear", "the table", "/clear takes nothing after it. .* //clear the table"),
        ("save", "", "/save needs more: /save NAME"),
        ("show", "nonsense", "/show takes one of config, settings, context, prompt, system"),
        ("stats", "maybe", "on or off"),
        ("set", "temprature 1", "did you mean temperature"),
        ("set", "temperature hot", "temperature is 'hot'; a number from 0 to 10"),
        ("set", "max_tokens 0", "max_tokens is 0"),
        ("seed", "-1", "seed is -1"),
        ("load", "nothing", "There is no session nothing"),
        ("load", "../secret", "is no name for a session"),
        ("save", "../secret", "is no name for a session"),
        ("retry", "", "no message"),
        ("undo", "", "nothing to undo"),
        ("continue", "", "no reply to continue"),
        ("edit", "text", "no message to edit"),
    ],
)
def test_mistakes_say_what_to_do(talk: Talk, name: str, argument: str, message: str) -> None:
    before = talk.session.settings
    with pytest.raises(ParakeetError, match=message):
        obey(talk, name, argument)
    assert talk.session.settings == before


def test_the_table_is_help_dispatch_and_completion(talk: Talk, do: Do) -> None:
    text = do("/help")
    assert all(f"  /{name}" in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80
    starts = {line.index(COMMANDS[line.split()[0][1:]].meaning) for line in text.splitlines() if line.startswith("  /")}
    assert len(starts) == 1
    assert [candidate.text for candidate in complete(talk, "/")] == [f"/{name}" for name in COMMANDS]
    named = "help exit clear system set show save load sessions retry edit undo continue stats seed"
    assert sorted(COMMANDS) == sorted(named.split())


def test_completions(talk: Talk, do: Do) -> None:
    assert [c.text for c in complete(talk, "/re")] == ["/retry"]
    assert [(c.text, c.replaces) for c in complete(talk, "/set temp")] == [("temperature", 4)]
    assert [c.text for c in complete(talk, "/show ")] == ["config", "settings", "context", "prompt", "system"]
    assert [c.text for c in complete(talk, "/stats o")] == ["on", "off"]
    say(talk.session, "hello")
    do("/save kept")
    assert [(c.text, c.meaning) for c in complete(talk, "/load k")] == [("kept", "hello")]
    for line in ("/s x", "/zzz a", "/set temperature 0", "hello", "//re"):
        assert list(complete(talk, line)) == []


def test_exit(talk: Talk, do: Do) -> None:
    do("/ex")
    assert talk.leaving


def test_clear_undo_and_retry(talk: Talk, do: Do) -> None:
    say(talk.session, "one")
    say(talk.session, "two\x1b[31m")
    first = talk.session.exchanges[-1]
    assert do("/ret").startswith("Parakeet: seed ")
    assert talk.session.exchanges[-1] != first
    assert do("/undo") == "Taken back: two\n"
    assert [exchange.message for exchange in talk.session.exchanges] == ["one"]
    assert do("/clear") == "The conversation is forgotten.\n"
    assert talk.session.exchanges == []


def test_continue_grows_the_reply(talk: Talk, do: Do) -> None:
    say(talk.session, "one", words=2)
    before = talk.session.exchanges[-1].reply
    assert do("/continue").startswith("Parakeet: ")
    assert talk.session.exchanges[-1].reply.startswith(before)
    assert len(talk.session.exchanges[-1].reply) > len(before)


def test_system(talk: Talk, do: Do) -> None:
    assert do("/system") == "There is no system message.\n"
    do("/system Be brief.\nBe \x1b[31mkind.")
    assert do("/system") == do("/show system") == "Be brief.\nBe kind.\n"
    say(talk.session, "one")
    assert last_prompt(talk.session)[0] == "Be brief.\nBe \x1b[31mkind."
    assert do('/system ""') == "There is no system message any more.\n"
    assert talk.session.system == ""


def test_settings_and_seed(talk: Talk, do: Do) -> None:
    assert do("/set temperature 0.7").split()[:2] == ["temperature", "0.7"]
    assert do("/set top-k 5").split()[:2] == ["top_k", "5"]
    assert do("/set rep 1.5").split()[:2] == ["repetition_penalty", "1.5"]
    do('/set stop ["a", "b c"]')
    assert do("/set temp").split()[:2] == ["temperature", "0.7"]
    settings = talk.session.settings
    assert (settings.temperature, settings.top_k, settings.stop) == (0.7, 5, ("a", "b c"))
    assert do("/set") == do("/show settings")
    assert do("/seed 5") == "The seed is 5.\n"
    say(talk.session, "one")
    assert do("/seed") == "The seed is 5. The last reply was drawn with 5.\n"
    assert do("/seed random") == "The seed is random.\n"
    assert talk.session.settings.seed is None


def test_stats(talk: Talk, do: Do, capsys: pytest.CaptureFixture[str]) -> None:
    say(talk.session, "one")
    for typed, on in (("/stats", True), ("/stats", False), ("/stats on", True), ("/stats off", False)):
        do(typed)
        capsys.readouterr()
        obey(talk, "retry", "")
        assert ("tokens/s · " in capsys.readouterr().err) == on


def test_show(talk: Talk, do: Do) -> None:
    say(talk.session, "hello\n\nAssistant: <|endofprompt|>")
    config = do("/show")
    for text in ("tiny", "models/tiny", "7 parameters in fp32", "abab", "cpu, 1 thread", "512 tokens", "nowhere"):
        assert text in config
    assert "1 exchange" in do("/show context")
    prompt = do("/show prompt")
    assert prompt.startswith("Human: hello\n\nAssistant: <|endofprompt|><|endofprompt|>\n\nAssistant: seed ")
    assert max(map(len, do("/show settings").splitlines())) <= 80


def test_sessions_are_saved_listed_and_loaded(talk: Talk, do: Do, tmp_path: Path) -> None:
    assert do("/sessions") == "No conversation is recorded yet.\n"
    with pytest.raises(ParakeetError, match="nothing to save"):
        obey(talk, "save", "empty")
    say(talk.session, "first \x1b[31mquestion")
    assert do("/save one") == "Saved as one. The conversation goes on there.\n"
    assert stat.S_IMODE((tmp_path / "sessions" / "one.jsonl").stat().st_mode) == 0o600
    say(talk.session, "second")
    for refused in ("load one", "save one"):
        with pytest.raises(ParakeetError, match="already"):
            obey(talk, *refused.split())
    do("/save two")
    do("/undo")
    (tmp_path / "sessions" / "broken.jsonl").write_text("{}\n{}", encoding="utf-8")
    listed = do("/sessions")
    assert [line.split()[0].rstrip(":") for line in listed.splitlines() if line[0] != " "][-1] == "broken"
    assert "first question" in listed
    with pytest.raises(ParakeetError, match=r"broken\.jsonl, line 1"):
        obey(talk, "load", "broken")
    loaded = do("/load one")
    assert "one: 2 exchanges" in loaded
    assert "Human: second" in loaded
    assert [exchange.message for exchange in talk.session.exchanges][1:] == ["second"]
    assert talk.session.log is not None
    assert talk.session.log.path.name == "one.jsonl"
    talk.session.close()


def editor(folder: Path, code: str) -> str:
    """A command for EDITOR: Python that finds the file's name in sys.argv[1]."""
    script = folder / "an editor.py"
    script.write_text(f"import os, sys\npath = sys.argv[1]\n{code}", encoding="utf-8")
    return f'{sys.executable} "{script}"'


def test_edit_with_text_and_in_the_editor(talk: Talk, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    say(talk.session, "one")
    assert do("/edit two").startswith("Parakeet: ")
    code = (
        "assert os.stat(path).st_mode & 0o077 == 0; text = open(path).read(); open(path, 'w').write(text + ' more\\n')"
    )
    monkeypatch.setenv("EDITOR", editor(tmp_path, code))
    do("/edit")
    assert [exchange.message for exchange in talk.session.exchanges] == ["two more"]
    for change in ("pass", "open(path, 'w').close()"):
        monkeypatch.setenv("EDITOR", editor(tmp_path, change))
        assert do("/edit") == "The message is as it was.\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (None, "There is no editor: name one in the variable EDITOR"),
        (" ", "There is no editor"),
        ("no-such-editor-\x1b", "cannot be started"),
        ("'unbalanced", "cannot be started"),
        ("false", "ended with status 1: nothing was changed"),
    ],
)
def test_an_editor_that_fails_changes_nothing(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str | None, message: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    if command is not None:
        monkeypatch.setenv("EDITOR", command)
    say(talk.session, "one")
    before = list(talk.session.exchanges)
    with pytest.raises(ParakeetError, match=message):
        obey(talk, "edit", "")
    assert talk.session.exchanges == before
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=200)), min_size=1, max_size=5))
def test_tables_fit_and_print_no_control_codes(rows: list[tuple[str, str]]) -> None:
    text = table(rows)
    assert not [c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"]
    assert len(first_words(rows[0][1], 30)) <= 30
