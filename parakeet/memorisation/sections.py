"""What pages show of the figures: paragraphs, tables and charts. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from parakeet.formatting import format_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Chart, Palette

FILE = "memorisation.json"
KINDS = {
    "greedy": "replies, temperature 0",
    "sampled": "replies, temperature 0.8",
    "held_out": "held-out text",
    "training": "training text",
}
LEAST_DRAWN = 10
"""With fewer windows a point says nothing; the table has it."""


class Part(NamedTuple):
    """A section of a page: its title, paragraphs of plain text and tables, and a chart for `parakeet.pages.charts`."""

    title: str
    parts: "list[str | Table]"
    chart: "Chart | None"


def sections(figures: Mapping[str, Any]) -> list[Part]:
    """The sections of a memorisation.json, the verdict first. Those without figures are left out."""
    drawn = charts(figures)
    found = [
        Part("Learned or memorised?", [figures["verdict"]["text"]], None),
        Part("Against an n-gram model", _margin(figures), drawn.get("bits")),
        Part("Extraction", _extraction(figures), drawn.get("extraction")),
        Part("Canaries", _canaries(figures), drawn.get("canaries")),
        Part("Novel n-grams", _novelty(figures), drawn.get("novelty")),
    ]
    return [part for part in found if part.parts]


def charts(figures: Mapping[str, Any]) -> "dict[str, Chart]":
    """The charts that there are figures for, by name."""
    found: dict[str, Chart] = {}
    if figures["gap"]["all"] or figures["margin"]:
        found["bits"] = partial(draw_bits, figures)
    if len(_drawn_strata(figures["extraction"]["by_duplicates"])) > 1:  # one point is no curve
        found["extraction"] = partial(draw_extraction, figures["extraction"])
    if figures["canaries"] and figures["canaries"]["by_copies"]:
        found["canaries"] = partial(draw_canaries, figures["canaries"])
    if any(kind["texts"] for kind in figures["novelty"].values()):
        found["novelty"] = partial(draw_novelty, figures["novelty"])
    return found


def _margin(figures: Mapping[str, Any]) -> "list[str | Table]":
    from parakeet.pages import Table

    found: list[str | Table] = []
    margin, gap = figures["margin"], figures["gap"]
    if margin:
        rows = [
            ("this model", *_valued(margin["network"])),
            ("n-gram model", *_valued(margin["ngram"])),
            ("margin", *_valued(margin["margin"], signed=True)),
        ]
        found += [
            "Bits per byte of held-out text: lower is better. The n-gram model is a look-up table of this model's own "
            f"training text, with contexts of up to {margin['context']} tokens, the best length. A model that only "
            "looked up what it read would not beat it.",
            Table(("", "bits per byte", "95% interval", "documents"), rows, right=range(1, 4)),
        ]
    if any(gap["sources"].values()):
        named = {**gap["sources"], **({"all": gap["all"]} if len(gap["sources"]) > 1 else {})}
        compared: list[tuple[object, ...]] = [
            (
                name,
                f"{of['train']['value']:.3f}",
                f"{of['held_out']['value']:.3f}",
                *_valued(of["gap"], signed=True)[:2],
                _sizes(of["gap"]),
            )
            if of
            else (name, "too little held out to measure", "", "", "", "")
            for name, of in named.items()
        ]
        found += [
            "Training text beside held-out text, in bits per byte, from as many excerpts of about the same lengths. A "
            "model that memorises needs fewer bits for text that it has read: the difference is negative.",
            Table(
                ("source", "training", "held out", "difference", "95% interval", "documents"),
                compared,
                right=range(1, 6),
            ),
        ]
    return found


def _extraction(figures: Mapping[str, Any]) -> "list[str | Table]":
    from parakeet.pages import Table

    extraction = figures["extraction"]
    rows: list[tuple[object, ...]] = []
    for k, of in extraction["by_prefix"].items():
        change, interval = "", ""
        if difference := of["difference"]:
            change, interval = f"{100 * difference['share']:+.1f} points", _span(difference["interval"], 100)
        rows.append((f"{k} tokens", *_shared(of["train"]), *_shared(of["held_out"]), change, interval))
    if not rows:
        return []
    left_out = max(of["in_training"] for of in extraction["by_prefix"].values())
    read = figures["read"]
    told = (
        f"The model is given the beginning of a passage and has to write the next {extraction['continuation']} tokens "
        "exactly, greedily. If it does, the passage is extracted. The same on held-out text says what can be guessed "
        "without having read it."
    )
    if left_out:
        told += f" Up to {left_out:,} held-out passages that also stand in the training text are left out."
    if read["documents"] < read["of"]:
        told += f" Training read {read['documents']:,} of {read['of']:,} training documents; only they are asked for."
    columns = ("given", "training text", "passages", "held-out text", "passages", "difference", "95% interval")
    parts: list[str | Table] = [told, Table(columns, rows, right=range(1, 7))]
    strata = _strata(extraction["by_duplicates"])
    by_copies = [
        (f"{k} tokens", *(f"{_shared(of[name])[0]} of {of[name]['n']}" if name in of else "" for name in strata))
        for k, of in extraction["by_duplicates"].items()
    ]
    if strata:
        parts += [
            "The same by how often the passage stands in the training text:",
            Table(("given", *(_times(name) for name in strata)), by_copies, right=range(1, len(strata) + 1)),
        ]
    return parts


def _canaries(figures: Mapping[str, Any]) -> "list[str | Table]":
    from parakeet.pages import Table

    canaries = figures["canaries"]
    if not canaries:
        return []
    told = (
        "Canaries are made-up texts. They were planted in the training text, some once, some many times, and each is "
        "extracted if the model continues its beginning exactly."
    )
    if canaries["too_long"]:
        told += f" {canaries['too_long']:,} of them are left out, since they are longer than the model's context."
    if not canaries["by_copies"]:
        return [told]
    told += (
        f" Training read every copy {canaries['passes']:.1f} times. Exposure says how much likelier a canary is than "
        "those that were never planted, in bits: those have 1.4 on average, and at most 7 can be measured."
    )
    rows = [
        (
            f"{of['copies']:,}" if of["copies"] else "never planted",
            of["extraction"]["n"],
            *(_shared(of[key])[0] for key in ("random", "natural", "extraction")),
            _span(of["extraction"]["interval"], 100, "%"),
            f"{of['exposure']['value']:.1f}",
        )
        for of in canaries["by_copies"]
    ]
    columns = ("copies", "canaries", "random letters", "notes", "extracted", "95% interval", "exposure")
    return [told, Table(columns, rows, right=range(1, 7))]


def _novelty(figures: Mapping[str, Any]) -> "list[str | Table]":
    from parakeet.pages import Table

    shown = (1, 2, 3, 4, 6, 8, 12, 16)
    rows = [
        (
            KINDS[kind],
            of["texts"],
            *(_shared(of["novelty"][n - 1])[0] for n in shown),
            format_percent(of["whole"]["share"]) if of["whole"] else "",
        )
        for kind, of in figures["novelty"].items()
        if of["texts"]
    ]
    if not rows:
        return []
    columns = ("text", "texts", *(f"{n}" for n in shown), "whole text")
    return [
        "The share of n-grams, sequences of n tokens, that stand nowhere in the training text. Held-out text says how "
        "much people repeat each other. The last column is the share of texts that stand there as a whole.",
        Table(columns, rows, right=range(1, len(columns))),
    ]


def _strata(by_duplicates: Mapping[str, Any]) -> list[str]:
    """The strata that some prefix has figures of, fewest copies first."""
    names = {name for of in by_duplicates.values() for name in of}
    return sorted(names, key=lambda name: int(name.rstrip("+").split("-")[0]))


def _drawn_strata(by_duplicates: Mapping[str, Any]) -> set[str]:
    return {name for of in by_duplicates.values() for name, share in of.items() if share["n"] >= LEAST_DRAWN}


def _valued(found: Mapping[str, Any], signed: bool = False) -> tuple[str, str, int]:
    sign = "+" if signed else ""
    low, high = found["interval"] or (None, None)
    interval = "" if low is None else f"{low:{sign}.3f} to {high:{sign}.3f}"
    return f"{found['value']:{sign}.3f}", interval, found["n"]


def _sizes(found: Mapping[str, Any]) -> str:
    return " / ".join(f"{n:,}" for n in found["n"])


def _shared(found: Mapping[str, Any] | None) -> tuple[str, str]:
    return (format_percent(found["share"]), f"{found['n']:,}") if found else ("", "0")


def _span(interval: Sequence[float], factor: float, unit: str = "") -> str:
    low, high = (factor * end for end in interval)
    return f"{low:.1f}{unit} to {high:.1f}{unit}" if unit else f"{low:+.1f} to {high:+.1f}"


def _times(stratum: str) -> str:
    return "once" if stratum == "1" else f"{stratum.replace('-', '–')} times"


def draw_bits(figures: Mapping[str, Any], palette: "Palette") -> "Figure":
    """Bars: bits per byte of training text, of held-out text, and of held-out text by the n-gram model."""
    from parakeet.pages.charts import axes

    gap, margin = figures["gap"]["all"], figures["margin"]
    rows = [("this model, training text", gap["train"], 0)] if gap else []
    rows += [("this model, held-out text", margin["network"] if margin else gap["held_out"], 0)]
    rows += [("n-gram model, held-out text", margin["ngram"], 1)] if margin else []
    figure, chart = axes(palette, height=0.9 + 0.5 * len(rows))
    for number, (_, found, series) in enumerate(rows):
        bars = chart.barh(
            number, found["value"], 0.6, color=palette.series[series], xerr=_error(found, "value"), ecolor=palette.ink
        )
        chart.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    chart.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    chart.invert_yaxis()
    chart.margins(x=0.12)
    chart.set_xlabel("bits per byte (lower is better)")
    chart.grid(visible=False)
    return figure


def draw_extraction(extraction: Mapping[str, Any], palette: "Palette") -> "Figure":
    """Share of windows extracted by their number of copies in the training text, with the held-out floor."""
    from parakeet.pages.charts import axes, legend_outside

    figure, chart = axes(palette)
    by_duplicates = extraction["by_duplicates"]
    order = _strata(by_duplicates)
    for series, (k, of) in enumerate(by_duplicates.items()):
        shift = 0.12 * (series - (len(by_duplicates) - 1) / 2)
        here = [name for name in order if name in of and of[name]["n"] >= LEAST_DRAWN]
        places = [1 + order.index(name) + shift for name in here]
        errors = _errors([of[name] for name in here], "share")
        shares = [100 * of[name]["share"] for name in here]
        look: dict[str, Any] = {"color": palette.series[series], "ms": 4, "capsize": 2}
        chart.errorbar(places, shares, yerr=errors, marker="o", lw=1.4, label=f"{k} tokens given", **look)
        floor = extraction["by_prefix"][k]["held_out"]
        if floor and floor["n"] >= LEAST_DRAWN:
            chart.errorbar(shift, 100 * floor["share"], yerr=_errors([floor], "share"), marker="D", **look)
    chart.set_xticks(range(len(order) + 1), ["held out", *(name.replace("-", "–") for name in order)])
    chart.set_ylabel("extracted, %")
    chart.set_xlabel("times that the passage stands in the training text")
    chart.set_ylim(-3, 103)
    legend_outside(figure)
    return figure


def draw_canaries(canaries: Mapping[str, Any], palette: "Palette") -> "Figure":
    """Share of the canaries that are extracted by number of copies, with those never planted as floor."""
    from parakeet.pages.charts import axes, legend_outside

    figure, chart = axes(palette)
    floor, *planted = canaries["by_copies"]
    copies = [row["copies"] for row in planted]
    found = [row["extraction"] for row in planted]
    shares = [100 * one["share"] for one in found]
    errors = _errors(found, "share")
    chart.errorbar(copies, shares, yerr=errors, marker="o", ms=4, capsize=2, color=palette.series[0], label="planted")
    for series, (key, label) in enumerate({"random": "random letters", "natural": "notes"}.items(), start=1):
        shares = [100 * row[key]["share"] if row[key] else math.nan for row in planted]
        chart.plot(copies, shares, ":", marker=".", lw=1.2, color=palette.series[series], label=f"of these, {label}")
    low, high = (100 * end for end in floor["extraction"]["interval"])
    chart.axhspan(low, high, color=palette.soft, alpha=0.3, lw=0, label=f"never planted ({floor['extraction']['n']})")
    chart.set_xscale("log", base=2)
    chart.set_xticks(copies, [f"{number:,}" for number in copies])
    chart.minorticks_off()
    chart.set_ylim(-3, 103)
    chart.set_xlabel("copies in the training text")
    chart.set_ylabel("extracted, %")
    legend_outside(figure)
    return figure


def draw_novelty(novelty: Mapping[str, Any], palette: "Palette") -> "Figure":
    """Share of novel n-grams by n, for each kind of text."""
    from parakeet.pages.charts import axes, legend_outside

    figure, chart = axes(palette)
    for series, (kind, of) in enumerate(novelty.items()):
        points = [(n, found) for n, found in enumerate(of["novelty"], start=1) if found]
        if not points:
            continue
        lengths = [n for n, _ in points]
        colour = palette.soft if kind == "training" else palette.series[series]
        chart.plot(
            lengths,
            [100 * found["share"] for _, found in points],
            marker="o",
            ms=3,
            lw=1.4,
            color=colour,
            label=KINDS[kind],
        )
        certain = [(n, found["interval"]) for n, found in points if found["interval"]]
        places, low, high = ([n for n, _ in certain], *([100 * ends[side] for _, ends in certain] for side in (0, 1)))
        chart.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
    chart.set_ylim(-3, 103)
    chart.set_xlabel("n, tokens")
    chart.set_ylabel("not in the training text, %")
    legend_outside(figure)
    return figure


def _error(found: Mapping[str, Any], key: str) -> list[list[float]]:
    low, high = found["interval"] or (found[key], found[key])
    return [[max(0.0, found[key] - low)], [max(0.0, high - found[key])]]


def _errors(found: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """Distances of the ends of the intervals, in percent: [below, above], each (points,)."""
    ends = [_error(one, key) for one in found]
    return [[100 * below[0] for below, _ in ends], [100 * above[0] for _, above in ends]]
