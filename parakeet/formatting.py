"""How sizes, counts, durations, shares and tables are written, on terminals and in Markdown.

The text in a table may be foreign: names of files and sources, words of a model. It is sanitised, and in Markdown
escaped, so that none of it becomes markup. This module imports nothing heavy.
"""

import datetime
import io
import re
from collections.abc import Collection, Iterable, Sequence

from parakeet.sanitise import sanitise

WORD_JOINER = "\u2060"
UNLIMITED_WIDTH = 100_000
ROUNDING = 1e-12
"""The ends of an interval of shares may miss 0 or 1 by a few units of the last digit."""

_MARKUP = re.compile(r"([\\`*_\[\]<>&|~$!#])")
_LINE_START = re.compile(r"^(?=[-+=:])|^\d+(?=[.)](?:\s|$))")
"""At the start of a line these make a list, a heading or a definition."""
_AUTOLINK = re.compile(r"://|www(?=\.)|@", re.IGNORECASE)
"""GitHub and Dagster make links of these anywhere in a line, even after a backslash."""


def format_bytes(n_bytes: float, decimals: int = 1) -> str:
    """`850 B`, `12.3 KiB`, `7.2 GiB`: binary units, `decimals` digits after the point."""
    if round(n_bytes) < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n_bytes /= 1024
        # Compare what will be printed: 1,023.96 KiB is 1.0 MiB, not 1,024.0 KiB.
        if round(n_bytes, decimals) < 1024:
            return f"{n_bytes:.{decimals}f} {unit}"
    return f"{n_bytes / 1024:,.{decimals}f} PiB"


def format_count(number: float) -> str:
    """`0.25`, `1,234`, `1.25 M`, `50 B`: exact below a million, then three digits and M, B (billions) or T."""
    if number < 100 and number != int(number):
        return f"{number:.3g}"
    if round(number) < 1_000_000:
        return f"{round(number):,}"
    for unit in ("M", "B", "T"):
        number /= 1_000_000 if unit == "M" else 1000
        # Compare what will be printed: 999.6 million is 1 B, not 1,000 M.
        if number < 999.5:
            return f"{number:.3g} {unit}"
    return f"{number:,.0f} T"


def counted(number: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; `last` may be another word than and."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def format_duration(seconds: float) -> str:
    """`13 ms`, `9.3 s`, `42 s`, `4 min 12 s`, `3 h 5 min`, `12 d 3 h`."""
    if (milliseconds := round(1000 * max(0.0, seconds))) < 1000:
        return f"{milliseconds} ms" if milliseconds else "0 s"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_units(whole, 60, "min", "s")
    if (minutes := round(seconds / 60)) < 24 * 60:
        return _two_units(minutes, 60, "h", "min")
    return _two_units(round(seconds / 3600), 24, "d", "h")


def _two_units(amount: int, ratio: int, large: str, small: str) -> str:
    whole, rest = divmod(amount, ratio)
    return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")


def format_time(when: str) -> str:
    """A time in ISO 8601 by this machine's clock, to the minute: `2026-11-27 19:05`. Other text is cut to 16."""
    try:
        return datetime.datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return when[:16]


def format_date(day: datetime.date) -> str:
    """`28 November 2026`."""
    return f"{day.day} {day:%B %Y}"


def format_percent(share: float, decimals: int = 1) -> str:
    """A share of 1: `48.5%`. Only 0 is printed as 0%, and only 1 as 100%, but for errors of rounding."""
    smallest = 10.0**-decimals
    share = next((whole for whole in (0.0, 1.0) if abs(share - whole) < ROUNDING), share)
    if 0 < 100 * share < smallest:
        return f"< {smallest:.{decimals}f}%"
    if 100 - smallest < 100 * share < 100:
        return f"> {100 - smallest:.{decimals}f}%"
    return f"{100 * share:.{decimals}f}%"


def parse_share(text: str) -> float:
    """The number in `0.1%` or `0.001`. Raises ValueError for anything else, also for an infinite number."""
    from decimal import Decimal, InvalidOperation

    number = text.strip()
    try:
        share = Decimal(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except InvalidOperation:
        share = Decimal("nan")
    if not share.is_finite():
        raise ValueError(f"{number!r} is not a share: write it like 0.1% or 0.001")
    return float(share)


def render_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int] = (), width: int | None = None
) -> str:
    """An aligned table for a terminal, as plain text.

    Numbers and the columns numbered in `right` are aligned to the right. Cells are wrapped to fit `width`; without a
    width every row is one line. The head is left out if all `columns` are empty.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    flush = right_columns(columns, cells, right)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(columns))
    for number, column in enumerate(columns):
        # Text, not str: rich would read [brackets] and :names: as its own markup.
        table.add_column(Text(_plain(column)), justify="right" if number in flush else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(_plain(cell)) for cell in row))
    written = io.StringIO()
    Console(file=written, width=width or UNLIMITED_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> str:
    """A Markdown table. Numbers and the columns numbered in `right` are aligned to the right.

    Every cell is escaped, except one that is Markdown already (`markupsafe.Markup`, as a template makes it).
    """
    cells = [list(row) for row in rows]
    flush = right_columns(columns, cells, right)
    rule = "".join("---:|" if number in flush else "---|" for number in range(len(columns)))
    head, *lines = (f"| {' | '.join(map(_markdown_cell, row))} |" for row in (columns, *cells))
    return "\n".join([head, f"|{rule}", *lines])


def right_columns(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> set[int]:
    """Numbers of the columns to align to the right: those in `right`, and those that hold nothing but numbers."""
    found = set(right)
    for number in range(len(columns)):
        kinds = {type(row[number]) for row in rows if row[number] not in (None, "")}
        if kinds and kinds <= {int, float}:
            found.add(number)
    return found


def _markdown_cell(value: object) -> str:
    """A number grouped by thousands, anything else escaped."""
    return str(value) if hasattr(value, "__html__") else markdown_text(_plain(value))


def markdown_text(text: object) -> str:
    """Foreign text for one line of Markdown: a sentence, a list item, a table's cell.

    Runs of whitespace become one space. An invisible word joiner breaks an address, which would become a link.
    """
    line = _LINE_START.sub(lambda found: found[0] + "\\", _MARKUP.sub(r"\\\1", one_line(str(text))))
    return _AUTOLINK.sub(lambda found: found[0] + WORD_JOINER, line)


def markdown_block(text: str) -> str:
    """Foreign text as a fenced block. The text cannot end it: the fence is longer than any run of backticks inside."""
    shown = sanitise(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def one_line(text: str) -> str:
    """Foreign text without control characters and line ends, for one line of a message."""
    return " ".join(sanitise(text).split())


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if type(value) is int else one_line(str(value))
