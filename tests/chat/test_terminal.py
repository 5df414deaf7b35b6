"""The chat in real processes, on real pipes and pseudo-terminals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

PROGRAM = str(Path(__file__).parents[1] / "scripted.py")
SLOW = ["--reply", "one two three four five six seven eight nine", "--delay", "0.1"]
LONG_WAIT = 90


def run(*options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, PROGRAM, *options], input=stdin, capture_output=True, timeout=LONG_WAIT)


@contextmanager
def terminal(*options: str, **environment: str) -> Iterator[pexpect.spawn]:
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    child = pexpect.spawn(
        sys.executable,
        [PROGRAM, *options],
        env={**variables, "TERM": "dumb", **environment},
        timeout=LONG_WAIT,
        encoding="utf-8",
        codec_errors="replace",
    )
    try:
        child.expect_exact("Human: ")
        yield child
    finally:
        child.close(force=True)


def ends(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus)


def test_one_message_prints_only_the_reply() -> None:
    done = run("--reply", r"Hello, \xc3\xa9 \xf0\x9f\xa6\x9c!", "-m", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, é 🦜!\n".encode(), b"")


def test_a_blank_message_is_a_usage_error() -> None:
    done = run("--reply", "x", "-m", "  ")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"message is empty" in done.stderr


def test_each_line_of_a_pipe_is_a_message() -> None:
    done = run("--reply", "yes", stdin=b"\xef\xbb\xbfone\r\n\n   \ntwo \xff\xfe\x00\nno newline at the end")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"yes\n" * 3, b"")


def test_an_empty_pipe_says_nothing() -> None:
    done = run("--reply", "yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("closed", ["<&-", "2>&- <&-"])
def test_closed_streams(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$1" --reply yes -m hi {closed}', sys.executable, PROGRAM],
        capture_output=True,
        timeout=LONG_WAIT,
    )
    assert (done.returncode, done.stdout) == (0, b"yes\n")


def test_dropped_exchanges_and_cut_replies_are_noted_off_standard_output() -> None:
    done = run("--reply", "0123456789", "--context", "64", "--max-tokens", "5", stdin=b"x" * 40 + b"\n" + b"y" * 40)
    assert (done.returncode, done.stdout) == (0, b"01234\n01234\n")
    assert done.stderr.decode().splitlines() == [
        "reply cut at 5 tokens (max_tokens)",
        "1 oldest exchange no longer fitted the context of 64 tokens and left the conversation.",
        "reply cut at 5 tokens (max_tokens)",
    ]


def test_ten_megabytes_in_one_line_are_refused_with_the_line() -> None:
    done = run("--reply", "yes", stdin=b"hello\n" + b"x" * 10_000_000 + b"\n")
    assert (done.returncode, done.stdout) == (1, b"yes\n")
    assert b"Line 2 of the input: The message (10,000,000 characters)" in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_control_codes_reach_a_pipe() -> None:
    hostile = r"\x1b[31mred\x1b]0;title\x07\x9b2J\xc2\x9b2J\xe2\x80\xae\r\b[bold]end"
    done = run("--reply", hostile, stdin=b"hello\n")
    assert done.stdout.decode() == "red\ufffd2J[bold]end\n"


def test_a_babbling_model_prints_text_only() -> None:
    done = run(stdin=b"hello\n" * 4)
    text = done.stdout.decode()
    assert done.returncode == 0
    assert len(text) > 200
    assert not [c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--reply", "yes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"yes\n"
    process.stdout.close()
    process.stdin.write(b"two\n")
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(LONG_WAIT) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, PROGRAM, "--reply", "yes", "-m", "hi"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=LONG_WAIT,
        )
    assert (done.returncode, done.stderr) == (1, b"Error: Standard input or output failed: No space left on device.\n")


@pytest.mark.parametrize("options", [["-m", "hi"], []])
def test_an_interrupted_reply_off_a_terminal_ends_with_130(options: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *SLOW, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hi\nagain\n")
    process.stdin.flush()
    first = process.stdout.read(3)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=LONG_WAIT)
    assert process.returncode == 130
    assert errors == b""
    said = (first + rest).decode()
    assert "one two three four five six seven eight nine".startswith(said.rstrip("\n"))
    assert said.endswith("\n")


def test_a_conversation_on_a_terminal() -> None:
    with terminal("--reply", "Nice to meet you.") as child:
        assert "scripted: 7 parameters, context 512 tokens" in child.before
        child.sendline("hello")
        child.expect_exact("Parakeet: Nice to meet you.\r\nHuman: ")
        child.sendline("/help")
        child.expect_exact("/clear")
        child.expect_exact("Human: ")
        child.sendline("/nonsense")
        child.expect_exact("There is no command /nonsense; /help lists them.\r\nHuman: ")
        child.sendline("/etc/passwd is a file")
        child.expect_exact("Parakeet: Nice to meet you.\r\nHuman: ")
        child.sendline("")
        child.expect_exact("Human: ")
        child.sendline("x" * 1000)
        child.expect_exact("only 384 fit")
        child.expect_exact("Human: ")
        child.sendline("/clear")
        child.expect_exact("forgotten.\r\nHuman: ")
        child.sendline("/exit")
        assert ends(child) == 0


def test_ctrl_c_stops_the_reply_and_not_the_program() -> None:
    with terminal(*SLOW) as child:
        child.sendline("count")
        child.expect_exact("Parakeet: one two")
        child.sendintr()
        child.expect(r" \[stopped\]\r\nHuman: ")
        child.sendline("again")
        child.expect_exact("one two three four five six seven eight nine\r\nHuman: ")
        child.sendeof()
        assert ends(child) == 0


def test_ctrl_c_at_the_prompt_hints_and_twice_leaves() -> None:
    with terminal("--reply", "yes") as child:
        child.sendintr()
        child.expect_exact("Ctrl-D or /exit to leave)\r\nHuman: ")
        child.sendline("still there?")
        child.expect_exact("Parakeet: yes\r\nHuman: ")
        # Twice within a second, however slow the machine that runs this is.
        for _ in range(10):
            child.sendintr()
            if child.expect([r"leave\)\r\nHuman: ", pexpect.EOF]) == 1:
                break
        child.wait()
        assert child.exitstatus == 0


def test_bytes_that_are_no_text_are_replaced() -> None:
    with terminal("--reply", "yes", TERM="xterm") as child:
        os.write(child.child_fd, b"a\xff\xe2b\r")
        child.expect_exact("yes")
        child.expect_exact("Human: ")
        child.sendline("/exit")
        assert ends(child) == 0


def test_ctrl_c_during_a_long_prompt_waits_for_no_word() -> None:
    with terminal("--reply", "yes", "--delay", "0.4", "--context", "4096") as child:
        child.sendline("x" * 2500)
        child.expect_exact("Parakeet: ")
        child.sendintr()
        child.expect_exact(" [stopped]\r\nHuman: ")
        assert "yes" not in child.before


def test_hostile_replies_cannot_steer_the_terminal() -> None:
    with terminal("--reply", r"a\x1b[31mb\x1b]0;t\x07c\x1b]open") as child:
        child.sendline("hi")
        child.expect_exact("Parakeet: abc")
        child.expect_exact("open\r\nHuman: ")
        assert "\x1b" not in child.before


def test_a_dumb_terminal_gets_no_escape_sequence() -> None:
    with terminal("--reply", "yes", TERM="dumb") as child:
        banner = child.before
        child.sendline("hi")
        child.expect_exact("Parakeet: yes\r\nHuman: ")
        assert "\x1b" not in banner + child.before


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_no_color_is_honoured(no_colour: str, coloured: bool) -> None:
    with terminal("--reply", "yes", TERM="xterm-256color", NO_COLOR=no_colour) as child:
        child.sendline("hi")
        child.expect("Parakeet: ")
        assert ("\x1b[1;32m" in child.before) == coloured
