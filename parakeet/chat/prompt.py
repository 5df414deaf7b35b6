"""The input line with prompt_toolkit: several lines, pastes, history, completion."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_len
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, TabsProcessor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from parakeet.chat.history import PromptHistory
from parakeet.chat.output import count, has_colour
from parakeet.chat.reading import QUOTES, Candidate, LineCleared, QuietTerminal, is_open, literal, unquoted

LONGEST_SHOWN, MOST_LINES_SHOWN = 2_000, 12
"""A longer paste stands in the line as one character that is shown as its size: laying out 1 MB with every
key pressed would take seconds."""

_FIRST_PASTE = 0x10F000  # in a plane for private use: no text has it


class PromptReader:
    """Reads inputs with editing; Enter sends, Alt-Enter begins a line, Tab completes.

    `complete` gives candidates for an input so far. The history lies in `history`, None for none.
    """

    def __init__(self, label: str, complete: Callable[[str], Iterable[Candidate]], history: Path | None) -> None:
        self._terminal = QuietTerminal()
        self._pastes = _Pastes()
        self._history = PromptHistory(history, self._pastes.expand)
        self.notes = self._history.notes
        output = create_output()
        if isinstance(output, Vt100_Output):
            # A terminal that answers late would have its answer typed into the next program's input.
            output.enable_cpr = False
        colours = {"prompt": "ansicyan bold", "dim": "ansibrightblack"} if has_colour() else {}
        self._label = label
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            completer=_CommandCompleter(complete),
            complete_while_typing=Condition(self._begins_command),
            multiline=Condition(lambda: is_open(self._session.default_buffer.text)),
            prompt_continuation=[("class:dim", "...".rjust(len(label) - 1) + " ")],
            input_processors=[_PasteProcessor(self._pastes), TabsProcessor(char1=" ", char2=" ")],
            key_bindings=self._bindings(),
            enable_suspend=True,
            style=Style.from_dict(colours),
            output=output,
        )

    def read(self, context: str) -> str:
        self._pastes.clear()

        def beside() -> StyleAndTextTuples:
            # Gone from the line once it is sent: it was true of that moment only.
            return [] if get_app().is_done else [("class:dim", context)]

        raw = self._session.prompt([("class:prompt", self._label)], rprompt=beside)
        text = self._pastes.expand(unquoted(raw))
        return literal(text) if self._pastes.begins(raw) else text

    def quiet(self) -> AbstractContextManager[None]:
        return self._terminal.quiet()

    def aside(self) -> AbstractContextManager[None]:
        return self._terminal.aside()

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
            if len(text) > LONGEST_SHOWN or text.count("\n") >= MOST_LINES_SHOWN:
                text = self._pastes.fold(text)
            elif first and text.lstrip().startswith(QUOTES):
                text = self._pastes.fold(text)  # a program's docstring is no block of ours
            elif first:
                text = literal(text)  # a command is typed, not pasted
            buffer.insert_text(text)

        return bindings


class _Pastes:
    """Long pastes by the characters that stand for them."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def clear(self) -> None:
        self._texts.clear()

    def fold(self, text: str) -> str:
        self._texts[_FIRST_PASTE + len(self._texts)] = text
        return chr(_FIRST_PASTE + len(self._texts) - 1)

    def expand(self, text: str) -> str:
        return text.translate(self._texts)

    def begins(self, text: str) -> bool:
        return ord(text.lstrip()[:1] or " ") in self._texts

    def label(self, character: str) -> str | None:
        """What is shown for a paste's character; None for any other."""
        text = self._texts.get(ord(character))
        if text is None:
            return None
        return f"[pasted {count(len(text), 'character')}, {count(len(text.splitlines()), 'line')}]"


class _PasteProcessor(Processor):
    """Shows a folded paste as its size."""

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
    def __init__(self, complete: Callable[[str], Iterable[Candidate]]) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        if document.text_after_cursor:
            return
        for candidate in self._complete(document.text):
            meta: Any = [("", candidate.meaning)]
            yield Completion(candidate.text, start_position=-candidate.replaces, display_meta=meta)
