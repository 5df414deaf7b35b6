"""A trace on a terminal: the text with its spans coloured by tier, or in brackets, then where each span stands."""

import io
import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Literal

from rich.console import Console
from rich.text import Text

from parakeet.formatting import counted, format_percent, one_line
from parakeet.trace.spans import BOILERPLATE, CAVEAT, COMMON, COPIED, TIERS, Place, Span, Trace

STYLES = {COPIED: "bold red", COMMON: "yellow", BOILERPLATE: "cyan"}
SHOWN_SPANS = 20
"""Spans that are listed below the text."""
MATCH_CHARACTERS = 160
"""A longer match is cut in the middle."""
ID_CHARACTERS, ORIGIN_CHARACTERS = 12, 200
UNLIMITED_WIDTH = 1_000_000
INDENT, NARROWEST = 4, 20


def render_trace(
    trace: Trace, where: str, colour: bool = False, width: int | None = None, shown: int = SHOWN_SPANS
) -> str:
    """The trace for people; nothing in it steers a terminal but its own colours.

    `where` says what the text was looked up in. With `colour` the spans are coloured, else they stand in brackets.
    Lines are wrapped to `width` columns, if given. The `shown` most telling spans are listed, each with the documents
    in which it stands.
    """
    order = most_telling(trace)
    tiers = [Text(name, STYLES[name]) for name in TIERS if trace.count(name)] if colour else []
    lines = [(0, Text(one_line(line))) for line in (f"Looked up in {where}.", *summary(trace))]
    lines += [(0, Text()), (0, _marked(trace, colour, set(order[:shown]))), (0, Text())]
    lines += [(0, Text(", ").join(tiers))] if tiers else []
    lines += [line for number in order[:shown] for line in _listed(number, trace.spans[number], colour)]
    lines += [(0, Text(f"… and {counted(len(order) - shown, 'more span')}."))] if len(order) > shown else []
    return _printed([*lines, (0, Text(CAVEAT))], colour, width)


def summary(trace: Trace) -> list[str]:
    """What was found, in a few sentences."""
    share, total = format_percent(trace.coverage, 0), counted(trace.tokens, "token")
    found = f"{share} of {total} stand verbatim in the training text, in spans of {trace.min_tokens:,} or more."
    held_out = trace.held_out
    if held_out is None:
        compared = "There is no held-out text of such a length to compare with."
    else:
        facts = [f"{counted(held_out.windows, 'piece')} of {counted(held_out.tokens, 'token')}"]
        if held_out.interval is not None:
            facts.insert(0, " to ".join(format_percent(bound, 0) for bound in held_out.interval))
        compared = f"Held-out text: {format_percent(held_out.coverage, 0)} ({', '.join(facts)})."
    longest = f"The longest match has {counted(trace.longest, 'token')}."
    if trace.absent:
        occur = "occurs" if trace.absent == 1 else "occur"
        longest += f" {counted(trace.absent, 'token')} {occur} nowhere in the training text."
    return [found, compared, longest]


def most_telling(trace: Trace) -> list[int]:
    """Numbers of the spans from 0: copied ones first, of each tier the longest first."""
    spans = trace.spans
    return sorted(range(len(spans)), key=lambda n: (TIERS.index(spans[n].tier), -spans[n].tokens, n))


def tier_of(trace: Trace, spans: Sequence[int]) -> str:
    """The most telling tier of some spans that overlap."""
    return min((trace.spans[number].tier for number in spans), key=TIERS.index)


def how_often(span: Span) -> str:
    """`once in 1 document`, `12 times in 9 documents`, `4,210 times`."""
    times = {1: "once", 2: "twice"}.get(span.count, f"{span.count:,} times")
    return times if span.documents is None else f"{times} in {counted(span.documents, 'document')}"


def origin_of(place: Place) -> str:
    """`file books.jsonl, row 12, id Emma`; empty if nothing is known."""
    line = ", ".join(f"{name} {value}" for name, value in place.origin.items())
    return one_line(line)[:ORIGIN_CHARACTERS]


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _marked(trace: Trace, colour: bool, listed: Collection[int]) -> Text:
    """The text. In colour, only the spans that are `listed` are numbered. In brackets, each piece stands in the longest
    span that covers it: brackets of spans that overlap could not be read."""
    marked = Text()
    if colour:
        for segment in trace.segments:
            marked.append("".join(f"[{number + 1}]" for number in segment.begins if number in listed), "dim")
            marked.append(segment.text, STYLES[tier_of(trace, segment.spans)] if segment.spans else "")
        return marked
    within = [max(s.spans, key=lambda number: trace.spans[number].tokens, default=None) for s in trace.segments]
    for number, pieces in groupby(zip(within, trace.segments, strict=True), key=lambda pair: pair[0]):
        text = "".join(segment.text for _, segment in pieces)
        marked.append(text if number is None else f"[{number + 1}:{text}]")
    return marked


def _listed(number: int, span: Span, colour: bool) -> list[tuple[int, Text]]:
    style = STYLES[span.tier] if colour else ""
    facts = f", {counted(span.tokens, 'token')}, {how_often(span)}"
    lines = [(0, Text.assemble(f"[{number + 1}] ", (span.tier, style), facts))]
    if not span.places:
        lines.append((INDENT, Text(_cut(span.text).strip(), style)))
    opened, closed = ("", "") if colour else ("[[", "]]")
    for place in span.places:
        before = ("" if place.begins else "… ") + _spaced(place.before)
        after = _spaced(place.after) + ("" if place.ends else " …")
        name = f"{one_line(place.source)} {place.doc_id[:ID_CHARACTERS]}{_in_brackets(origin_of(place))}: "
        lines.append((INDENT, Text.assemble(name, before, opened, (_cut(place.match), style), closed, after)))
    return lines


def _cut(text: str) -> str:
    """A match as one line, without the middle of a long one."""
    line = _spaced(text)
    half = MATCH_CHARACTERS // 2
    return line if len(line) <= MATCH_CHARACTERS else f"{line[:half]} […] {line[-half:]}"


def _spaced(text: str) -> str:
    """As `one_line`, but a space at either end stays one."""
    line = one_line(text)
    return (" " if re.match(r"\s", text) else "") + line + (" " if line and re.search(r"\s$", text) else "")


def _printed(lines: Sequence[tuple[int, Text]], colour: bool, width: int | None) -> str:
    """The lines, each with its indentation, which what follows a break has too."""
    written = io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=written, width=UNLIMITED_WIDTH, color_system=system, force_terminal=colour, highlight=False)
    for indent, text in lines:
        parts = [text] if width is None else text.wrap(console, max(width - indent, NARROWEST), tab_size=8)
        for part in parts or [Text()]:
            console.print(Text(" " * indent).append_text(part), soft_wrap=True)
    return written.getvalue().removesuffix("\n")
