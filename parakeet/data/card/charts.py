"""The data card's charts as inline SVG. The style sheet gives the shapes their colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from parakeet.formatting import format_percent
from parakeet.sanitise import sanitise

COLOURS = 8


def colour(number: int) -> str:
    """The class of the number-th source by size. Beyond the last colour all share one."""
    return f"k{number}" if number < COLOURS else "rest"


def card_charts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Every chart by the name that the template uses; `lengths` by source, all on one scale."""
    sources, everything = figures["sources"], figures["total"]["lengths"]
    text = [(name, source["share_of_text"]) for name, source in sources.items()]
    mix = [(name, (source["mix"] or {"share": 0.0})["share"]) for name, source in sources.items()]
    filled = [k for k, count in enumerate(everything["bins"]) if count] or [0]
    kinds = {"All": ("rest", everything)}
    kinds |= {name: (colour(n), source["lengths"]) for n, (name, source) in enumerate(sources.items())}
    return {
        "text": strip(text, "Training tokens by source"),
        "mix": strip(mix, "Training tokens by source, repeats counted"),
        "lengths": {
            name: histogram(lengths["bins"], filled[0], filled[-1], kind, f"Documents of {name} by length in tokens")
            for name, (kind, lengths) in kinds.items()
        },
        "vocabulary": curve(figures["vocabulary"]["curve"], "Share of the training tokens by number of ids"),
    }


def strip(shares: Sequence[tuple[str, float]], title: str) -> Markup:
    """Named shares of 1 side by side, in the order of the colours."""
    pieces, left = [], 0.0
    for number, (name, share) in enumerate(shares):
        # Leave a hairline between neighbours, unless the piece is no wider than that.
        width = max(share * 1000 - 1.5, share * 500)
        piece = Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="10"><title>{}: {}</title></rect>')
        pieces.append(piece.format(colour(number), left * 1000, width, sanitise(name), format_percent(share)))
        left += share
    return Markup(
        '<svg class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(title, Markup().join(pieces))


def histogram(bins: Sequence[int], first: int, last: int, kind: str, title: str) -> Markup:
    """Documents by length: bins[k] of them have 2^k to 2^(k+1) − 1 tokens. Draws the bins `first` to `last`.

    The highest bar fills the height, so that sources of any size can be compared by where they lie.
    """
    width, height = 240, 84
    step = width / (last - first + 1)
    highest = max(bins, default=0) or 1
    shapes = [_line(0, width, height + 0.5)]
    for number in range(first, last + 1):
        count = bins[number] if number < len(bins) else 0
        tall = max(count / highest * height, 1.0) if count else 0.0
        left = (number - first) * step + 0.75
        title = f"{1 << number:,} to {(2 << number) - 1:,} tokens: {count:,} documents"
        rect = '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" rx="1"><title>{}</title></rect>'
        shapes.append(Markup(rect).format(kind, left, height - tall, step - 1.5, tall, title))
    every = -(-(last - first + 1) // 6)  # at most six labels
    for number in range(first, last + 1, every):
        x = (number - first) * step + 0.75
        # A label takes up to 28 pixels; one that starts further right would be cut off.
        x, anchor = (x, "start") if x < width - 28 else (width, "end")
        shapes.append(_text(x, height + 14, anchor, power_of_two(number)))
    return _svg(width, height + 20, title, shapes)


def power_of_two(exponent: int) -> str:
    """`512`, `1k`, `64k`, `1M`."""
    for power, letter in ((20, "M"), (10, "k")):
        if exponent >= power:
            return f"{1 << (exponent - power)}{letter}"
    return str(1 << exponent)


def curve(points: Sequence[Sequence[float]], title: str) -> Markup:
    """The share of the tokens that the most frequent ids cover, by the number of ids on a logarithmic scale."""
    width, height = 440, 190
    if not points:
        return Markup()
    left, top, bottom = 38, 8, height - 22
    longest = math.log10(max(points[-1][0], 10))
    places = [
        (left + math.log10(rank) / longest * (width - left - 4), bottom - share * (bottom - top))
        for rank, share in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    shapes = []
    for quarter in range(5):
        y = bottom - quarter / 4 * (bottom - top)
        shapes += [_line(left, width, y), _text(left - 6, y + 4, "end", f"{quarter * 25}%")]
    for power in range(int(longest) + 1):
        x = left + power / longest * (width - left - 4)
        anchor = "start" if power == 0 else "end" if x > width - 20 else "middle"
        shapes.append(_text(x, height - 6, anchor, f"{10**power:,}"))
    area = f"{places[0][0]:.1f},{bottom} {line} {places[-1][0]:.1f},{bottom}"
    shapes += [
        Markup('<polygon class="area" points="{}"/>').format(area),
        Markup('<polyline class="stroke" points="{}"/>').format(line),
    ]
    return _svg(width, height, title, shapes)


def _line(x1: float, x2: float, y: float) -> Markup:
    return Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(x1, x2, y, y)


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.2f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(width: int, height: int, title: str, shapes: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, sanitise(title), Markup().join(shapes)
    )
