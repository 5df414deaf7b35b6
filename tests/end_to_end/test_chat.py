"""`parakeet chat` as a user runs it, with a release of random weights."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner, Result

from parakeet.cli import main

from ..chat.tiny_models import write_release, write_run
from ..conftest import without_root_rights
from .conftest import environment

CHAT = (sys.executable, "-m", "parakeet.cli", "chat")
SECONDS = 300  # a guard against hanging: a busy machine may be slow
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
CONTROL_CODES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose latest release is a tiny model of random weights, context 1,024."""
    home = tmp_path_factory.mktemp("chat") / "home"
    write_release(home / "releases" / "tiny-0", "tiny")
    (home / "releases" / "latest").symlink_to("tiny-0")
    return home


def chat(home: Path, *options: str, stdin: bytes = b"") -> Result:
    """Run the command in this process, for tests of its output only."""
    return CliRunner().invoke(main, ["chat", *options], input=stdin, env={"PARAKEET_HOME": str(home)})


@contextmanager
def chatting(home: Path, *options: str, term: str = "xterm", **variables: str) -> Iterator[pexpect.spawn]:
    child = pexpect.spawn(
        CHAT[0],
        [*CHAT[1:], *options],
        env={**environment(home), "TERM": term, "NO_COLOR": "1", **variables},
        timeout=SECONDS,
        encoding="utf-8",
        codec_errors="replace",
        dimensions=(24, 80),
    )
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


def typed(child: pexpect.spawn, line: str) -> str:
    """Send a line and wait for the next prompt of prompt_toolkit; returns what was printed in between."""
    child.send(line + "\r")
    child.expect_exact(PASTE_OFF)
    child.expect_exact(PASTE_ON)
    return str(child.before)


def ends(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus)


def test_every_command_in_one_session(home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text("import sys; open(sys.argv[1], 'w').write(input('your words: '))", encoding="utf-8")
    with chatting(home, EDITOR=f"{sys.executable} {shlex.quote(str(editor))}") as child:
        child.expect_exact("tiny: ")
        child.expect_exact("Recorded in ")
        child.expect_exact(PASTE_ON)
        do: Callable[[str], str] = lambda line: typed(child, line)  # noqa: E731
        said = do("Hello there")
        assert "Parakeet: " in said
        assert not CONTROL_CODES.search(said.replace("\r\n", "\n"))
        assert "/continue" in do("/help")
        assert "The seed is 7" in do("/seed 7")
        assert "temperature  1.5" in do("/set temperature 1.5")
        assert "temperature must be a number from 0 to 10, not 'hot'" in do("/set temperature hot")
        assert "temperature  0" in do("/set temperature 0")  # greedy: the same reply always
        assert "Speed and seed are shown" in do("/stats on")
        assert "tokens/s" in do("/ret")
        assert "Speed and seed are not shown" in do("/stats")
        assert "The reply is complete" in do("/continue")
        assert "max_tokens  2" in do("/set max_tokens 2")
        assert "Parakeet: " in do("/retry")
        assert "Parakeet: " in do("/continue")
        assert "max_tokens  40" in do("/set max_tokens default")
        assert "temperature  1.5" in do("/set temperature 1.5")
        assert "Parakeet: " in do("/edit something else")
        child.send("/edit\r")
        child.expect_exact("your words: ")
        child.send("edited\r")
        child.expect_exact(PASTE_ON)
        assert "edited\r\nParakeet: " in child.before  # the editor's terminal has its echo
        assert "The system message is set" in do("/system Be brief.")
        assert "Be brief." in do("/system")
        for section, expected in (
            ("", "fp32"),
            (" se", "top_k"),
            (" cont", "of 1,024 tokens"),
            (" pr", "Human: edited"),
        ):
            assert expected in do("/show" + section)
        assert "Saved as kept" in do("/save kept")
        assert "kept" in do("/sessions")
        assert "Removed: edited" in do("/undo")
        assert "nothing to undo" in do("/undo")
        assert "forgotten" in do("/clear")
        assert "The session kept is already open" in do("/load kept")
        assert "did you mean /retry?" in do("/rerty")
        assert "Parakeet: " in do("//exit")
        assert "Parakeet: " in do("/etc/hosts is a file")
        child.send("\x1b[200~" + "x" * 1_000_000 + "\x1b[201~")
        child.expect_exact("[pasted 1,000,000 characters, 1 line]")
        assert "The message (1,000,000 characters)" in do("")
        child.setwinsize(10, 30)
        child.send("still here\r")
        child.expect_exact("Parakeet: ")
        child.expect_exact(PASTE_ON)
        child.send("\x03")
        child.expect_exact("or /exit to leave")
        child.sendeof()
        assert ends(child) == 0
    recorded = [json.loads(line) for line in (home / "sessions" / "kept.jsonl").read_text("utf-8").splitlines()]
    assert recorded[0]["model"] == "tiny"
    assert len(recorded[0]["model_sha256"]) == 64
    assert recorded[-1]["message"] == "still here"
    replayed = chat(home, "--replay", str(home / "sessions" / "kept.jsonl"))
    assert (replayed.exit_code, replayed.stderr) == (0, "")
    assert "replies are identical" in replayed.stdout
    changed = json.dumps(recorded[-1] | {"reply": "never"})
    other = tmp_path / "changed.jsonl"
    other.write_text("\n".join([json.dumps(line) for line in recorded[:-1]] + [changed]) + "\n", encoding="utf-8")
    differs = chat(home, "--replay", str(other))
    assert differs.exit_code == 1
    assert "differs after 0 characters" in differs.stdout


def test_a_conversation_over_files_models_a_run_and_raw_texts(home: Path, tmp_path: Path) -> None:
    """What is recorded of all of it gives the same replies again."""
    write_run(home, "abcd1234abcd1234", (10, 20))
    write_release(home / "imported" / "second", "second", seed=5)
    (home / "releases" / "tiny-0" / "README.md").write_text("An edited model card.", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("Two\n\nlines.", encoding="utf-8")
    with chatting(home, "--session", "tour", "--temperature", "0") as child:  # greedy: no reply is empty
        child.expect_exact(PASTE_ON)
        for line, expected in (
            ('"""Hello""" is how a docstring begins. Who are you?', "Parakeet: "),
            (f"Summarise @{tmp_path}/notes.txt", "Parakeet: "),
            ("exit", "To leave, type /exit"),
            ("/s", "/s could be /system, /set, /seed, /stats, /show, /sessions or /save."),
            ("/probs Who?", "piece"),
            ("/model", "run at step 20"),
            ("/model second", "second replies from here on"),
            ("And now?", "Parakeet: "),
            ("/model abcd@10", "run abcd1234@10 replies from here on"),
            ("/retry", "Parakeet: "),
            ("/set temperature default", "2"),
        ):
            assert expected in typed(child, line), line
        child.send("/bye\r")
        assert ends(child) == 0
    with chatting(home, "--session", "tour", "--temperature", "0", "--raw", "--run", "abcd") as child:
        child.expect_exact("tour: 3 exchanges, the last on ")
        child.expect_exact(PASTE_ON)
        assert "Parakeet: " not in typed(child, "Once upon")
        typed(child, "/continue")
        child.send("/q\r")
        assert ends(child) == 0
    replayed = chat(home, "--replay", str(home / "sessions" / "tour.jsonl"))
    assert (replayed.exit_code, replayed.stderr) == (0, ""), replayed.output
    assert "replies are identical" in replayed.stdout


def test_ctrl_c_stops_a_reply_and_twice_leaves(home: Path) -> None:
    # The likeliest token of noise is never the end of a turn.
    endless = ("--temperature", "0", "--frequency-penalty", "0", "--presence-penalty", "0")
    endless += ("--max-tokens", "1000000", "--rolling", "--no-history")
    with chatting(home, *endless) as child:
        child.expect_exact(PASTE_ON)
        child.send("hello\r")
        child.expect_exact("Parakeet: ")
        child.expect("...")
        child.send("\x03")
        child.expect_exact(" [stopped]")
        child.expect_exact(PASTE_ON)
        child.send("again\r")
        child.expect_exact("Parakeet: ")
        child.send("\x03")
        # Two presses within a second leave: a slow machine may need several.
        while child.expect_exact([PASTE_ON, pexpect.EOF]) == 0:
            child.send("\x03")
        assert ends(child) == 0


def test_a_dumb_terminal_gets_no_escape_sequence(home: Path) -> None:
    with chatting(home, "--no-history", term="dumb") as child:
        child.expect_exact("Human: ")
        screen = child.before
        for line in ("hello", '"""two\nlines"""', "/sh", "/sys", "x" * 2000, "/zzz"):
            child.send(line + "\n")
            child.expect_exact("\nHuman: ")
            screen += child.before
        child.send("/exit\n")
        assert ends(child) == 0
    assert "Loading" not in screen
    assert "\x1b" not in screen
    assert screen.count("Parakeet: ") == 2


def test_ctrl_z_and_fg(home: Path) -> None:
    shell = pexpect.spawn(
        "bash", ["--norc", "-i"], env={**environment(home), "TERM": "xterm", "PS1": "shell> "}, timeout=SECONDS,
        encoding="utf-8",
    )  # fmt: skip
    shell.expect_exact("shell> ")
    shell.sendline(shlex.join([*CHAT, "--no-history", "--max-tokens", "5"]))
    shell.expect_exact("lists the commands")
    shell.expect("Human")
    shell.send("hello\x1a")
    shell.expect("Stopped")
    shell.expect_exact("shell> ")
    shell.sendline("fg")
    shell.expect("Human: .*hello")
    shell.send("\r")
    shell.expect_exact("Parakeet: ")
    shell.close(force=True)


def test_a_loading_line_comes_and_goes_on_a_terminal(home: Path) -> None:
    with chatting(home, "-m", "hi", "--max-tokens", "3") as child:
        child.expect_exact("Loading …")
        child.expect_exact("\r\x1b[K")
        assert ends(child) == 0


def test_ctrl_c_while_the_model_loads_is_quiet(home: Path) -> None:
    with chatting(home) as child:
        child.expect_exact("Loading …")
        child.send("\x03")
        assert ends(child) == 130
        assert child.before in ("\r\x1b[K", "^C\r\x1b[K")


def test_json_with_options_and_a_session_through_a_pipe(home: Path) -> None:
    options = ["--json", "--session", "piped", "--top-k", "50", "--stop", "zzz", "--stop", "qqq", "--dtype", "bf16"]
    done = chat(home, *options, "--seed", "5", "--stats", stdin=b"one\ntwo\n")
    assert done.exit_code == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "start"
    assert (events[0]["model"], events[0]["dtype"], events[0]["context"]) == ("tiny", "bf16", 1024)
    finished = [event for event in events if event["event"] == "end"]
    assert [event["seed"] for event in finished] == [5, 5]
    assert all(event["prompt_tokens_per_second"] > 0 for event in finished)
    assert chat(home, "--session", "piped", "--seed", "5", "-m", "three").exit_code == 0
    lines = [json.loads(line) for line in (home / "sessions" / "piped.jsonl").read_text("utf-8").splitlines()]
    assert [line["message"] for line in lines if "message" in line] == ["one", "two", "three"]
    assert lines[1]["settings"]["stop"] == ["zzz", "qqq"]
    assert os.stat(home / "sessions" / "piped.jsonl").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "-1"), "temperature must be"),
        (("--temperature", "nan"), "temperature must be"),
        (("--top-p", "0"), "top_p must be"),
        (("--min-p", "2"), "min_p must be"),
        (("--max-tokens", "0"), "max_tokens must be"),
        (("--seed", "abc"), "seed must be"),
        (("--stop", ""), "stop must be"),
        (("--dtype", "fp8"), "--dtype"),
        (("--threads", "0"), "--threads"),
        (("--session", "../x"), "is not a session name"),
        (("--replay", "x.jsonl", "--seed", "1"), "--replay"),
        (("--replay", "x.jsonl", "-m", "hi"), "--replay"),
        (("--replay", "x.jsonl", "--rolling"), "--replay"),
    ],
)
def test_wrong_options_are_refused_by_name_before_anything_loads(
    home: Path, options: tuple[str, ...], message: str
) -> None:
    done = chat(home, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_failures_of_the_run_are_one_message_or_one_event(home: Path) -> None:
    long = b"x" * 3000 + b"\n"
    done = chat(home, stdin=b"hi\n" + long)
    assert done.exit_code == 1
    assert "Error: Line 2 of the input: The message (3,000 characters)" in done.stderr
    done = chat(home, "--json", stdin=long)
    assert (done.exit_code, done.stderr) == (1, "")
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "error"
    done = chat(home, "--json", "-m", "hi", "--model", "./nowhere")
    assert (done.exit_code, done.stderr) == (1, "")
    assert "There is no file or folder ./nowhere" in json.loads(done.stdout)["message"]


@pytest.mark.parametrize("closed", [">&-", "| head -1"])
def test_an_output_that_goes_away(home: Path, closed: str) -> None:
    lines = "printf 'one\\ntwo\\nthree\\n'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {lines} | {shlex.join(CHAT)} --max-tokens 5 {closed}"],
        env=environment(home),
        capture_output=True,
        timeout=SECONDS,
    )
    if "head" in closed:
        assert done.returncode == 0
        assert set(done.stderr.splitlines()) <= {b"Reply cut at 5 tokens (max_tokens)."}
        assert done.stdout.count(b"\n") == 1
    else:
        assert done.returncode == 1
        assert b"Standard output is closed" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_home_that_cannot_be_written_is_two_notes_and_a_chat(home: Path) -> None:
    leader = [*without_root_rights(), *CHAT, "--max-tokens", "5"]
    writable = [path for path in (home, home / "sessions") if path.exists()]
    (home / "chat_history").unlink(missing_ok=True)
    for path in writable:
        path.chmod(0o555)
    try:
        child = pexpect.spawn(
            leader[0], leader[1:], env={**environment(home), "TERM": "xterm", "NO_COLOR": "1"}, timeout=SECONDS,
            encoding="utf-8",
        )  # fmt: skip
        child.expect_exact("Input history will not be saved")
        child.expect_exact(PASTE_ON)
        said = typed(child, "hello")
        assert "Parakeet: " in said
        assert "no longer recorded" in said
        child.sendeof()
        assert ends(child) == 0
    finally:
        for path in writable:
            path.chmod(0o755)
