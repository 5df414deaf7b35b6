"""The chat as a process: on pipes, and on a pseudo-terminal.

The processes are forks of this one, which has already imported torch: that saves a second each.
"""

import os
import pty
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import prompt_toolkit.shortcuts  # noqa: F401  # here, not in each of the forks
import pytest
from pexpect import EOF, fdpexpect

SECONDS = 300  # a guard against hanging: a busy machine may be slow
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
PROGRAM: Callable[[tuple[str, ...]], int] = runpy.run_path(str(Path(__file__).with_name("program.py")))["main"]


@dataclass(frozen=True)
class Finished:
    status: int
    out: bytes
    err: bytes

    @property
    def notes(self) -> list[str]:
        return self.err.decode().splitlines()


class Terminal(fdpexpect.fdspawn):
    """A process on a pseudo-terminal of 24 lines and 80 columns."""

    def __init__(self, pid: int, descriptor: int, plain: bool) -> None:
        super().__init__(descriptor, timeout=SECONDS, encoding="utf-8", codec_errors="replace")
        self.pid = pid
        self.plain = plain
        self.banner = ""

    def prompt(self) -> str:
        """Wait for the next prompt; returns what was printed before it."""
        # prompt_toolkit redraws a line many times, but switches bracketed paste on only once.
        self.expect_exact("Human: " if self.plain else PASTE_ON)
        return str(self.before)

    def type(self, text: str) -> str:
        """Send a line and wait for the next prompt; returns what was printed in between."""
        self.send(text + "\r")
        self.expect_exact("\n" if self.plain else PASTE_OFF)
        return self.prompt()

    def paste(self, text: str) -> None:
        self.send(f"\x1b[200~{text}\x1b[201~")

    def interrupt(self) -> None:
        self.send("\x03")

    def interrupt_until_it_ends(self) -> int:
        """Press Ctrl-C and wait for the next prompt, until the chat ends; returns its exit status.

        It ends when two presses come within a second; on a slow machine that may take several.
        """
        while True:
            self.interrupt()
            if self.expect_exact(["Human: " if self.plain else PASTE_ON, EOF]) == 1:
                return self.ends()

    def ends(self) -> int:
        self.expect(EOF)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


Run = Callable[..., Finished]
"""Runs the program with options and `stdin`."""

Open = Callable[..., AbstractContextManager[Terminal]]
"""Opens a terminal on which the program waits for input; takes options and environment variables."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of the processes' sessions and history."""
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Run:
    def run(*options: str, stdin: bytes = b"") -> Finished:
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            source.write(stdin)
            source.seek(0)
            pid = os.fork()
            if pid == 0:
                for number, file in enumerate((source, out, err)):
                    os.dup2(file.fileno(), number)
                _become_the_program(options, {"PARAKEET_HOME": str(home)})
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.seek(0)
            err.seek(0)
            return Finished(status, out.read(), err.read())

    return run


@pytest.fixture
def terminal(home: Path) -> Open:
    @contextmanager
    def terminal(*options: str, **environment: str) -> Iterator[Terminal]:
        pid, descriptor = pty.fork()
        variables = {"TERM": "dumb", "PARAKEET_HOME": str(home), **environment}
        if pid == 0:
            _become_the_program(options, variables)
        child = Terminal(pid, descriptor, plain=variables["TERM"] == "dumb")
        try:
            child.banner = child.prompt()
            yield child
        finally:
            child.close()
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

    return terminal


def _become_the_program(options: tuple[str, ...], environment: dict[str, str]) -> None:
    """Never returns: the process ends with the program's status."""
    status = 70
    try:
        os.environ.pop("NO_COLOR", None)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace")  # noqa: SIM115
        status = PROGRAM(options)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
