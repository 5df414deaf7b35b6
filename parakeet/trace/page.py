"""A trace as one HTML page that needs nothing else, and as JSON."""

from dataclasses import asdict, replace
from typing import Any

from parakeet.pages import render
from parakeet.trace.spans import BOILERPLATE, CAVEAT, COMMON, COPIED, FEW, MANY, RARE, TIERS, Trace
from parakeet.trace.terminal import how_often, most_telling, origin_of, tier_of

SCHEMA = 1
KIND = "parakeet trace"
MOST_SPANS = 500
"""Spans that the page describes; all are marked in the text."""

CLASSES = {COPIED: "copied", COMMON: "common", BOILERPLATE: "boilerplate"}
MEANINGS = {
    COPIED: f"rare wording, in at most {FEW} places: chance would give less than one in {10 ** -int(RARE):,} such",
    COMMON: "wording that several wrote, or that chance may give",
    BOILERPLATE: f"in more than {MANY} places",
}


def as_document(trace: Trace, about: dict[str, Any]) -> dict[str, Any]:
    """The whole trace as JSON values; `about` says what the text is and where it was looked up."""
    held_out = trace.held_out
    # Spans of the same wording share their places.
    shared = {id(span.places): span.places for span in trace.spans}
    places = {key: [asdict(place) for place in found] for key, found in shared.items()}
    return {
        "schema": SCHEMA,
        "kind": KIND,
        **about,
        "text": trace.text,
        "min_tokens": trace.min_tokens,
        "tokens": trace.tokens,
        "covered_tokens": trace.covered,
        "coverage": trace.coverage,
        "absent_tokens": trace.absent,
        "longest_match_tokens": trace.longest,
        "held_out": held_out
        and {
            "window_tokens": held_out.tokens,
            "coverage": {"n": held_out.windows, "share": held_out.coverage, "interval": held_out.interval},
        },
        "spans": [
            {"number": number, **asdict(replace(span, places=[])), "places": places[id(span.places)]}
            for number, span in enumerate(trace.spans, start=1)
        ],
        "caveat": CAVEAT,
    }


def trace_page(trace: Trace, about: dict[str, Any]) -> str:
    """The page, in HTML."""
    order = most_telling(trace)
    return render(
        "trace.html",
        trace=trace,
        about=about,
        caveat=CAVEAT,
        tiers=[(name, CLASSES[name], MEANINGS[name], trace.count(name)) for name in TIERS],
        segments=[
            (segment, CLASSES[tier_of(trace, segment.spans)] if segment.spans else "") for segment in trace.segments
        ],
        spans=[(number, trace.spans[number]) for number in order[:MOST_SPANS]],
        listed=set(order[:MOST_SPANS]),
        classes=CLASSES,
        how_often=how_often,
        origin_of=origin_of,
    )
