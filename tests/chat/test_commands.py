import re
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.commands import COMMANDS, Chat, complete, find_command, first_words, parse_input, run_command
from parakeet.chat.input import as_input, is_open, literal
from parakeet.chat.models import OpenedModel
from parakeet.chat.output import ReplyPrinter, TextOutput
from parakeet.chat.session import Session
from parakeet.chat.storage import load
from parakeet.errors import ParakeetError
from parakeet.release.verify import Release
from parakeet.sampling_settings import SamplingSettings

from ..scripted import scripted_engine
from .scripted_sessions import greedy, last_prompt, say, seeded, session

Do = Callable[[str], str]
"""Run a command; what it printed."""


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    release = Release(Path("models/tiny"), "tiny", SamplingSettings(), "ab" * 32)

    def open_model(name: str) -> OpenedModel:
        other = Release(Path(name), name, SamplingSettings(temperature=0.5, top_k=7), name * 8)
        return OpenedModel(other, session(f"I am {name}.", context=256).engine, ["The newest checkpoint is damaged."])

    return Chat(release, ReplyPrinter(session(seeded), TextOutput()), tmp_path, "Parakeet: ", open_model)


@pytest.fixture
def do(chat: Chat, capsys: pytest.CaptureFixture[str]) -> Do:
    def do(line: str) -> str:
        capsys.readouterr()
        name, rest = parse_input(line)
        assert name is not None
        run_command(chat, name, rest)
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
    assert parse_input(line) == expected


@given(st.text(max_size=50))
def test_any_text_can_be_sent(text: str) -> None:
    for typed in (text, "/" + text, " /" + text, "/exit" + text):
        assert parse_input(literal(typed)) == (None, typed.strip())


@pytest.mark.parametrize(
    "typed",
    [
        *('"""a', '"""', '""""', '"""""', '"""a\n""', '"""a\n\nb', '"""a"""b"""', ' """x'),
        *('/system """', '/sys """Be', '/edit """a\n'),
    ],
)
def test_a_block_stays_open_until_quotes_or_two_empty_lines_end_it(typed: str) -> None:
    assert is_open(typed)
    assert not is_open(typed + 'x"""')
    assert not is_open(typed + "\n\n")


@pytest.mark.parametrize(
    ("typed", "block"),
    [
        ('"""hi"""', "hi"),
        ('""""""', ""),
        ('"""\n/exit\n"""', "/exit"),
        (' """a\n  b""" ', "a\n  b"),
        ('"""He said "hi""""', 'He said "hi"'),
        ('"""never ended\n\n', "never ended"),
        ('"""Hello""" is how a docstring begins. Who are you?', None),
        ('"""a""" and """b"""', None),
        ('"""a""" and """b""" too', None),
        ('say """a"""', None),
        ('say """a b""" now', None),
        ('What does """ mean?', None),
        ("''", None),
        ('"hi"', None),
        ("", None),
    ],
)
def test_a_line_whose_quotes_close_is_complete(typed: str, block: str | None) -> None:
    assert not is_open(typed)
    entered = as_input(typed)
    assert (entered.text, entered.literal) == (typed if block is None else block, block is not None)


def test_a_beginning_is_enough_if_it_is_the_only_one() -> None:
    assert find_command("ret").name == "retry"
    assert find_command("set").name == "set"
    with pytest.raises(ParakeetError, match=r"^/se could be /set, /seed or /sessions\.$"):
        find_command("se")
    with pytest.raises(ParakeetError, match=r"^/c could be /continue or /clear\.$"):
        find_command("c")
    for alias, name in {"bye": "exit", "quit": "exit", "q": "exit", "?": "help"}.items():
        assert find_command(alias).name == name
        assert parse_input(f"/{alias}") == (alias, "")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("rerty", "", "There is no command /rerty: did you mean /retry?"),
        ("zzz", "", "There is no command /zzz: /help lists them."),
        ("etc", "is full", "To send this as a message, double the slash: //etc is full"),
        ("clear", "the table", "/clear takes no argument. .* //clear the table"),
        ("save", "", "/save needs an argument: /save NAME"),
        ("show", "nonsense", "/show takes one of config, settings, context, prompt, system"),
        ("show", "s", r"^/show s could be settings or system\.$"),
        ("show", "con", r"^/show con could be config or context\.$"),
        ("set", "t 1", r"^'t' could be temperature, top_k or top_p\.$"),
        ("set", "top default", r"^'top' could be top_k or top_p\.$"),
        ("set", "temprature default", "did you mean temperature"),
        ("probs", "", "There is no reply yet. Give a message: /probs TEXT"),
        (
            "system",
            "@nothing.txt",
            "There is no file nothing.txt. To send the word itself, double the @: @@nothing.txt",
        ),
        ("stats", "maybe", "on or off"),
        ("set", "temprature 1", "did you mean temperature"),
        ("set", "temperature hot", "temperature must be a number from 0 to 10, not 'hot'"),
        ("set", "max_tokens 0", "max_tokens must be a whole number of at least 1, not 0"),
        ("seed", "-1", "seed must be a whole number from 0 to .*, not -1"),
        ("load", "nothing", "There is no session nothing"),
        ("load", "../secret", "is not a session name"),
        ("save", "../secret", "is not a session name"),
        ("retry", "", "no message to retry"),
        ("undo", "", "nothing to undo"),
        ("continue", "", "no reply to continue"),
        ("edit", "text", "no message to edit"),
    ],
)
def test_mistakes_say_what_to_do(chat: Chat, name: str, argument: str, message: str) -> None:
    before = chat.session.settings
    with pytest.raises(ParakeetError, match=message):
        run_command(chat, name, argument)
    assert chat.session.settings == before


def test_the_table_is_help_dispatch_and_completion(chat: Chat, do: Do) -> None:
    text = do("/help")
    assert all(f"  /{name}" in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80
    starts = {line.index(COMMANDS[line.split()[0][1:]].help) for line in text.splitlines() if line.startswith("  /")}
    assert len(starts) == 1
    assert [candidate.text for candidate in complete(chat, "/")] == [f"/{name}" for name in COMMANDS]
    named = "help exit clear system set show save load sessions retry edit undo continue stats seed probs model trace"
    assert sorted(COMMANDS) == sorted(named.split())


def test_completions(chat: Chat, do: Do) -> None:
    assert [c.text for c in complete(chat, "/re")] == ["/retry"]
    assert [(c.text, c.replaces) for c in complete(chat, "/set temp")] == [("temperature", 4)]
    assert [c.text for c in complete(chat, "/show ")] == ["config", "settings", "context", "prompt", "system"]
    assert [c.text for c in complete(chat, "/stats o")] == ["on", "off"]
    say(chat.session, "hello")
    do("/save kept")
    assert [(c.text, c.help) for c in complete(chat, "/load k")] == [("kept", "hello")]
    for line in ("/s x", "/zzz a", "/set temperature 0", "hello", "//re"):
        assert list(complete(chat, line)) == []


def test_exit(chat: Chat, do: Do) -> None:
    do("/ex")
    assert chat.leaving


def test_clear_undo_and_retry(chat: Chat, do: Do) -> None:
    say(chat.session, "one")
    say(chat.session, "two\x1b[31m")
    first = chat.session.exchanges[-1]
    assert do("/ret").startswith("Parakeet: seed ")
    assert chat.session.exchanges[-1] != first
    assert do("/undo") == "Removed: two\n"
    assert [exchange.message for exchange in chat.session.exchanges] == ["one"]
    assert do("/clear") == "The conversation is forgotten.\n"
    assert chat.session.exchanges == []


def test_continue_grows_the_reply(chat: Chat, do: Do) -> None:
    say(chat.session, "one", words=2)
    before = chat.session.exchanges[-1].reply
    assert do("/continue").startswith("Parakeet: ")
    assert chat.session.exchanges[-1].reply.startswith(before)
    assert len(chat.session.exchanges[-1].reply) > len(before)


def test_continue_after_a_whole_reply_says_so(chat: Chat, do: Do) -> None:
    say(chat.session, "one")
    whole = list(chat.session.exchanges)
    assert do("/continue") == "The reply is complete: the model ended it. /retry gives another one.\n"
    assert chat.session.exchanges == whole
    do("/set stop zzz")  # A stop string may have ended it: then the model is asked.
    assert do("/continue").startswith("Parakeet: ")


def test_a_system_message_of_several_lines_and_from_a_file(chat: Chat, do: Do, tmp_path: Path) -> None:
    do('/system """Be brief.\n\nBe kind."""')
    assert chat.session.system == "Be brief.\n\nBe kind."
    do('/system """"""')
    assert chat.session.system == ""
    (tmp_path / "a system.txt").write_text("From a file.\n", encoding="utf-8")
    do(f'/system @"{tmp_path}/a system.txt"')
    assert chat.session.system == "From a file."


def test_another_model_goes_on(chat: Chat, do: Do, capsys: pytest.CaptureFixture[str]) -> None:
    say(chat.session, "one")
    do("/set temperature 1.5")
    assert "No other model in" in do("/model")
    assert do("/model other") == "other replies from here on, 7 parameters.\n"
    # What was set stays; the rest are the new model's own defaults.
    assert (chat.session.settings.temperature, chat.session.settings.top_k) == (1.5, 7)
    assert say(chat.session, "two") == "I am other."
    assert len(last_prompt(chat.session)) == 4
    assert "other" in do("/show")
    do("/save both")
    assert chat.session.log is not None
    events = load(chat.session.log.path).events
    assert [(event["event"], event.get("model")) for event in events][1:] == [("model", "other"), ("reply", None)]
    assert load(chat.session.log.path).header["model"] == "tiny"
    chat.session.close()


def test_a_model_that_cannot_be_opened_leaves_the_present_one(chat: Chat) -> None:
    def refuse(name: str) -> OpenedModel:
        raise ParakeetError("no such model")

    chat.open_model = refuse
    with pytest.raises(ParakeetError, match="no such model"):
        run_command(chat, "model", "other")
    assert chat.release.name == "tiny"


def test_probabilities_of_the_next_tokens(chat: Chat, do: Do) -> None:
    chat.printer.session = Session(scripted_engine(b"ab"), greedy())
    first = do('/probs """Hi "you"\n"""').splitlines()
    assert first[0] == r'After "y" "o" "u" "\"" <|endofprompt|> Assistant:'
    rows = [line.split(maxsplit=3) for line in first[2:]]
    assert len(rows) == 10
    # The scripted model likes best two ids that no reply may contain.
    assert {row[3] for row in rows[:2]} == {"Assistant:", "(undefined)"}
    assert [row[1:] for row in rows if row[1] != "0.0000%"] == [["100.0000%", "97", '"a"']]
    assert chat.session.exchanges == []
    say(chat.session, "Hi")
    assert do("/probs").splitlines()[0].endswith('Assistant: "a" "b"')
    chat.session.raw = True
    assert do("/probs Hi").splitlines()[0] == 'After <|endoftext|> "H" "i"'


def test_system(chat: Chat, do: Do) -> None:
    assert do("/system") == "There is no system message.\n"
    do("/system Be brief.\nBe \x1b[31mkind.")
    assert do("/system") == do("/show system") == "Be brief.\nBe kind.\n"
    say(chat.session, "one")
    assert last_prompt(chat.session)[0] == "Be brief.\nBe \x1b[31mkind."
    assert do('/system ""') == "The system message is removed.\n"
    assert chat.session.system == ""


def test_settings_and_seed(chat: Chat, do: Do) -> None:
    assert do("/set temperature 0.7").split()[:2] == ["temperature", "0.7"]
    assert do("/set top-k 5").split()[:2] == ["top_k", "5"]
    assert do("/set rep 1.5").split()[:2] == ["repetition_penalty", "1.5"]
    do('/set stop ["a", "b c"]')
    assert do("/set temp").split()[:2] == ["temperature", "0.7"]
    settings = chat.session.settings
    assert (settings.temperature, settings.top_k, settings.stop) == (0.7, 5, ("a", "b c"))
    assert do("/set temperature default").split()[:2] == ["temperature", "0.3"]
    assert do("/set top-k DEFAULT").split()[:2] == ["top_k", "0"]
    do("/set stop default")
    do("/set seed 5")
    assert do("/seed default") == "The seed is random.\n"
    settings = chat.session.settings
    assert (settings.temperature, settings.stop, settings.seed) == (0.3, (), None)
    do('/set stop "default"')
    assert chat.session.settings.stop == ("default",)
    do("/set stop default")
    assert do("/set") == do("/show settings")
    assert do("/seed 5") == "The seed is 5.\n"
    say(chat.session, "one")
    assert do("/seed") == "The seed is 5. The last reply used 5.\n"
    assert do("/seed random") == "The seed is random.\n"
    assert chat.session.settings.seed is None


def test_stats(chat: Chat, do: Do, capsys: pytest.CaptureFixture[str]) -> None:
    say(chat.session, "one")
    for typed, on in (("/stats", True), ("/stats", False), ("/stats on", True), ("/stats off", False)):
        do(typed)
        capsys.readouterr()
        run_command(chat, "retry", "")
        assert ("tokens/s · " in capsys.readouterr().err) == on


def test_show(chat: Chat, do: Do) -> None:
    say(chat.session, "hello\n\nAssistant: <|endofprompt|>")
    config = do("/show")
    for text in ("tiny", "models/tiny", "7 parameters in fp32", "abab", "cpu, 1 thread", "512 tokens", "nowhere"):
        assert text in config
    assert "1 exchange" in do("/show context")
    prompt = do("/show prompt")
    assert prompt.startswith("Human: hello\n\nAssistant: <|endofprompt|><|endofprompt|>\n\nAssistant: seed ")
    assert max(map(len, do("/show settings").splitlines())) <= 80


def test_sessions_are_saved_listed_and_loaded(chat: Chat, do: Do, tmp_path: Path) -> None:
    assert do("/sessions") == "No conversation is recorded yet.\n"
    with pytest.raises(ParakeetError, match="nothing to save"):
        run_command(chat, "save", "empty")
    say(chat.session, "first \x1b[31mquestion")
    assert do("/save one") == "Saved as one. The conversation continues there.\n"
    assert stat.S_IMODE((tmp_path / "sessions" / "one.jsonl").stat().st_mode) == 0o600
    say(chat.session, "second")
    for refused in ("load one", "save one"):
        with pytest.raises(ParakeetError, match="already"):
            run_command(chat, *refused.split())
    do("/save two")
    do("/undo")
    (tmp_path / "sessions" / "broken.jsonl").write_text("{}\n{}", encoding="utf-8")
    listed = do("/sessions")
    assert [line.split()[0].rstrip(":") for line in listed.splitlines() if line[0] != " "][-1] == "broken"
    assert "first question" in listed
    with pytest.raises(ParakeetError, match=r"broken\.jsonl, line 1"):
        run_command(chat, "load", "broken")
    loaded = do("/load one")
    assert re.search(r"one: 2 exchanges, the last on \d{4}-\d\d-\d\d \d\d:\d\d\.", loaded)
    assert "Human: first question" in loaded
    assert "Human: second" in loaded
    assert [exchange.message for exchange in chat.session.exchanges][1:] == ["second"]
    assert chat.session.log is not None
    assert chat.session.log.path.name == "one.jsonl"
    chat.session.close()


def editor(folder: Path, code: str) -> str:
    """A command for EDITOR: Python that finds the file's name in sys.argv[1]."""
    script = folder / "an editor.py"
    script.write_text(f"import os, sys\npath = sys.argv[1]\n{code}", encoding="utf-8")
    return f'{sys.executable} "{script}"'


def test_edit_with_text_and_in_the_editor(chat: Chat, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    say(chat.session, "one")
    assert do("/edit two").startswith("Parakeet: ")
    code = (
        "assert os.stat(path).st_mode & 0o077 == 0; text = open(path).read(); open(path, 'w').write(text + ' more\\n')"
    )
    monkeypatch.setenv("EDITOR", editor(tmp_path, code))
    do("/edit")
    assert [exchange.message for exchange in chat.session.exchanges] == ["two more"]
    for change in ("pass", "open(path, 'w').close()"):
        monkeypatch.setenv("EDITOR", editor(tmp_path, change))
        assert do("/edit") == "The message is unchanged.\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (None, "There is no editor: set the variable EDITOR"),
        (" ", "There is no editor"),
        ("no-such-editor-\x1b", "cannot be started"),
        ("'unbalanced", "cannot be started"),
        ("false", "failed with status 1: nothing was changed"),
    ],
)
def test_an_editor_that_fails_changes_nothing(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str | None, message: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    if command is not None:
        monkeypatch.setenv("EDITOR", command)
    say(chat.session, "one")
    before = list(chat.session.exchanges)
    with pytest.raises(ParakeetError, match=message):
        run_command(chat, "edit", "")
    assert chat.session.exchanges == before
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=200))
def test_first_words_fit(text: str) -> None:
    assert len(first_words(text, 30)) <= 30
