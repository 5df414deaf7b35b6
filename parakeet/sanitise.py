"""The one filter for all printed text that Parakeet did not write itself.

The text of a model, a corpus, a file name or another program's error can control a terminal: by control characters,
escape sequences in their 7-bit and 8-bit forms (ECMA-48 §5, §8.3) and Unicode characters that reorder or hide text
(UAX #9). All of these are removed. Newline and tab stay, and so does the zero-width joiner, which emoji need. The
result holds no character that could begin a sequence, so the filter is idempotent.
"""

import re

LONGEST_SEQUENCE = 256
"""An escape sequence without an end counts as text after this many characters. A terminal would wait for ever, so that
one unterminated OSC would hide the rest of a reply."""

_ESCAPE = "\x1b"
_STRINGS = "]PX^_"  # OSC, DCS, SOS, PM, APC, each after ESC
_C1_INTRODUCERS = {"\x9b": "[", "\x9d": "]", "\x90": "P", "\x98": "X", "\x9e": "^", "\x9f": "_"}
_INTRODUCER = re.compile("[" + _ESCAPE + "".join(_C1_INTRODUCERS) + "]")
_UNWANTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    "\U000e0000-\U000e007f]"  # tag characters: invisible ASCII
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def sanitise(text: str) -> str:
    """The text without anything that controls a terminal; newlines and tabs stay.

    A carriage return is removed, so CRLF becomes a newline. A lone surrogate becomes U+FFFD, so the result can always
    be encoded.
    """
    sanitiser = Sanitiser()
    return sanitiser.feed(text) + sanitiser.finish()


def _clean(text: str) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNWANTED.sub("", text))


class Sanitiser:
    """`sanitise` for a stream. Sequences may be split between pieces; the result is the same.

    While a sequence is open, at most `LONGEST_SEQUENCE` characters are held back.
    """

    def __init__(self) -> None:
        self._introducer = ""  # "" outside a sequence; else ESC, ESC [, or ESC with one of _STRINGS
        self._body = ""
        self._string_escape = False  # inside a string, after an ESC that may begin its terminator

    def feed(self, text: str) -> str:
        """Take the next piece and return what can be printed now."""
        out = []
        position = 0
        while position < len(text):
            if self._introducer:
                out.append(self._step(text[position]))
                position += 1
                continue
            match = _INTRODUCER.search(text, position)
            end = match.start() if match else len(text)
            out.append(_clean(text[position:end]))
            if match:
                self._begin(match[0])
            position = end + 1
        return "".join(out)

    def finish(self) -> str:
        """The rest, at the end of the stream; then the sanitiser can be used for another one."""
        return self._give_up()

    def _begin(self, character: str) -> None:
        self._introducer = _ESCAPE + _C1_INTRODUCERS.get(character, "")

    def _give_up(self) -> str:
        """Leave the sequence and drop only its introducer: what followed was text after all."""
        text = _clean(self._body)
        self._leave()
        return text

    def _leave(self) -> str:
        self._introducer, self._body, self._string_escape = "", "", False
        return ""

    def _step(self, character: str) -> str:
        """Process one character inside a sequence; returns the text that it releases."""
        if self._string_escape:
            if character == "\\":
                return self._leave()
            return self._give_up() + self.feed(_ESCAPE + character)
        kind = self._introducer[1:]
        if kind and kind in _STRINGS:
            return self._step_string(character, bell_ends=kind == "]")
        if not kind and not self._body and (character == "[" or character in _STRINGS):
            self._introducer += character
            return ""
        # ECMA-48: intermediate bytes are 0x20-0x2F, parameters of a CSI 0x30-0x3F; the last byte is above.
        last_of_body = "?" if kind else "/"
        if " " <= character <= last_of_body:
            return self._hold(character)
        if last_of_body < character <= "~":
            return self._leave()
        return self._give_up() + self.feed(character)

    def _step_string(self, character: str, bell_ends: bool) -> str:
        if character == "\x9c" or (bell_ends and character == "\x07"):
            return self._leave()
        if character == _ESCAPE:
            self._string_escape = True
            return ""
        if character == "\n" or character in _C1_INTRODUCERS:
            return self._give_up() + self.feed(character)
        return self._hold(character)

    def _hold(self, character: str) -> str:
        self._body += character
        return self._give_up() if len(self._body) >= LONGEST_SEQUENCE else ""
