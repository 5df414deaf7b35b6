"""What a person types: the rules of an input, and the plain way to read one."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

from parakeet.chat.output import write

QUOTES = '"""'


class Candidate(NamedTuple):
    """A completion: `text` in place of the last `replaces` characters of an input, and what it means."""

    text: str
    replaces: int
    meaning: str


class LineCleared(KeyboardInterrupt):
    """Ctrl-C cleared a line that had something on it."""


class Reader(Protocol):
    """Reads one input after the other from a terminal."""

    notes: list[str]
    """What a person should know of the reader, to be shown and cleared."""

    def read(self, context: str) -> str:
        """The next input; "//" in front stands for a slash that begins a message.

        `context` says how full the context is, or nothing. EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C.
        """

    def quiet(self) -> AbstractContextManager[None]:
        """For the whole chat: what is typed between two inputs stays off the screen, and is the next one's."""

    def aside(self) -> AbstractContextManager[None]:
        """While another program has the terminal, as the shell set it up."""


def literal(text: str) -> str:
    """The input that sends this text, apart from blanks around it: a slash in front would make it a command."""
    stripped = text.lstrip()
    return "/" + stripped if stripped.startswith("/") else text


def is_open(text: str) -> bool:
    """Whether the input began a block with three quotes and has not ended it."""
    text = text.strip()
    return text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES))


def unquoted(text: str) -> str:
    """An input without the three quotes around it; what stands between them is a message in any case."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES) or is_open(stripped):
        return text
    return literal(stripped[len(QUOTES) : -len(QUOTES)].strip("\n"))


class PlainReader:
    """Python's own `input`, for terminals that know no cursor."""

    def __init__(self, label: str) -> None:
        self.notes: list[str] = []
        self._label = label

    def read(self, context: str) -> str:
        text = ""
        try:
            text = input(f"({context}) {self._label}" if context else self._label)
            while is_open(text):
                text += "\n" + input("... ")
        except KeyboardInterrupt:
            write("\n")
            raise
        except EOFError:
            write("\n")
            if not text:
                raise
            self.notes.append(f"The message was not ended with {QUOTES}: it was not sent.")
            return ""
        return unquoted(text)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


def is_dumb() -> bool:
    """Whether the terminal knows neither colour nor cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


class QuietTerminal:
    """No echo, and keys wait in the terminal's queue one by one, until a prompt reads them.

    Without this, keys pressed while a reply is written would be echoed into it. Ctrl-C and Ctrl-Z stay
    signals. Nothing happens where standard input is no POSIX terminal.
    """

    def __init__(self) -> None:
        self._before: list | None = None

    @contextmanager
    def quiet(self) -> Iterator[None]:
        try:
            import termios
        except ImportError:
            yield
            return
        self._before = termios.tcgetattr(sys.stdin.fileno())
        # A shell that continues the process after Ctrl-Z may have set modes of its own.
        continued = signal.signal(signal.SIGCONT, lambda *_: self._silence())
        self._silence()
        try:
            yield
        finally:
            signal.signal(signal.SIGCONT, continued)
            self._apply(self._before)
            self._before = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        if self._before is None:
            yield
            return
        self._apply(self._before)
        try:
            yield
        finally:
            self._silence()

    def _silence(self) -> None:
        import termios

        assert self._before is not None
        quiet = [*self._before]
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        self._apply(quiet)

    def _apply(self, attributes: list) -> None:
        import termios

        # Not TCSAFLUSH, which throws away what was typed. A terminal that hung up has no modes to set.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, attributes)
