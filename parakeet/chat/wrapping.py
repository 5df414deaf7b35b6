"""Breaks a stream of text between words, for a terminal."""

import os
import re
import sys
import unicodedata

from wcwidth import wcswidth, wcwidth

NARROWEST = 20
"""On a terminal of fewer columns, lines are left to the terminal."""

TAB = 8

_FENCE = re.compile(r" {0,3}(```|~~~)")
_INDENTED = ("    ", "\t")
_CLOSING = "!),.:;?]}’”›»、。〉》」』】〕〗！），．：；？］｝…ー々"
"""No line begins with these. They stay with the character before them, in scripts without spaces too."""


def terminal_width() -> int:
    """Columns of the terminal on standard output; 0 if it is none, or does not say."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    except (OSError, ValueError):
        return 0


class Wrapper:
    """Wraps a text that comes in pieces: `feed` returns what can be printed now, the rest follows.

    A word is held back until its end. One that is longer than a line is left to the terminal, so that an address can
    still be copied as one. Code between fences and indented lines are left as
    they are. Wide characters take two columns; between two of them a line may break. Only spaces at a break are
    replaced by the newline; every other character comes through.
    """

    def __init__(self, width: int, column: int = 0) -> None:
        """`column`: what is on the line already, such as a label. A width below NARROWEST wraps nothing."""
        self._width = width - 1 if width >= NARROWEST else 0  # the last column would leave the cursor in doubt
        self._column = column
        self._blanks = ""
        self._word = ""
        self._line = ""
        """The beginning of the present line of the text, as far as it decides how the line is printed."""
        self._in_code = False
        self._is_long = False
        """Whether the present word is longer than a line, and printed as it comes."""

    def feed(self, text: str) -> str:
        if not self._width:
            return text
        return "".join(map(self._character, text))

    def finish(self) -> str:
        """What is still held back, at the end of the text."""
        if not self._width:
            return ""
        shown = self._release() + self._blanks
        self._blanks = ""
        return shown

    def _character(self, character: str) -> str:
        if character == "\n":
            if _FENCE.match(self._line):
                self._in_code = not self._in_code
            shown = self._release() + self._blanks + "\n"
            self._blanks, self._column, self._line, self._is_long = "", 0, "", False
            return shown
        if len(self._line) < 6:
            self._line += character
        if self._is_preformatted():
            return self._release() + self._take_blanks() + character
        if character in " \t":
            shown = self._release()
            self._blanks += character
            self._is_long = False
            return shown
        if self._is_long:
            self._column = (self._column + _columns(character)) % (self._width + 1)
            return character
        if self._word and _may_break(self._word[-1], character):
            shown = self._release()
            self._word = character
            return shown
        self._word += character
        if _columns(self._word) > self._width:
            self._is_long = True
            return self._release()
        return ""

    def _is_preformatted(self) -> bool:
        return self._in_code or self._line.startswith(_INDENTED) or _FENCE.match(self._line) is not None

    def _take_blanks(self) -> str:
        blanks, self._blanks = self._blanks, ""
        return blanks

    def _release(self) -> str:
        """The word with the blanks before it, or on a new line."""
        if not self._word:
            return ""
        word, blanks = self._word, self._take_blanks()
        self._word = ""
        start = _after(blanks, self._column)
        if start + _columns(word) > self._width and self._column:
            self._column = _columns(word)
            return "\n" + word
        self._column = start + _columns(word)
        return blanks + word


def _after(blanks: str, column: int) -> int:
    """The column after spaces and tabs."""
    for blank in blanks:
        column += TAB - column % TAB if blank == "\t" else 1
    return column


def _columns(text: str) -> int:
    # −1 stands for control characters, which the sanitiser has removed.
    return max(0, wcswidth(text))


def _may_break(before: str, after: str) -> bool:
    """Whether a line may break between two characters of a word: around ideographs and other wide characters."""
    if after in _CLOSING or wcwidth(after) == 0 or unicodedata.category(before) in ("Ps", "Pi") or before == "\u200d":
        return False
    return _is_wide(before) or _is_wide(after)


def _is_wide(character: str) -> bool:
    return wcwidth(character) == 2 and not 0x1F1E6 <= ord(character) <= 0x1F1FF  # flags are pairs of letters
