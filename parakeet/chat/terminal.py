"""The conversation of `parakeet chat`: on a terminal, one message, or the lines or paragraphs of a pipe.

Without a terminal, standard output gets only replies or JSON events. Notes go to standard error.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from parakeet.chat.commands import Chat, complete, parse_input, print_recap, run_command
from parakeet.chat.files import with_files
from parakeet.chat.input import LineCleared, PlainReader, Reader, is_dumb
from parakeet.chat.output import JsonOutput, ReplyPrinter, TextOutput, engine_facts, note, styled, write
from parakeet.chat.session import Session
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from parakeet.chat.models import OpenedModel
    from parakeet.release.verify import Release

HISTORY_FILE = "chat_history"
LABEL = "Parakeet: "
LEAVING_WORDS = ("exit", "quit", "exit()", "quit()", "logout", ":q", ":q!", ":wq")
"""What people type to leave other programs. Entered a second time, it is sent."""


def is_interactive() -> bool:
    """Whether standard input and standard output are both terminals."""
    return bool(sys.stdin and sys.stdout and sys.stdin.isatty() and sys.stdout.isatty())


def run_chat(
    session: Session,
    release: "Release",
    root: Path,
    open_model: "Callable[[str], OpenedModel]",
    message: str | None = None,
    as_json: bool = False,
    stats: bool = False,
    history: bool = True,
    paragraphs: bool = False,
) -> int:
    """Run a conversation to its end; returns the exit status of the process.

    With `message`, print the reply to it and stop. Otherwise, if standard input and output are terminals and not
    `as_json`, hold a conversation there; `open_model` opens the models that it switches to. Otherwise each line of
    standard input (UTF-8; blank lines are skipped), or with `paragraphs` all lines up to a blank one, is a message.
    `as_json` prints one event a line, `stats` the speed and seed of each reply. With `history`, what is typed at the
    prompt is saved under `root`, where the named sessions are too.

    Status: 0, 2 for a blank message, 130 if Ctrl-C ended a run without a terminal. If the reader of standard output
    goes away (`| head -1`), the run ends silently with 0. Raises ParakeetError, except on a terminal: there the error
    is printed and the conversation continues.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    output = JsonOutput() if as_json else TextOutput()
    printer = ReplyPrinter(session, output, stats)
    try:
        if isinstance(output, JsonOutput):
            output.event("start", model=release.name, **engine_facts(session.engine))
        if message is None and not as_json and is_interactive():
            label = "" if session.raw else styled(LABEL, "1;32")
            return _Terminal(Chat(release, printer, root, label, open_model), history).run()
        printer.print_notes()
        return _answer_all(printer, paragraphs) if message is None else _answer_once(printer, message)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return 0
    except OSError as error:
        discard_output()
        raise ParakeetError(f"Standard input or output failed: {error.strerror}.") from None
    finally:
        printer.session.close()


def _answer_once(printer: ReplyPrinter, message: str) -> int:
    if not message.strip():
        printer.output.note("The message is empty: give some text.")
        return 2
    printer.print_reply(printer.session.reply(message))
    return INTERRUPTED if printer.interrupts.requested else 0


def _answer_all(printer: ReplyPrinter, paragraphs: bool) -> int:
    for number, message in _paragraphs() if paragraphs else _lines():
        try:
            printer.print_reply(printer.session.reply(message))
        except ParakeetError as error:
            raise ParakeetError(f"Line {number} of the input: {error}") from None
        if printer.interrupts.requested:
            return INTERRUPTED
    return 0


def _lines() -> Iterator[tuple[int, str]]:
    """The lines of standard input that are not blank, numbered from 1."""
    if sys.stdin is None:
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        if line:
            yield number, line


def _paragraphs() -> Iterator[tuple[int, str]]:
    """The texts between blank lines of standard input, with the number of the first line of each."""
    lines: list[str] = []
    number = 0
    if sys.stdin is None:
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip()
        if line:
            lines.append(line)
        elif lines:
            yield number - len(lines), "\n".join(lines)
            lines = []
    if lines:
        yield number - len(lines) + 1, "\n".join(lines)


def discard_output() -> None:
    """Send what is still buffered nowhere: the interpreter's last flush would complain about the broken pipe."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Terminal:
    """The conversation on a terminal."""

    def __init__(self, chat: Chat, history: bool) -> None:
        self.chat = chat
        self.reader = self._reader(chat.root / HISTORY_FILE if history else None)
        self._hinted = ""
        """The word after which the last input was told how to leave."""
        chat.aside = self.reader.aside

    def _reader(self, history: Path | None) -> Reader:
        label = "Text: " if self.chat.session.raw else "Human: "
        if is_dumb():
            return PlainReader(label)
        # Imported here: prompt_toolkit is slow to import, and a pipe does not need it.
        from parakeet.chat.prompt import PromptReader

        return PromptReader(label, lambda line: complete(self.chat, line), history)

    def run(self) -> int:
        self._greet()
        with _terminated_in_order(), self.reader.quiet():
            while not self.chat.leaving:
                self._turn()
        return 0

    def _greet(self) -> None:
        engine, log = self.chat.session.engine, self.chat.session.log
        name = styled(sanitise(self.chat.release.name), "1")
        write(
            f"{name}: {engine.parameter_count:,} parameters in {engine.dtype}, "
            f"context {engine.context:,} tokens\n"
            "Ctrl-C stops a reply, Ctrl-D or /exit leaves, /help lists the commands.\n"
        )
        if self.chat.session.raw:
            write("Each text is continued as it is, without the chat template. /continue goes on with it.\n")
        if log:
            note(f"Recorded in {log.path}")
        self.chat.printer.print_notes()
        if log and log.begun:
            print_recap(self.chat.session)

    def _turn(self) -> None:
        """Read one input; run it as a command or reply to it."""
        try:
            for text in self.reader.notes:
                note(text)
            self.reader.notes.clear()
            entered = self.reader.read(self._context())
            name, text = (None, entered.text) if entered.literal else parse_input(entered.text)
            if name is not None:
                self._hinted = ""
                run_command(self.chat, name, text, entered.expand)
                return
            if not entered.literal:
                if self._wants_to_leave(text):
                    return
                text = with_files(text, note)
            text = entered.expand(text)
            if text.strip():
                session = self.chat.session
                self.chat.print_reply(session.reply(text if session.raw else text.strip()))
        except EOFError:
            self.chat.leaving = True
        except KeyboardInterrupt as interrupt:
            interrupts = self.chat.printer.interrupts
            interrupts.press()
            self.chat.leaving = interrupts.leave
            if not interrupts.leave and not isinstance(interrupt, LineCleared):
                write("(Ctrl-C again, Ctrl-D or /exit to leave)\n")
        except ParakeetError as error:
            note(str(error))
            self.chat.printer.print_notes()

    def _wants_to_leave(self, text: str) -> bool:
        """Tell how to leave, once, if that is what the text seems to be for."""
        word = text.lower()
        hint = word in LEAVING_WORDS and word != self._hinted
        self._hinted = word if hint else ""
        if hint:
            write("To leave, type /exit or press Ctrl-D. To send this word as a message, enter it again.\n")
        return hint

    def _context(self) -> str:
        """How full the context is, from half full on."""
        session = self.chat.session
        used, context = len(session.prompt_ids()), session.engine.context
        return f"ctx {used:,}/{context:,}" if 2 * used > context else ""


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let SIGTERM unwind the process: otherwise the shell would inherit a terminal in raw mode."""

    def leave(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
