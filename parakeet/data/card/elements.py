"""Pieces of the data card's page that several sections share; what they return is HTML."""

from collections.abc import Iterable, Mapping, Sequence

from parakeet.data.card.charts import colour
from parakeet.data.card.text import html_text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), total: bool = False) -> str:
    """Cells are HTML. Columns in `numbers` are aligned right; `total` sets the last row apart."""
    right = set(numbers)

    def row(cells: Sequence[str], tag: str) -> str:
        marked = (f'<{tag} class="n">' if n in right else f"<{tag}>" for n in range(len(cells)))
        return "".join(f"{opened}{cell}</{tag}>" for opened, cell in zip(marked, cells, strict=True))

    lines = [f"<tr>{row(cells, 'td')}</tr>" for cells in rows]
    if total:
        lines[-1] = lines[-1].replace("<tr>", '<tr class="total">', 1)
    body = f"<thead><tr>{row(head, 'th')}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'


def count(number: int) -> str:
    """A number, pale where it is 0."""
    return f"{number:,}" if number else '<span class="zero">0</span>'


def named(name: str, number: int) -> str:
    """A source in its colour, the number-th by size, with a link to what is said of it."""
    dot = f'<span class="dot {colour(number)}"></span>'
    return f'<span class="keep">{dot}<a href="#source-{number}">{html_text(name)}</a></span>'


def reasons_told(reasons: Mapping[str, int]) -> str:
    """`empty turn 3, too long 1`."""
    return ", ".join(f"{html_text(reason)} {number:,}" for reason, number in reasons.items())
