"""The data card's charts as inline SVG.

Shapes take their colours from the style sheet; words stay outside where they can, since they shrink with a drawing.
"""

import math
from collections.abc import Sequence

from parakeet.data.card.text import html_text, share

COLOURS = 8
HISTOGRAM = (240, 84)
CURVE = (440, 190)
MOST_TICKS = 6
TICK_WIDTH = 28


def colour(number: int) -> str:
    """Class of the number-th source by size; those beyond the colours share one."""
    return f"k{number}" if number < COLOURS else "rest"


def bar(part: float, second: float = 0.0) -> str:
    """A share of 1 as a bar, and behind it, paler, a second one."""
    more = f'<rect class="half" x="{part * 100:.3f}" width="{second * 100:.3f}" height="1"/>' if second else ""
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{part * 100:.3f}" height="1"/>{more}</svg>'
    )


def strip(shares: Sequence[tuple[str, float]], title: str) -> str:
    """Named shares of 1 side by side, in the order of the colours."""
    pieces, at = [], 0.0
    for number, (name, part) in enumerate(shares):
        # A hairline of the ground parts neighbours, unless there is room for nothing else.
        width = max(part * 1000 - 1.5, part * 500)
        pieces.append(
            f'<rect class="{colour(number)}" x="{at * 1000:.2f}" width="{width:.2f}" height="10">'
            f"<title>{html_text(name)}: {share(part)}</title></rect>"
        )
        at += part
    drawing = 'class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img"'
    return f'<svg {drawing} aria-label="{html_text(title)}">{"".join(pieces)}</svg>'


def histogram(bins: Sequence[int], first: int, last: int, kind: str, title: str) -> str:
    """Documents by length: bins[k] of them have 2^k to 2^(k+1) − 1 tokens. Shown are the bins `first` to `last`.

    The highest bar fills the height: what is compared between sources is where they lie.
    """
    width, height = HISTOGRAM
    step = width / (last - first + 1)
    highest = max(bins, default=0) or 1
    shapes = [f'<line class="rule" x1="0" x2="{width}" y1="{height + 0.5}" y2="{height + 0.5}"/>']
    for number in range(first, last + 1):
        count = bins[number] if number < len(bins) else 0
        tall = max(count / highest * height, 1.0) if count else 0.0
        low, high = 1 << number, (2 << number) - 1
        shapes.append(
            f'<rect class="{kind}" x="{(number - first) * step + 0.75:.2f}" y="{height - tall:.2f}" '
            f'width="{step - 1.5:.2f}" height="{tall:.2f}" rx="1">'
            f"<title>{low:,} to {high:,} tokens: {count:,} documents</title></rect>"
        )
    every = -(-(last - first + 1) // MOST_TICKS)
    for number in range(first, last + 1, every):
        x = (number - first) * step + 0.75
        # What began further right would be cut off.
        place = f'x="{x:.2f}"' if x < width - TICK_WIDTH else f'x="{width}" text-anchor="end"'
        shapes.append(f'<text {place} y="{height + 14}">{power_of_two(number)}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height + 20}" role="img" aria-label="{html_text(title)}">{"".join(shapes)}</svg>'
    )


def power_of_two(exponent: int) -> str:
    """`512`, `1k`, `64k`, `1M`."""
    for power, letter in ((20, "M"), (10, "k")):
        if exponent >= power:
            return f"{1 << (exponent - power)}{letter}"
    return str(1 << exponent)


def curve(points: Sequence[Sequence[float]], title: str) -> str:
    """Share of the tokens that the most frequent ids cover, by how many ids, which is drawn by powers of ten."""
    width, height = CURVE
    left, top, bottom = 38, 8, height - 22
    longest = math.log10(max(points[-1][0], 10))
    places = [
        (left + math.log10(rank) / longest * (width - left - 4), bottom - part * (bottom - top))
        for rank, part in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    shapes = []
    for quarter in range(5):
        y = bottom - quarter / 4 * (bottom - top)
        shapes.append(f'<line class="rule" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{quarter * 25} %</text>')
    for power in range(int(longest) + 1):
        x = left + power / longest * (width - left - 4)
        anchor = "start" if power == 0 else "end" if x > width - 20 else "middle"
        shapes.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{10**power:,}</text>')
    shapes.append(f'<polygon class="area" points="{places[0][0]:.1f},{bottom} {line} {places[-1][0]:.1f},{bottom}"/>')
    shapes.append(f'<polyline class="stroke" points="{line}"/>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html_text(title)}">{"".join(shapes)}</svg>'
