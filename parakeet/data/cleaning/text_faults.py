"""Repair and normalisation of text, and the faults that drop a document whatever it says."""

import re
import unicodedata
from dataclasses import dataclass, replace

from parakeet.conversation import Turn
from parakeet.data.documents import Document
from parakeet.data.marks import stream_safe
from parakeet.recipe import Clean

_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_REMOVED_RANGES = (
    "\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff"
    # Invisible: soft hyphen, zero-width space, marks of direction, word joiner and invisible operators, interlinear
    # annotation. The joiners U+200C and U+200D stay: emoji are made with them, and words of Persian and Hindi.
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufff9-\ufffb"
)
_REMOVED = re.compile(f"[{_REMOVED_RANGES}]")
# One search for all that either expression changes is three times as fast as the two; in ASCII, deleting and comparing
# lengths is ten times as fast.
_UNUSUAL = re.compile(f"[{_REMOVED_RANGES}\r\v\f\x85\u2028\u2029]")
_UNUSUAL_ASCII = bytes(code for code in range(128) if _UNUSUAL.match(chr(code)))
# ftfy (15 MB/s) never changes text that has only these characters beside ASCII.
_DOUBTFUL = re.compile("[^\x00-\x7f\xa0‘’“”–—…•]")
_MANY_BLANK_LINES = re.compile(r"\n{4,}")

# Possessive quantifiers: a long text of control tokens is scanned once, without backtracking.
_CONTROL_TOKENS = re.compile(
    r"(?:\s++"
    r"|<\|[^<>|\s]{1,60}\|>(?:\s*+(?:system|user|human|assistant)\b:?)?+"
    r"|</?(?:s|pad|unk|bos|eos|mask|sep|cls)>"
    r"|\[/?(?:INST|PAD|UNK|BOS|EOS|MASK|SEP|CLS)\]"
    r"|<</?SYS>>"
    r"|(?:\#\#\#\s?)?(?:system|user|human|assistant|instruction|response|input|output)\s?:"
    r")++",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fault:
    """Why a document is dropped: a `reason` that can be counted, and an excerpt, if the beginning does not show it."""

    reason: str
    excerpt: str = ""


def normalise(text: str) -> str:
    """NFC, `\\n` line ends, no control characters, no trailing spaces, at most two blank lines together, stripped.

    Form feeds, vertical tabs and Unicode's own separators end a line too. Byte-order marks, lone surrogates and
    invisible characters, which hide copies, are removed with the control characters. Normalising twice changes nothing.
    """
    if _is_unusual(text):
        text = _REMOVED.sub("", _LINE_END.sub("\n", text))
    text = unicodedata.normalize("NFC", stream_safe(text))
    # A regular expression for trailing spaces takes quadratic time on a long run of spaces inside a line.
    if not text.isascii() or " \n" in text or "\t\n" in text:
        text = "\n".join(map(str.rstrip, text.split("\n")))
    if "\n\n\n\n" in text:
        text = _MANY_BLANK_LINES.sub("\n\n\n", text)
    return text.strip()


def _is_unusual(text: str) -> bool:
    """Whether the text has a line end beside `\\n`, or a character to remove."""
    if text.isascii():
        return len(text.encode().translate(None, _UNUSUAL_ASCII)) < len(text)
    return _UNUSUAL.search(text) is not None


def repair_mojibake(text: str) -> str:
    """Text that was decoded wrongly ("donâ€™t") as it was meant, by ftfy.

    Line by line: ftfy repairs either all that it is given or nothing, and one line may be right where another is wrong.
    """
    if not _DOUBTFUL.search(text):
        return text
    from ftfy import fix_encoding

    return "\n".join(fix_encoding(line) if _DOUBTFUL.search(line) else line for line in text.split("\n"))


def repaired(text: str, mojibake: bool) -> tuple[str, bool]:
    """The normalised text, with mojibake repaired if asked for, and whether there was any.

    Repairing a second time changes nothing: what normalising uncovers is repaired too.
    """
    if not mojibake or text.isascii():
        return normalise(text), False
    # Repaired before control characters are removed, because half of a quotation mark's mojibake is one.
    found = False
    while True:
        better = repair_mojibake(text)
        found = found or better != text
        text = normalise(better)
        if text == better or text.isascii():
            return text, found


def repaired_document(document: Document, mojibake: bool) -> tuple[Document, bool]:
    """The document with the text of every turn repaired, and whether mojibake was found."""
    texts = [repaired(turn.content, mojibake) for turn in document.turns]
    turns = tuple(Turn(turn.role, text) for turn, (text, _) in zip(document.turns, texts, strict=True))
    return replace(document, turns=turns), any(found for _, found in texts)


def fault_of(document: Document, settings: Clean) -> Fault | None:
    """Rule: the size of a normalised document, and turns that say nothing."""
    if not document.is_plain and not all(turn.content for turn in document.turns):
        return Fault("empty turn")
    if any(turn.content and _CONTROL_TOKENS.fullmatch(turn.content) for turn in document.turns):
        return Fault("only control tokens")
    characters = len(document.content)
    if characters < settings.min_characters:
        return Fault("too short")
    return Fault("too long") if characters > settings.max_characters else None
