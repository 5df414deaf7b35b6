"""What a person types: how an input is read, what its quotes and slashes mean, and text edited in $EDITOR."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from parakeet.chat.output import write
from parakeet.errors import ParakeetError

QUOTES = '"""'
HOW_TO_END = f"{QUOTES} or two empty lines send it, Ctrl-C cancels"
"""Shown while a block in three quotes is open."""

_BLOCK = re.compile(r'\s*(?:/[A-Za-z]+\s+)?(?=""")')


class Completion(NamedTuple):
    """`text` in place of the last `replaces` characters of an input, and what it means."""

    text: str
    replaces: int
    help: str


class LineCleared(KeyboardInterrupt):
    """Ctrl-C cleared a line that was not empty."""


@dataclass(frozen=True)
class Input:
    """What a person entered. `literal`: it stood between three quotes, so it is a message and never a command.

    In `text`, one character may stand for each long paste; `expand` puts the pastes in. Before that, commands and
    names of files are looked for, as no paste is one.
    """

    text: str
    literal: bool = False
    pastes: Mapping[int, str] = field(default_factory=dict)

    def expand(self, text: str) -> str:
        return text.translate(self.pastes)


class Reader(Protocol):
    """Reads one input after the other from a terminal."""

    notes: list[str]
    """Messages about the reader itself. Whoever prints them clears the list."""

    def read(self, context: str) -> Input:
        """The next input. `context` says how full the context is, or is empty.

        Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C.
        """

    def quiet(self) -> AbstractContextManager[None]:
        """For the whole chat: what is typed between two inputs is not echoed, and becomes the next input."""

    def aside(self) -> AbstractContextManager[None]:
        """For the time that another program has the terminal, in the state in which the shell left it."""


def as_input(text: str, pastes: Mapping[int, str] | None = None) -> Input:
    """An input from the text that was typed, which may be a block in three quotes."""
    block = unquoted(text)
    return Input(text if block is None else block, block is not None, pastes or {})


def literal(text: str) -> str:
    """The input that sends this text: without a second slash, a leading one would make it a command."""
    stripped = text.lstrip()
    return "/" + stripped if stripped.startswith("/") else text


def is_open(text: str) -> bool:
    """Whether a block in three quotes begins the input, or a command's argument, and is not ended.

    Another three quotes end it, on the same line too, and so do two empty lines: nobody is trapped in a block.
    """
    begun = _BLOCK.match(text)
    return begun is not None and text.count(QUOTES, begun.end()) % 2 == 1 and not text.endswith("\n\n")


def unquoted(text: str) -> str | None:
    """The text between three quotes, or None if they are not around all of it.

    `\"\"\"Hello\"\"\" is a string` has quotes that are part of the message. A block that two empty lines ended lacks
    the closing ones.
    """
    stripped = text.strip()
    number = stripped.count(QUOTES)
    if not stripped.startswith(QUOTES) or number > 2 or (number == 2 and not stripped.endswith(QUOTES)):
        return None
    return stripped[len(QUOTES) : -len(QUOTES) if number == 2 else None].strip("\n")


class PlainReader:
    """Python's own `input`, for terminals without cursor control."""

    def __init__(self, label: str) -> None:
        self.notes: list[str] = []
        self._label = label

    def read(self, context: str) -> Input:
        text = ""
        try:
            text = input(f"({context}) {self._label}" if context else self._label)
            if is_open(text):
                write(f"({HOW_TO_END})\n")
            while is_open(text):
                text += "\n" + input("... ")
        except KeyboardInterrupt:
            write("\n")
            raise
        except EOFError:
            write("\n")
            if not text:
                raise
            self.notes.append(f"The message was not sent: its closing {QUOTES} is missing.")
            return Input("")
        return as_input(text)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


def is_dumb() -> bool:
    """Whether the terminal has neither colour nor cursor control."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


class QuietTerminal:
    """Switches echo and line editing off; typed keys wait in the terminal's queue until a prompt reads them.

    Otherwise keys that are pressed during a reply would be echoed into it. Ctrl-C and Ctrl-Z still send signals.
    Does nothing if standard input is not a POSIX terminal.
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

        # Not TCSAFLUSH, which discards what was typed. A terminal that hung up has no modes to set.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, attributes)


def edit_text(text: str) -> str:
    """Let the user edit the text in $VISUAL or $EDITOR; returns it without the newline that editors add at the end.

    The temporary file has mode 0600 and is removed afterwards. Raises ParakeetError if no editor is set, or it does
    not start, or ends with an error.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor or not editor.strip():
        raise ParakeetError("There is no editor: set the variable EDITOR, or give the text after /edit.")
    descriptor, path = tempfile.mkstemp(suffix=".md", prefix="parakeet-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        finished = subprocess.run([*shlex.split(editor), path])
        if finished.returncode != 0:
            raise ParakeetError(f"The editor {editor!r} failed with status {finished.returncode}: nothing was changed.")
        return Path(path).read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise ParakeetError(f"The editor {editor!r} cannot be started: {error}. Change the variable EDITOR.") from None
    finally:
        Path(path).unlink(missing_ok=True)
