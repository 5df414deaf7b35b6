"""`parakeet chat`: a conversation on a terminal, one message with -m, or a line of a pipe at a time.

Whatever the model says goes through the sanitiser. Off a terminal nothing but replies reaches standard
output; notes go to standard error.
"""

import io
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from types import FrameType

from parakeet.chat.session import Session
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.sanitise import Sanitiser, sanitise

SECONDS_TO_LEAVE = 1.0

HELP = """\
/clear   forget the conversation
/exit    leave (also Ctrl-D)
/help    this list
Ctrl-C stops a reply; what was said so far stays in the conversation."""


def run_chat(session: Session, name: str, message: str | None = None) -> int:
    """Talk until there is nothing left to say; returns the process's exit status.

    `message` asks once and prints only the reply. Without it, a conversation runs on the terminal when
    standard input and output are one; otherwise each line of standard input (UTF-8; blank ones are
    skipped) is a message of one conversation. `name` is the model's, for the banner.

    Status: 0, 2 for a blank message, 130 where Ctrl-C ended a run without a terminal. A reader that goes
    away (`| head -1`) ends the run quietly with 0. Raises ParakeetError, apart from a conversation on a
    terminal, which prints the error and goes on.
    """
    if sys.stdout is None:
        raise ParakeetError("Standard output is closed: there is nowhere to write a reply.")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if message is not None:
            return _answer_once(session, message)
        if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
            return _Terminal(session, name).run()
        return _answer_lines(session)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        raise ParakeetError(f"Standard input or output failed: {error.strerror}.") from None


def _answer_once(session: Session, message: str) -> int:
    if not message.strip():
        _note("The message is empty: give some text after -m.")
        return 2
    return INTERRUPTED if _print_reply(session, message) == "interrupted" else 0


def _answer_lines(session: Session) -> int:
    for number, line in _lines():
        try:
            if _print_reply(session, line) == "interrupted":
                return INTERRUPTED
        except ParakeetError as error:
            raise ParakeetError(f"Line {number} of the input: {error}") from None
    return 0


def _lines() -> Iterator[tuple[int, str]]:
    """Lines of standard input that are not blank, with their 1-based numbers."""
    if sys.stdin is None:
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        if line:
            yield number, line


def _print_reply(session: Session, message: str, label: str = "") -> str:
    """Stream one reply to standard output, with a newline behind it; returns its finish reason."""
    steps = session.reply(message)
    if session.dropped:
        _note(
            f"{_count(session.dropped, 'oldest exchange')} no longer fitted the context of "
            f"{session.engine.context:,} tokens and left the conversation."
        )
    finish_reason, tokens = "interrupted", 0
    with _Interrupt() as interrupt, _SafeLine() as line, closing(steps):
        _write(label)
        for step in steps:
            line.write(step.text)
            tokens += step.token_id is not None
            finish_reason = step.finish_reason or finish_reason
            if interrupt.requested:
                break
        if finish_reason == "interrupted" and sys.stdout.isatty():
            line.mark(" [stopped]")
    if finish_reason in ("length", "context"):
        why = "the context is full" if finish_reason == "context" else "max_tokens"
        _note(f"reply cut at {_count(tokens, 'token')} ({why})")
    return finish_reason


class _SafeLine:
    """Writes pieces of a model's text, sanitised as one stream, and leaves the cursor on a new line."""

    def __init__(self) -> None:
        self._sanitiser = Sanitiser()
        self._last = ""

    def __enter__(self) -> "_SafeLine":
        return self

    def write(self, text: str) -> None:
        self._put(self._sanitiser.feed(text))

    def mark(self, text: str) -> None:
        """Our own words behind the model's, out of reach of a sequence that it left open."""
        self._put(self._sanitiser.finish() + text)

    def __exit__(self, *_: object) -> None:
        self._put(self._sanitiser.finish())
        if not self._last.endswith("\n"):
            self._put("\n")

    def _put(self, text: str) -> None:
        self._last = text or self._last
        _write(text)


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _note(text: str) -> None:
    if sys.stderr is not None:  # print(file=None) would write to standard output
        print(sanitise(text), file=sys.stderr, flush=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere; it would complain about the broken pipe."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Interrupt:
    """While it is entered, Ctrl-C only sets `requested`: an exception inside a forward pass or a write
    could leave either half done. Elsewhere Ctrl-C raises KeyboardInterrupt as usual."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "_Interrupt":
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class _Terminal:
    """The conversation on a terminal."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        dumb = os.environ.get("TERM") == "dumb"
        self._colour = not dumb and not os.environ.get("NO_COLOR")
        self._readline = not dumb and _load_readline()
        self._last_interrupt = -math.inf

    def run(self) -> int:
        engine = self.session.engine
        _write(
            f"{sanitise(self.name)}: {engine.parameter_count:,} parameters, context {engine.context:,} tokens\n"
            "Ctrl-C stops a reply, Ctrl-D or /exit leaves, /help lists the commands.\n"
        )
        while True:
            try:
                if not self._turn(input(self._prompt())):
                    return 0
            except EOFError:
                _write("\n")
                return 0
            except KeyboardInterrupt:
                _write("\n")
                if self._is_second_interrupt():
                    return 0
                _write("(Ctrl-C again, Ctrl-D or /exit to leave)\n")
            except ParakeetError as error:
                _note(str(error))

    def _turn(self, line: str) -> bool:
        """Obey or answer one line; returns whether the conversation goes on."""
        line = line.strip()
        if re.fullmatch(r"/\w+", line):
            return self._command(line)
        if line:
            _print_reply(self.session, line, label=self._styled("Parakeet: ", "1;32"))
        return True

    def _command(self, command: str) -> bool:
        if command == "/exit":
            return False
        if command == "/clear":
            self.session.clear()
            _write("The conversation is forgotten.\n")
        elif command == "/help":
            _write(HELP + "\n")
        else:
            _write(f"There is no command {sanitise(command)}; /help lists them.\n")
        return True

    def _is_second_interrupt(self) -> bool:
        before, self._last_interrupt = self._last_interrupt, time.monotonic()
        return self._last_interrupt - before < SECONDS_TO_LEAVE

    def _prompt(self) -> str:
        # Readline counts columns, and learns from \x01 and \x02 which characters take none.
        marks = ("\x01", "\x02") if self._readline else ("", "")
        return self._styled("Human: ", "1;36", marks)

    def _styled(self, text: str, code: str, marks: tuple[str, str] = ("", "")) -> str:
        if not self._colour:
            return text
        start, end = marks
        return f"{start}\x1b[{code}m{end}{text}{start}\x1b[0m{end}"


def _load_readline() -> bool:
    """Line editing, and a history that lasts as long as the process; not every Python has it."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return False
    return True
