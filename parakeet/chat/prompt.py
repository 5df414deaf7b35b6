"""The input line with prompt_toolkit: several lines, pastes, completion, and a history kept between chats."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer
from prompt_toolkit.completion import Completion as PromptCompletion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_len
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, TabsProcessor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from parakeet.chat.input import (
    HOW_TO_END,
    QUOTES,
    Completion,
    Input,
    LineCleared,
    QuietTerminal,
    as_input,
    is_open,
    literal,
)
from parakeet.chat.output import has_colour
from parakeet.formatting import counted

MAX_SHOWN_LENGTH, MAX_SHOWN_LINES = 2_000, 12
"""A longer paste is one character in the input line, displayed as its size: laying out 1 MB at every key press would
take seconds."""

_FIRST_PASTE = 0x10F000
"""First of the characters that stand for pastes. It is in a private-use plane, which no text contains."""

MAX_HISTORY_BYTES = 1 << 20
"""A longer history file is cut to its newest half megabyte."""

MAX_ENTRY_LENGTH = 10_000
"""In characters. A longer input, such as a pasted book, is not kept."""


class PromptReader(QuietTerminal):
    """Reads inputs with editing: Enter sends, Alt-Enter begins a new line, Tab completes.

    `complete` returns the completions of an input so far. `history` is the history's file, None to keep none.
    """

    def __init__(self, label: str, complete: Callable[[str], Iterable[Completion]], history: Path | None) -> None:
        super().__init__()
        self._pastes = _Pastes()
        self._history = PromptHistory(history, self._pastes.expand)
        self.notes = self._history.notes
        output = create_output()
        if isinstance(output, Vt100_Output):
            # Do not ask for the cursor position: a late answer would end up in the next program's input.
            output.enable_cpr = False
        colours = {"prompt": "ansicyan bold", "dim": "ansibrightblack"} if has_colour() else {}
        self._label = label
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            completer=_CommandCompleter(complete),
            complete_while_typing=Condition(self._begins_command),
            multiline=Condition(self._is_open),
            prompt_continuation=self._continuation,
            input_processors=[_PasteProcessor(self._pastes), TabsProcessor(char1=" ", char2=" ")],
            key_bindings=self._bindings(),
            enable_suspend=True,
            style=Style.from_dict(colours),
            output=output,
        )

    def read(self, context: str) -> Input:
        self._pastes.clear()

        def beside() -> StyleAndTextTuples:
            # Not kept on a line that was sent: it was true of that moment only.
            return [] if get_app().is_done else [("class:dim", context)]

        raw = self._session.prompt([("class:prompt", self._label)], rprompt=beside)
        return as_input(raw, self._pastes.texts)

    def _is_open(self) -> bool:
        return is_open(self._session.default_buffer.text)

    def _continuation(self, width: int, line_number: int, wrapped: int) -> StyleAndTextTuples:
        """Before every line of an input but the first. The last line of an open block says how the block ends."""
        if wrapped:
            return [("", " " * width)]  # the same line goes on
        dots = "...".rjust(width - 1) + " "
        last = line_number == self._session.default_buffer.document.line_count - 1
        hint = f"({HOW_TO_END}) " if last and not get_app().is_done and self._is_open() else ""
        return [("class:dim", dots + hint)]

    def _begins_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and not text.startswith("//")

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        in_input = has_focus(DEFAULT_BUFFER)

        @bindings.add("escape", "enter", filter=in_input)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @bindings.add("c-c", filter=in_input)
        @bindings.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=LineCleared if event.current_buffer.text else KeyboardInterrupt)

        @bindings.add(Keys.BracketedPaste, filter=in_input)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            first = not buffer.document.text_before_cursor.strip()
            if len(text) > MAX_SHOWN_LENGTH or text.count("\n") >= MAX_SHOWN_LINES:
                text = self._pastes.fold(text)
            elif first and text.lstrip().startswith(QUOTES):
                text = self._pastes.fold(text)  # quotes in a pasted program do not begin a block
            elif first:
                text = literal(text)  # a command is typed, not pasted
            buffer.insert_text(text)

        return bindings


class _Pastes:
    """Long pastes, by the character that stands for each."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}

    def clear(self) -> None:
        self.texts = {}

    def fold(self, text: str) -> str:
        self.texts[_FIRST_PASTE + len(self.texts)] = text
        return chr(_FIRST_PASTE + len(self.texts) - 1)

    def expand(self, text: str) -> str:
        return text.translate(self.texts)

    def label(self, character: str) -> str | None:
        """How a paste's character is displayed. None for any other character."""
        text = self.texts.get(ord(character))
        if text is None:
            return None
        return f"[pasted {counted(len(text), 'character')}, {counted(len(text.splitlines()), 'line')}]"


class _PasteProcessor(Processor):
    """Displays a folded paste as its size."""

    def __init__(self, pastes: _Pastes) -> None:
        self._pastes = pastes

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        shown: StyleAndTextTuples = []
        starts: list[int] = []
        for style, character, *rest in explode_text_fragments(transformation_input.fragments):
            starts.append(fragment_list_len(shown))
            label = self._pastes.label(character) if len(character) == 1 else None
            shown.append(("class:dim", label) if label else (style, character, *rest))  # type: ignore[arg-type]
        end = fragment_list_len(shown)

        def to_display(position: int) -> int:
            return starts[position] if position < len(starts) else end + position - len(starts)

        def to_source(position: int) -> int:
            return sum(start < position for start in starts) if position < end else len(starts) + position - end

        return Transformation(shown, source_to_display=to_display, display_to_source=to_source)


class _CommandCompleter(Completer):
    def __init__(self, complete: Callable[[str], Iterable[Completion]]) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[PromptCompletion]:
        if document.text_after_cursor:
            return
        for candidate in self._complete(document.text):
            meta: Any = [("", candidate.help)]
            yield PromptCompletion(candidate.text, start_position=-candidate.replaces, display_meta=meta)


class PromptHistory(History):
    """prompt_toolkit's history in a file of mode 0600, one JSON string a line. Damaged lines are skipped.

    If `path` is None, or the file is unusable, the history lasts for this chat only; `notes` gives the reason once.
    `expand` replaces the characters that stand for pastes by their text.
    """

    def __init__(self, path: Path | None, expand: Callable[[str], str]) -> None:
        super().__init__()
        self.notes: list[str] = []
        self._expand = expand
        self._entries: list[str] = []
        self._descriptor = self._open(path) if path else None

    def load_history_strings(self) -> Iterable[str]:
        """Newest first, as prompt_toolkit wants them."""
        return reversed(self._entries)

    def append_string(self, string: str) -> None:
        string = self._expand(string)
        if string.strip() and len(string) <= MAX_ENTRY_LENGTH and self._entries[-1:] != [string]:
            # prompt_toolkit asks for the whole list only later, in its event loop.
            self._entries.append(string)
            super().append_string(string)

    def store_string(self, string: str) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(string).encode() + b"\n")
        except OSError as error:
            self._descriptor = None
            self.notes.append(f"Input history is no longer saved: {error.strerror}.")

    def _open(self, path: Path) -> int | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without O_NONBLOCK, opening a FIFO would wait forever.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
            self._read(descriptor, path)
        except OSError as error:
            self.notes.append(f"Input history will not be saved: {path}: {error.strerror}.")
            return None
        return descriptor

    def _read(self, descriptor: int, path: Path) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
            self.notes.append(f"{path} was readable by others; now only you can read it.")
        skipped = max(0, status.st_size - MAX_HISTORY_BYTES // 2) if status.st_size > MAX_HISTORY_BYTES else 0
        content = os.pread(descriptor, MAX_HISTORY_BYTES, skipped)
        if skipped:
            content = content.partition(b"\n")[2]
            os.ftruncate(descriptor, 0)
            os.write(descriptor, content)
        elif content and not content.endswith(b"\n"):
            os.write(descriptor, b"\n")  # after a power cut, the last line may have no newline
        self._entries = [entry for line in content.split(b"\n") if (entry := _entry(line))]


def _entry(line: bytes) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return value[:MAX_ENTRY_LENGTH] if isinstance(value, str) else ""
