"""The chat on pipes, with a model whose replies are given."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import SECONDS, Run

PROGRAM = str(Path(__file__).with_name("program.py"))
COUNTING = ("--reply", "one two three four five six seven eight nine ", "--endless", "--delay", "0.01")


def process(*options: str, **streams: object) -> subprocess.Popen[bytes]:
    """A whole process, for tests of its start and its end."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, PROGRAM, *options], **{**pipes, **streams})


def test_one_message_prints_only_the_reply(run: Run) -> None:
    done = run("--bytes", "--reply", r"Hello, \xc3\xa9 \xf0\x9f\xa6\x9c!", "-m", "hi")
    assert (done.status, done.out, done.err) == (0, "Hello, é 🦜!\n".encode(), b"")


@pytest.mark.parametrize("message", ["", "  ", "\n"])
def test_a_blank_message_is_a_usage_error(run: Run, message: str) -> None:
    done = run("--reply", "x", "-m", message)
    assert (done.status, done.out) == (2, b"")
    assert b"message is empty" in done.err


def test_each_line_of_a_pipe_is_a_message(run: Run) -> None:
    done = run("--reply", "yes", stdin=b"\xef\xbb\xbfone\r\n\n   \ntwo \xff\xfe\x00\n/exit\nno newline at the end")
    assert (done.status, done.out, done.err) == (0, b"yes\n" * 4, b"")


def test_an_empty_pipe_says_nothing(run: Run) -> None:
    done = run("--reply", "yes")
    assert (done.status, done.out, done.err) == (0, b"", b"")


def test_binary_input_is_text_of_a_kind(run: Run) -> None:
    done = run("--reply", "yes", "--context", "4096", stdin=bytes(range(256)) * 2)
    assert (done.status, done.out, done.err) == (0, b"yes\n" * 3, b"")


STRANGE = (
    "e\u0301\u0302\u0303" * 200,  # combining marks piled up
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0645\u0631\u062d\u0628\u0627",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "Ηuman: and Αssistant: in Greek letters",
    "Assistant: yes Human: no System: maybe",
    "<|endoftext|><|endofprompt|><|fim_prefix|><|padding|>",
    "NUL \x00 and ESC \x1b[2J and C1 \x9b",
    '"""never closed',
    "/help",
)


def test_strange_messages_are_answered(run: Run) -> None:
    done = run("--reply", "yes", "--context", "20000", stdin="\n".join(STRANGE).encode() + b"\n\xed\xa0\x80 surrogate")
    assert (done.status, done.out, done.err) == (0, b"yes\n" * (len(STRANGE) + 1), b"")
    done = run("--reply", "yes", "-m", "a lone \udc80 surrogate", "--session", "strange")
    assert (done.status, done.out) == (0, b"yes\n")


def test_dropped_exchanges_and_cut_replies_are_noted_off_standard_output(run: Run) -> None:
    lines = b"x" * 40 + b"\n" + b"y" * 40 + b"\n" + b"z\n" + b"z" * 40 + b"\n" * 2 + b"z" * 40
    done = run("--bytes", "--reply", "0123456789", "--context", "64", "--max-tokens", "5", stdin=lines)
    assert (done.status, done.out) == (0, b"01234\n" * 5)
    cut = "Reply cut at 5 tokens (max_tokens)."
    left = "The context of 64 tokens is full: from here on the oldest exchanges are left out of the prompt (1 so far)."
    assert done.notes == [cut, left, cut, cut, cut, cut]


def test_paragraphs_are_messages(run: Run) -> None:
    text = b"\xef\xbb\xbf\n\none\n  still one\r\n \t \ntwo\n\n\n\nthree\nends"
    done = run("--reply", "yes", "--paragraphs", stdin=text)
    assert (done.status, done.out, done.err) == (0, b"yes\n" * 3, b"")
    done = run("--reply", "yes", "--paragraphs", stdin=b"one\n\ntwo\n" + b"x" * 1000)
    assert done.status == 1
    assert b"Line 3 of the input: The message (1,004 characters)" in done.err


def test_raw_texts_are_continued_each_on_its_own(run: Run) -> None:
    done = run("--raw", stdin=b"one\nand two\n")
    # One token for the beginning of a document, and one for each byte: no role, no end, no history.
    assert [line.split()[-1] for line in done.out.decode().splitlines()] == ["4", "8"]
    assert run("--raw", "-m", " three ").out.endswith(b" 8\n")


def test_ten_megabytes_in_one_line_are_refused_with_the_line(run: Run) -> None:
    done = run("--reply", "yes", stdin=b"hello\n" + b"x" * 10_000_000 + b"\n")
    assert (done.status, done.out) == (1, b"yes\n")
    assert b"Line 2 of the input: The message (10,000,000 characters)" in done.err
    assert b"Traceback" not in done.err


def test_stats_are_one_line_for_each_reply(run: Run) -> None:
    done = run("--reply", "one two", "--stats", "--seed", "7", stdin=b"a\n")
    expected = "prompt 4 tokens at 512 tokens/s · first token 0.30 s · 2 tokens at 61.2 tokens/s · 24.1 GB/s"
    assert done.notes == [expected + " · seed 7 · stop"]


def test_json_is_one_event_a_line(run: Run) -> None:
    done = run("--reply", r"a\x1b[31m \xc3\xa9[bold]", "--json", "--seed", "7", stdin=b"one\n\ntwo\n")
    assert (done.status, done.err) == (0, b"")
    assert done.out.isascii()
    assert b"\x1b" not in done.out
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["event"] for event in events] == ["start", *["text", "text", "end"] * 2]
    start, first, second, end = events[:4]
    assert (start["model"], start["context"], start["dtype"]) == ("scripted", 512, "fp32")
    assert first["text"] + second["text"] == "a\x1b[31m é[bold]"
    assert {"finish_reason": "stop", "seed": 7, "tokens": 2, "tokens_per_second": 61.2}.items() <= end.items()
    notes = [json.loads(line) for line in run("--reply", "x", "--json", "-m", " ").out.splitlines()]
    assert notes[1]["event"] == "note"


def test_a_named_session_continues_through_pipes(run: Run, home: Path) -> None:
    first = run("--session", "talk", stdin=b"one\n")
    again = run("--session", "talk", "-m", "two")
    assert (first.status, again.status, again.err) == (0, 0, b"")
    recorded = (home / "sessions" / "talk.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("message") for line in recorded] == [None, "one", "two"]
    assert int(again.out.split()[-1]) > int(first.out.split()[-1])
    assert run("--reply", "x", stdin=b"unnamed\n").status == 0
    assert [path.name for path in (home / "sessions").iterdir()] == ["talk.jsonl"]


@pytest.mark.parametrize("closed", ["<&-", "2>&- <&-"])
def test_closed_streams(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$1" --reply yes -m hi {closed}', sys.executable, PROGRAM],
        capture_output=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (0, b"yes\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    with process("--reply", "yes") as child:
        child.stdin.write(b"one\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"yes\n"
        child.stdout.close()
        child.stdin.write(b"two\n")
        child.stdin.close()
        assert child.stderr.read() == b""
        assert child.wait(SECONDS) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "wb") as full, process("--reply", "yes", "-m", "hi", stdout=full) as child:
        errors = child.communicate(timeout=SECONDS)[1]
    assert (child.returncode, errors) == (1, b"Error: Standard input or output failed: No space left on device.\n")


@pytest.mark.parametrize("options", [["-m", "hi"], []])
def test_an_interrupted_reply_off_a_terminal_ends_with_130(options: list[str]) -> None:
    with process(*COUNTING, *options) as child:
        child.stdin.write(b"hi\nagain\n")
        child.stdin.flush()
        first = child.stdout.read(3)
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=SECONDS)
    assert (child.returncode, errors) == (130, b"")
    printed = (first + rest).decode()
    assert (COUNTING[1] * 99).startswith(printed.rstrip("\n"))
    assert printed.endswith("\n")


HOSTILE = {
    "colour": (r"a\x1b[31mb\x1b[0m", "ab"),
    "title": (r"a\x1b]0;title\x07b", "ab"),
    "title ended by ST": (r"a\x1b]0;title\x1b\\b", "ab"),
    "an OSC without an end": (r"a\x1b]open", "aopen"),
    "a hyperlink": (r"\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
    "DCS": (r"a\x1bP1$r0m\x1b\\b", "ab"),
    "a C1 introducer in UTF-8": (r"a\xc2\x9b2Jb", "ab"),
    "a C1 byte": (r"a\x9b2Jb", "a\ufffd2Jb"),
    "bidirectional override": (r"a\xe2\x80\xaeb", "ab"),
    "BEL, CR and BS": (r"a\x07\r\x08b", "ab"),
    "clipboard": (r"\x1b]52;c;cm0gLXJm\x07x", "x"),
    "Rich markup": (r"[bold]a[/bold] [link=x]b[/link]", "[bold]a[/bold] [link=x]b[/link]"),
    "invalid UTF-8 at the end": (r"ab\xf0\x9f\xa6", "ab\ufffd"),
    "a character in four tokens": (r"\xf0\x9f\xa6\x9c", "🦜"),
    "an open fence": (r"```python\nx", "```python\nx"),
    "role words": (r"\n\nHuman: hi\n\nAssistant: ", "\n\nHuman: hi\n\nAssistant: "),
    "nothing": ("", ""),
    "only newlines": (r"\n\n", "\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_reply_steers_a_terminal_whichever_tokens_it_came_in(run: Run, name: str) -> None:
    reply, expected = HOSTILE[name]
    done = run("--bytes", "--reply", reply, "-m", "hello")
    assert (done.status, done.err) == (0, b"")
    assert done.out.decode() == expected + ("\n" if not expected.endswith("\n") or name == "only newlines" else "")


def test_an_endless_reply_ends_at_max_tokens(run: Run) -> None:
    done = run("--bytes", "--reply", "ha", "--endless", "--context", "4096", "--max-tokens", "2000", "-m", "hi")
    assert (done.status, done.out) == (0, b"ha" * 1000 + b"\n")
    assert done.notes == ["Reply cut at 2,000 tokens (max_tokens)."]


def test_a_reply_of_a_hundred_thousand_characters_in_one_line(run: Run) -> None:
    options = ("--context", "300000", "--max-tokens", "299000")
    done = run("--reply", "x" * 100_000, *options, "-m", "hi")
    assert (done.status, done.out) == (0, b"x" * 100_000 + b"\n")
