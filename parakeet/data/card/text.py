"""Text that others wrote, made fit to stand in a page: nothing of it can become markup, a link or an image."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from parakeet.sanitise import sanitise

WORD_JOINER = "\u2060"
NOTHING_LOOKED_FOR = "Nothing was looked for: decontamination.sets is empty."
EVALUATION_COLUMNS = {
    "records": "Looked for",
    "short": "Too short",
    "bad": "Unreadable",
    "found": "Found",
    "documents": "Documents left out",
}

_MARKUP = re.compile(r"([\\`*_\[\]<>&|~$!#])")
_OPENING = re.compile(r"^(\d*)([-+=.):])")
"""What makes a list, an underline or a definition of a line that it begins."""
_AUTOLINK = re.compile(r"://|www(?=\.)|@", re.IGNORECASE)
"""GitHub's Markdown and Dagster's link these wherever they stand, also behind a backslash."""
_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def html_text(text: object) -> str:
    """For HTML, also inside quotes of an attribute."""
    return html.escape(sanitise(str(text)), quote=True)


def markdown_text(text: object) -> str:
    """For one line of Markdown: a sentence, an item of a list, a cell of a table. Runs of whitespace become one space.

    An address is broken by an invisible word joiner, or it would be made a link.
    """
    line = " ".join(sanitise(str(text)).split())
    line = _OPENING.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", line))
    return _AUTOLINK.sub(lambda found: found[0] + WORD_JOINER, line)


def markdown_block(text: str) -> str:
    """As a fenced block, in which nothing is markup: its fence is longer than any run of backticks inside."""
    shown = sanitise(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def visible_token(content: bytes) -> str:
    """A token's bytes so that each can be seen: blanks as signs, what is no character or cannot be seen as escapes."""
    text = content.decode("utf-8", "backslashreplace")
    return "".join(_BLANKS.get(c) or (c if c.isprintable() else ascii(c)[1:-1]) for c in text)


def beginning(text: str, characters: int) -> str:
    """At most about so many characters, up to the end of a word, and an ellipsis where there is more."""
    if len(text) <= characters:
        return text
    cut = text[:characters]
    whole = re.sub(r"\s+\S*$", "", cut)
    # One long word, or a script that does without spaces.
    return (whole if len(whole) > characters // 2 else cut.rstrip()) + " …"


def size(n_bytes: float) -> str:
    """`850 B`, `12.3 kB`, `1.2 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:,.1f} {name}"
    return f"{n_bytes:,.0f} B"


def share(part: float) -> str:
    """A share of 1 in per cent; what is there is never called nothing, and what is missing never all."""
    if 0 < part < 0.001:
        return "< 0.1 %"
    if 0.999 < part < 1:
        return "> 99.9 %"
    return f"{part * 100:.1f} %"


def mix_columns(figures: Mapping[str, Any]) -> list[str]:
    """What the table of sources has beside sizes, where the mix does not take everything once."""
    weighted = any(source["weight"] is not None for source in figures["sources"].values())
    return [*["Weight"] * weighted, "Epochs", "Share of the mix"] if figures["mixed"] else []


def mix_cells(source: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """A source's part in the mix, in these columns."""
    mix = source["mix"] or {"epochs": 0.0, "share": 0.0}
    told = {"Epochs": f"{mix['epochs']:.3g}", "Share of the mix": share(mix["share"])}
    return [told.get(column) or f"{source['weight']:g}" for column in columns]


def ratio(part: float, whole: float) -> float:
    """part / whole; 0 where there is nothing."""
    return part / whole if whole else 0.0
