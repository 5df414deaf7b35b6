"""Pages from templates: `render("data_card.html", **figures)`.

In a template every `{{ value }}` is text: it is sanitised, then escaped for HTML or for Markdown. A value that is not
given is an error, not a blank.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from parakeet.formatting import (
    counted,
    format_bytes,
    format_count,
    format_duration,
    format_percent,
    markdown_block,
    markdown_table,
    markdown_text,
    one_line,
    right_columns,
)
from parakeet.sanitise import sanitise


@dataclass(frozen=True)
class Cell:
    """A table's cell that an HTML page decorates; in Markdown it is its text."""

    text: str
    kind: str
    """How `macros.html` shows it: link, pill, keep, share, chips or hash."""
    value: Any = None
    """What this kind needs besides the text, such as the share that a bar shows."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table for both kinds of page: cells are text, whole numbers or `Cell`s."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    right: Collection[int] = ()
    """Columns aligned to the right, besides those that hold only numbers."""
    total: bool = False
    """The last row sums up the others."""

    @property
    def right_columns(self) -> set[int]:
        return right_columns(self.columns, self.rows, self.right)


def render(template: str, **figures: Any) -> str:
    """Fill in a template of this package. The end of its name says whether it is HTML or Markdown."""
    return environment(markdown=template.endswith(".md")).get_template(template).render(figures)


@cache
def environment(markdown: bool) -> Environment:
    """What every template of one kind of page shares: the escaping and the filters."""

    def finalize(value: Any) -> Any:
        if hasattr(value, "__html__"):  # made by a template or one of the filters below
            return value
        return Markup(markdown_text(value)) if markdown else sanitise(str(value))

    # With autoescape on, Jinja escapes what is not Markup for HTML, and knows what a macro returned as Markup. For
    # Markdown `finalize` escapes first, and leaves nothing to escape.
    environment = Environment(
        loader=PackageLoader("parakeet", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bytes": format_bytes,
        "count": _count,
        "duration": format_duration,
        "fixed": lambda number, decimals: f"{number:,.{decimals}f}",
        "percent": format_percent,
        "short": format_count,
        "attribute": lambda text: Markup(escape(one_line(text))),  # for HTML within Markdown
        "code": lambda text: Markup(one_line(text)),  # for a line in a fence, where nothing is escaped
        "block": lambda text: Markup(markdown_block(text)),
        "table": lambda table: Markup(markdown_table(table.columns, table.rows, table.right)),
    }
    # In sentences that both kinds of page share. Addresses are those of the templates.
    environment.globals |= (
        {"link": _link_in_markdown, "code": _code_in_markdown}
        if markdown
        else {
            "link": lambda text, address: Markup('<a href="{}">{}</a>').format(address, sanitise(text)),
            "code": lambda text: Markup("<code>{}</code>").format(sanitise(text)),
        }
    )
    return environment


def _link_in_markdown(text: str, address: str) -> Markup:
    return Markup(f"[{markdown_text(text)}]({address})")


def _code_in_markdown(text: str) -> Markup:
    return Markup(f"`{one_line(text).replace('`', chr(39))}`")


def _count(number: int, noun: str = "") -> str:
    """`1,234`, `1 source`, `2 sources`."""
    return counted(number, noun) if noun else f"{number:,}"
