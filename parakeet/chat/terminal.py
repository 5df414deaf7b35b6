"""`parakeet chat`: a conversation on a terminal, one message with -m, or a line of a pipe at a time.

Off a terminal nothing but replies, or JSON events, reaches standard output; notes go to standard error.
"""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from parakeet.chat.commands import complete, obey, parse
from parakeet.chat.output import JsonReporter, TextReporter, engine_facts, note, styled, write
from parakeet.chat.reading import LineCleared, PlainReader, Reader, is_dumb
from parakeet.chat.session import Session
from parakeet.chat.speaking import Speaker
from parakeet.chat.talk import Model, Talk
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.sanitise import sanitise

HISTORY_FILE = "chat_history"
LABEL = "Parakeet: "


def is_interactive() -> bool:
    """Whether a person sits at both ends: standard input and output are terminals."""
    return bool(sys.stdin and sys.stdout and sys.stdin.isatty() and sys.stdout.isatty())


def run_chat(
    session: Session,
    model: Model,
    root: Path,
    message: str | None = None,
    as_json: bool = False,
    stats: bool = False,
    history: bool = True,
) -> int:
    """Talk until there is nothing left to say; returns the process's exit status.

    `message` asks once and prints only the reply. Without it, a conversation runs on the terminal when
    standard input and output are one, unless `as_json`; otherwise each line of standard input (UTF-8; blank
    ones are skipped) is a message of one conversation. `as_json` prints one event a line, `stats` what each
    reply cost. With `history`, what is typed at the prompt is kept under `root`, as are named sessions.

    Status: 0, 2 for a blank message, 130 where Ctrl-C ended a run without a terminal. A reader that goes
    away (`| head -1`) ends the run quietly with 0. Raises ParakeetError, apart from a conversation on a
    terminal, which prints the error and goes on.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    reporter = JsonReporter() if as_json else TextReporter()
    speaker = Speaker(session, reporter, stats)
    try:
        if isinstance(reporter, JsonReporter):
            reporter.event("start", model=model.name, **engine_facts(session.engine))
        if message is None and not as_json and is_interactive():
            return _Terminal(Talk(model, speaker, root, styled(LABEL, "1;32")), history).run()
        speaker.tell_notes()
        return _answer_lines(speaker) if message is None else _answer_once(speaker, message)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return 0
    except OSError as error:
        discard_output()
        raise ParakeetError(f"Standard input or output failed: {error.strerror}.") from None
    finally:
        speaker.session.close()


def _answer_once(speaker: Speaker, message: str) -> int:
    if not message.strip():
        speaker.reporter.note("The message is empty: give some text after -m.")
        return 2
    speaker.say(speaker.session.reply(message))
    return INTERRUPTED if speaker.interrupted else 0


def _answer_lines(speaker: Speaker) -> int:
    for number, line in _lines():
        try:
            speaker.say(speaker.session.reply(line))
        except ParakeetError as error:
            raise ParakeetError(f"Line {number} of the input: {error}") from None
        if speaker.interrupted:
            return INTERRUPTED
    return 0


def _lines() -> Iterator[tuple[int, str]]:
    """Lines of standard input that are not blank, with their 1-based numbers."""
    if sys.stdin is None:
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        if line:
            yield number, line


def discard_output() -> None:
    """Let the interpreter's last flush go nowhere; it would complain about the broken pipe."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Terminal:
    """The conversation on a terminal."""

    def __init__(self, talk: Talk, history: bool) -> None:
        self.talk = talk
        self.reader = self._reader(talk.root / HISTORY_FILE if history else None)
        talk.aside = self.reader.aside

    def _reader(self, history: Path | None) -> Reader:
        if is_dumb():
            return PlainReader("Human: ")
        from parakeet.chat.prompt import PromptReader

        return PromptReader("Human: ", lambda line: complete(self.talk, line), history)

    def run(self) -> int:
        self._greet()
        with _terminated_in_order(), self.reader.quiet():
            while not self.talk.leaving:
                self._turn()
        return 0

    def _greet(self) -> None:
        talk, engine = self.talk, self.talk.session.engine
        name = styled(sanitise(talk.model.name), "1")
        write(
            f"{name}: {engine.parameter_count:,} parameters in {engine.dtype}, "
            f"context {engine.context:,} tokens\n"
            "Ctrl-C stops a reply, Ctrl-D or /exit leaves, /help lists the commands.\n"
        )
        if talk.session.log:
            note(f"Recorded in {talk.session.log.path}")
        talk.speaker.tell_notes()

    def _turn(self) -> None:
        """Read one input, and obey or answer it."""
        try:
            self._tell_notes()
            self._answer(self.reader.read(self._context()))
        except EOFError:
            self.talk.leaving = True
        except KeyboardInterrupt as interrupt:
            self._interrupted(hint=not isinstance(interrupt, LineCleared))
        except ParakeetError as error:
            note(str(error))
            self.talk.speaker.tell_notes()

    def _answer(self, line: str) -> None:
        name, text = parse(line)
        if name is not None:
            obey(self.talk, name, text)
        elif text:
            self.talk.say(self.talk.session.reply(text))

    def _interrupted(self, hint: bool) -> None:
        presses = self.talk.speaker.presses
        presses.press()
        self.talk.leaving = presses.leave
        if hint and not presses.leave:
            write("(Ctrl-C again, Ctrl-D or /exit to leave)\n")

    def _tell_notes(self) -> None:
        for text in self.reader.notes:
            note(text)
        self.reader.notes.clear()

    def _context(self) -> str:
        """How full the context is, once that is worth knowing."""
        session = self.talk.session
        used, context = session.prompt_tokens(), session.engine.context
        return f"ctx {used:,}/{context:,}" if 2 * used > context else ""


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let SIGTERM unwind the process: a terminal in raw mode would stay so for the shell."""

    def leave(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
