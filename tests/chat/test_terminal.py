"""The chat on pseudo-terminals, with a model whose replies are given."""

import json
import os
import re
import signal
import termios
from pathlib import Path

import pytest

from .conftest import Open

SLOW = ("--reply", "one two three four five six seven eight nine", "--delay", "0.1")
ENDLESS = ("--reply", "one two three ", "--endless", "--delay", "0.01")


def test_a_conversation_on_a_dumb_terminal(terminal: Open, home: Path) -> None:
    with terminal("--reply", "Nice to meet you.") as child:
        assert "scripted: 7 parameters in fp32, context 512 tokens" in child.banner
        assert child.type("hello") == "Parakeet: Nice to meet you.\r\n"
        assert child.type("/etc/passwd is a file") == "Parakeet: Nice to meet you.\r\n"
        assert "double the slash: //etc is a folder" in child.type("/etc is a folder")
        assert child.type("//exit") == "Parakeet: Nice to meet you.\r\n"
        assert child.type("") == ""
        assert "only 384 fit" in child.type("x" * 1000)
        assert "There is no command /nonsense" in child.type("/nonsense")
        child.send('"""one\r')
        child.expect_exact("... ")
        child.send("/exit\r")
        child.expect_exact("... ")
        assert child.type('two"""') == "Parakeet: Nice to meet you.\r\n"
        child.send("/show prompt\r")
        child.expect_exact("one\r\n/exit\r\ntwo<|endofprompt|>")
        child.expect_exact(" tokens)\r\n")
        child.prompt()
        child.send('"""never ended\r')
        child.expect_exact("... ")
        child.send("\x04")
        assert "was not sent" in child.prompt()
        assert "\x1b" not in str(child.before) + child.banner
        child.send("/exit\r")
        assert child.ends() == 0
    assert not home.exists()


DOCSTRING = '"""Hello""" is how a docstring begins. Who are you?'


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_quotes_that_close_and_quotes_that_do_not(terminal: Open, home: Path, term: str) -> None:
    with terminal("--reply", "yes", "--session", "quotes", TERM=term, NO_COLOR="1") as child:
        complete = (DOCSTRING, 'say """a b""" now', 'What does """ mean?', '"""one line"""', '"""exit"""')
        for line in complete:
            assert "Parakeet: yes" in child.type(line)
        # It says what is missing, and two empty lines lead out.
        child.send('"""left open\r')
        child.expect_exact('""" or two empty lines send it, Ctrl-C cancels')
        child.send("second\r")
        child.send("\r")
        child.send("\r")
        child.expect_exact("Parakeet: yes")
        child.prompt()
        child.send('"""\r')
        child.send("\r")
        child.send("\r")
        child.prompt()
        child.send('/system """Be brief.\r')
        child.expect_exact("Ctrl-C cancels")
        child.send('Be kind."""\r')
        child.expect_exact("The system message is set.")
        child.prompt()
        child.send('"""cancelled\r')
        child.expect_exact("Ctrl-C cancels")
        child.interrupt()
        child.prompt()
        assert "Parakeet: yes" in child.type("last")
    recorded = (home / "sessions" / "quotes.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    events = [json.loads(line) for line in recorded]
    assert [event["message"] for event in events if "message" in event] == [
        *(DOCSTRING, 'say """a b""" now', 'What does """ mean?', "one line", "exit", "left open\nsecond", "last"),
    ]
    assert [event["content"] for event in events if "content" in event] == ["Be brief.\nBe kind."]


@pytest.mark.parametrize("way", ["/bye", "/quit", "/q", "/ex"])
def test_many_ways_to_leave(terminal: Open, way: str) -> None:
    with terminal("--reply", "yes", "--no-history") as child:
        assert "To leave, type /exit or press Ctrl-D" in child.type("Quit")
        assert child.type("quit") == "Parakeet: yes\r\n"
        assert "To leave, type /exit" in child.type("exit")
        assert "Conversation\r\n" in child.type("/?")
        assert "To leave, type /exit" in child.type("exit")
        child.send(way + "\r")
        assert child.ends() == 0


def test_replies_wrap_at_words_on_a_terminal(terminal: Open, home: Path) -> None:
    words = "these are words of a reply " * 6
    with terminal("--reply", words, "--session", "wrapped") as child:
        termios.tcsetwinsize(child.child_fd, (24, 80))
        printed = child.type("hello").removesuffix("\r\n").split("\r\n")
        assert printed[0] == "Parakeet: these are words of a reply these are words of a reply these are words"
        assert printed[1].startswith("of a reply these")
        assert " ".join(printed).split() == ["Parakeet:", *words.split()]
        termios.tcsetwinsize(child.child_fd, (24, 30))
        assert max(map(len, child.type("again").splitlines())) <= 29
    events = (home / "sessions" / "wrapped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(events[1])["reply"] == words


def test_a_continued_session_begins_with_a_recap(terminal: Open) -> None:
    with terminal("--session", "trip", "--reply", "yes", TERM="xterm") as child:
        assert "exchange" not in child.banner
        for line in ("one", "two", "three"):
            child.type(line)
        child.send("/exit\r")
        child.ends()
    with terminal("--session", "trip", "--reply", "yes", TERM="xterm") as child:
        banner = child.banner.replace("\x1b[0m", "")
        assert re.search(r"\x1b\[2mtrip: 3 exchanges, the last on \d{4}-\d\d-\d\d \d\d:\d\d\.\r\n", banner)
        assert "\x1b[2m  Human: two\r\n\x1b[2m  Parakeet: yes\r\n\x1b[2m  Human: three\r\n" in banner
        assert "Human: one" not in banner


def test_files_models_and_probabilities_on_a_terminal(
    terminal: Open, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some notes.txt").write_text("From\na file.", encoding="utf-8")
    with terminal("--bytes", "--reply", "yes", "--session", "all", TERM="xterm", NO_COLOR="1") as child:
        child.send("Summarise @some\t")
        child.expect_exact(r"\ notes.txt")
        assert "Parakeet: yes" in child.type("")
        assert "There is no file none.txt" in child.type("@none.txt")
        assert "is sent as it is" in child.type("see @none.txt")
        child.paste("@none.txt\n" * 20)
        assert "Parakeet: yes" in child.type("")
        assert "100.0000%" in child.type("/probs Hi")
        assert "other replies from here on" in child.type("/model other")
        assert "I am other." in child.type("Who?")
    recorded = (home / "sessions" / "all.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert [event.get("message", event["event"]) for event in map(json.loads, recorded)] == [
        "Summarise \n\nFrom\na file.",
        "see @none.txt",
        ("@none.txt\n" * 20).strip(),
        "model",
        "Who?",
    ]


def test_raw_texts_on_a_terminal(terminal: Open, home: Path) -> None:
    options = ("--raw", "--session", "raw", "--max-tokens", "1", "--reply", " and more")
    with terminal(*options, TERM="xterm", NO_COLOR="1") as child:
        assert "without the chat template" in child.banner
        for typed in ("Once upon", "/continue"):
            assert child.type(typed).endswith(" and\r\nReply cut at 1 token (max_tokens).\r\n")
        assert "<|endoftext|>\r\n(1 token)" in child.type("/show prompt")
        assert "With --raw there is no system message" in child.type("/system Be brief.")
    events = (home / "sessions" / "raw.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert [json.loads(event)["event"] for event in events] == ["complete", "continue"]


def test_ctrl_c_stops_the_reply_and_not_the_program(terminal: Open) -> None:
    with terminal(*ENDLESS) as child:
        child.send("count\r")
        child.expect_exact("one two")
        child.interrupt()
        assert child.prompt().endswith(" [stopped]\r\n")
        child.send("again\r")
        child.expect_exact("Parakeet: one two")


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_ctrl_c_before_the_first_word_and_again_at_the_prompt(terminal: Open, term: str) -> None:
    with terminal("--reply", "one two three four five", "--delay", "1", TERM=term, NO_COLOR="1") as child:
        child.send("count\r")
        child.expect_exact("Parakeet: ")
        child.interrupt()
        child.expect_exact(" [stopped]\r\n")
        assert "five" not in child.before
        child.prompt()
        assert child.interrupt_until_it_ends() == 0


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_ctrl_c_in_a_reply_and_again_at_the_prompt_leaves(terminal: Open, term: str) -> None:
    with terminal(*ENDLESS, TERM=term, NO_COLOR="1") as child:
        child.send("count\r")
        child.expect_exact("Parakeet: one")
        assert child.interrupt_until_it_ends() == 0


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_ctrl_c_at_the_prompt_hints_and_twice_leaves(terminal: Open, term: str) -> None:
    with terminal("--reply", "yes", TERM=term) as child:
        child.interrupt()
        assert "(Ctrl-C again, Ctrl-D or /exit to leave)" in child.prompt()
        assert "yes" in child.type("still there?")
        assert child.interrupt_until_it_ends() == 0


def test_ctrl_c_during_a_long_prompt_waits_for_no_word(terminal: Open) -> None:
    with terminal("--bytes", "--reply", "yes", "--delay", "1", "--context", "8192") as child:
        child.send("x" * 3000 + "\r")
        child.expect_exact("Parakeet: ")
        child.interrupt()
        child.expect_exact(" [stopped]\r\nHuman: ")
        assert "yes" not in child.before


def test_hostile_replies_and_names_cannot_steer_the_terminal(terminal: Open, home: Path) -> None:
    (home / "sessions").mkdir(parents=True)
    (home / "sessions" / "bad.jsonl").write_bytes(b"\x1b]0;x\x07\n")
    with terminal("--reply", r"a\x1b[31mb\x1b]0;t\x07c\x1b]open", NO_COLOR="1") as child:
        printed = (
            child.type("hi\x1b[2J") + child.type("/show prompt") + child.type("/load bad") + child.type("/sessions")
        )
        printed += child.type("/nons\x1b[31mense")
        assert "abc" in printed
        assert "\x1b" not in printed.replace("^[", "")


def test_no_color_is_honoured(terminal: Open) -> None:
    for no_colour, coloured in (("", True), ("1", False)):
        with terminal("--reply", "yes", TERM="xterm-256color", NO_COLOR=no_colour) as child:
            assert ("\x1b[1;32m" in child.type("hi")) == coloured


def test_bytes_that_are_no_text_are_replaced(terminal: Open) -> None:
    with terminal("--reply", "yes", TERM="xterm", NO_COLOR="1") as child:
        os.write(child.child_fd, b"a\xff\xe2b\x00\r")
        child.expect_exact("Parakeet: yes")
        child.prompt()
        assert "a\ufffd\ufffdb" in child.type("/show prompt")


def test_several_lines_and_pastes_are_messages(terminal: Open, home: Path) -> None:
    options = ("--reply", "yes", "--context", "8192", "--session", "pastes")
    with terminal(*options, TERM="xterm", NO_COLOR="1") as child:
        child.type("one\x1b\rtwo")
        child.type('"""\r/exit\r\r  last\r"""')
        for text in (
            "/exit",
            "a\r\n/exit\rb",
            '"""A docstring."""\nx = 1',
            "//slashes\n" * 20,
            "<|endoftext|>\x1b[31m",
        ):
            child.paste(text)
            child.type("")
        child.paste("p" * 3000)
        child.expect_exact("[pasted 3,000 characters, 1 line]")
        child.type(" indeed")
    recorded = (home / "sessions" / "pastes.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert [json.loads(line)["message"] for line in recorded] == [
        "one\ntwo",
        "/exit\n\n  last",
        "/exit",
        "a\n/exit\nb",
        '"""A docstring."""\nx = 1',
        ("//slashes\n" * 20).strip(),
        "<|endoftext|>\x1b[31m",
        "p" * 3000 + " indeed",
    ]


def test_a_paste_of_a_megabyte_arrives_whole(terminal: Open, home: Path) -> None:
    with terminal("--reply", "yes", "--session", "big", "--context", "2000000", TERM="xterm", NO_COLOR="1") as child:
        child.paste("0123456789" * 100_000)
        child.expect_exact("[pasted 1,000,000 characters, 1 line]")
        assert "Parakeet: yes" in child.type("")
    event = json.loads((home / "sessions" / "big.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert event["message"] == "0123456789" * 100_000
    assert not [line for line in (home / "chat_history").read_text(encoding="utf-8").splitlines() if len(line) > 99]


def test_what_is_typed_during_a_reply_is_the_next_input(terminal: Open) -> None:
    with terminal(*SLOW, TERM="xterm", NO_COLOR="1") as child:
        child.send("count\r")
        child.expect_exact("one two")
        child.send("typed ahead\r")
        child.expect_exact("nine\r\n")
        assert "typed" not in child.before
        child.expect_exact("Human: typed ahead")
        child.expect_exact("Parakeet: one")


def test_resize_and_a_long_line(terminal: Open) -> None:
    with terminal("--reply", "yes", TERM="xterm", NO_COLOR="1") as child:
        child.send("some words " * 20)
        for size in ((10, 20), (1, 1), (50, 200)):
            termios.tcsetwinsize(child.child_fd, size)
            os.kill(child.pid, signal.SIGWINCH)
            child.send("more")
        child.send("\r")
        child.expect_exact("Parakeet: yes")
        child.prompt()
        child.send("/show prompt\r")
        child.expect_exact("more" * 3 + "<|end")


def test_history_is_kept_for_the_next_chat(terminal: Open, home: Path) -> None:
    with terminal("--reply", "yes", TERM="xterm", NO_COLOR="1") as child:
        child.type("first")
    with terminal("--reply", "yes", TERM="xterm", NO_COLOR="1") as child:
        child.send("\x1b[A")
        child.expect_exact("first")
        child.type(" and second")
    with terminal("--reply", "yes", "--no-history", TERM="xterm") as child:
        child.type("third")
    history = home / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.read_text(encoding="utf-8") == '"first"\n"first and second"\n'


def test_tab_completes_commands_and_settings(terminal: Open) -> None:
    with terminal("--reply", "yes", TERM="xterm", NO_COLOR="1") as child:
        assert "nothing to undo" in child.type("/und\t")
        child.send("/set temp\t")
        child.expect_exact("temperature")
        assert "0.25" in child.type(" 0.25")


def test_the_context_is_shown_once_it_is_half_full(terminal: Open) -> None:
    with terminal("--reply", "x" * 100, "--context", "256", TERM="xterm", NO_COLOR="1") as child:
        child.type("y" * 60)
        child.expect_exact("ctx 164/")
    with terminal("--reply", "x" * 100, "--context", "256") as child:
        assert child.type("y" * 60).endswith("(ctx 164/256) ")


@pytest.mark.parametrize("when", ["at the prompt", "in a reply"])
def test_sigterm_leaves_the_terminal_as_it_was(terminal: Open, when: str) -> None:
    with terminal(*SLOW, TERM="xterm") as child:
        if when == "in a reply":
            child.send("count\r")
            child.expect_exact("one two")
        assert not termios.tcgetattr(child.child_fd)[3] & termios.ECHO
        os.kill(child.pid, signal.SIGTERM)
        assert child.ends() == 143
        assert termios.tcgetattr(child.child_fd)[3] & termios.ECHO
