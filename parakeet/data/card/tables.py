"""The data card's tables, built from its figures. Both pages show the same ones."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from parakeet.data.card.charts import colour
from parakeet.data.card.measures import MOST_FREQUENT, ratio
from parakeet.formatting import format_bytes, format_percent
from parakeet.pages import Cell, Table
from parakeet.sanitise import sanitise

Figures = Mapping[str, Any]

SOURCES_NAMED = 3
FILES_SHOWN = 200
UNUSED_SHOWN = 12
LOSSES = {
    "limit": ("Not taken", "reading"),
    "unusable": ("Unusable", "reading"),
    "cleaning": ("Filtered out", "cleaning"),
    "deduplication": ("Duplicates", "deduplication"),
}
"""For each way to be left out: the head of its column, and the stage that did it."""
EVALUATION_COLUMNS = {
    "records": "Records",
    "short": "Too short",
    "bad": "Unreadable",
    "found": "Found",
    "documents": "Documents left out",
}


def card_tables(figures: Figures) -> dict[str, Table]:
    """Every table by the name that the templates use."""
    provenance = figures["provenance"]
    return {
        "sources": _sources(figures),
        "licences": _licences(figures),
        "funnel": _funnel(figures),
        "reasons": _reasons(figures),
        "changes": _changes(figures),
        "duplicates": _duplicates(figures),
        "lengths": _lengths(figures),
        "coverage": _coverage(figures),
        "most_frequent": Table(
            ("Id", "Token", "Share"),
            [[t["id"], t["token"], format_percent(t["share"])] for t in figures["vocabulary"]["top"]],
            (2,),
        ),
        "vocabulary": _vocabulary(figures),
        "found": _found(figures),
        "evaluation_sets": Table(
            ("Set", *EVALUATION_COLUMNS.values()),
            [
                [name, *(found.get(key, 0) for key in EVALUATION_COLUMNS)]
                for name, found in figures["evaluation_sets"].items()
            ],
        ),
        "contents": Table(
            ("Stage", "Content (sha256)"),
            [[name, Cell(digest, "hash")] for name, digest in provenance["contents"].items()],
        ),
        "files": _files(provenance["files"]),
        "evaluation_files": _files(provenance["evaluation_files"]),
    }


def by_source(figures: Figures) -> Iterable[tuple[Cell, Figures]]:
    """Each source with a cell that links to its part of the page."""
    for number, (name, source) in enumerate(figures["sources"].items()):
        yield Cell(name, "link", {"href": f"#source-{number}", "colour": colour(number)}), source


def _documents(figures: Figures) -> int:
    documents: int = figures["train"]["documents"] + figures["held_out"]["documents"]
    return documents


def _sources(figures: Figures) -> Table:
    total, mixed = figures["total"], figures["mixed"]
    weighted = mixed and any(source["weight"] is not None for source in figures["sources"].values())
    rows: list[list[object]] = []
    for link, source in by_source(figures):
        row = [link, Cell(source["licence"], "keep"), _documents(source), source["tokens"]]
        row += [format_percent(source["share_of_text"]), format_bytes(source["bytes"])]
        row.append(f"{source['bytes_per_token']:.2f}")
        if weighted:
            row.append("" if source["weight"] is None else f"{source['weight']:g}")
        if mixed:
            mix = source["mix"] or {"epochs": 0.0, "share": 0.0}
            row += [f"{mix['epochs']:.3g}", format_percent(mix["share"])]
        rows.append(row)
    more = [*["Weight"] * weighted, *["Epochs", "Share of the mix"] * mixed]
    columns = ["Source", "Licence", "Documents", "Tokens", "Share", "Text", "Bytes a token", *more]
    text = [format_bytes(total["bytes"]), f"{total['bytes_per_token']:.2f}"]
    rows.append(["All", "", _documents(total), total["tokens"], "", *text, *[""] * len(more)])
    return Table(columns, rows, range(2, len(columns)), total=True)


def _licences(figures: Figures) -> Table:
    rows = [
        [
            Cell(group["licence"], "pill warn" if group["unknown"] else "keep"),
            ", ".join(group["sources"]),
            group["tokens"],
            Cell(format_percent(group["share"]), "share", group["share"]),
        ]
        for group in figures["licences"]
    ]
    return Table(("Licence", "Sources", "Tokens", "Share"), rows, (2, 3))


def _funnel(figures: Figures) -> Table:
    """Where each source's records ended."""
    losses = [loss for loss in LOSSES if loss != "limit" or figures["total"]["funnel"]["limit"]]
    rows = [
        [
            name,
            source["funnel"]["records"],
            *(sum(source["funnel"][loss].values()) for loss in losses),
            source["funnel"]["train"],
            source["funnel"]["held_out"],
        ]
        for name, source in (*by_source(figures), ("All", figures["total"]))
    ]
    return Table(("Source", "Records", *(LOSSES[loss][0] for loss in losses), "Training", "Held out"), rows, total=True)


def _reasons(figures: Figures) -> Table:
    """Every reason to leave a document out, with the sources that lost most to it."""
    rows = []
    for loss, (_, stage) in LOSSES.items():
        for reason, number in figures["total"]["funnel"][loss].items():
            lost = {name: source["funnel"][loss].get(reason, 0) for name, source in figures["sources"].items()}
            most = sorted(((n, name) for name, n in lost.items() if n), key=lambda pair: (-pair[0], pair[1]))
            where = ", ".join(f"{name} {n:,}" for n, name in most[:SOURCES_NAMED])
            where += f" and {len(most) - SOURCES_NAMED:,} more" if len(most) > SOURCES_NAMED else ""
            rows.append([reason, stage, number, where])
    return Table(("Reason", "Left out by", "Documents", "Sources"), rows)


def _changes(figures: Figures) -> Table:
    """What was done to each source's records, and the first of their columns that were not used."""
    rows: list[list[object]] = []
    for link, source in by_source(figures):
        unused = [(f"not used: {name}", number) for name, number in source["unused_columns"].items()]
        rows += [[link, change, number] for change, number in [*source["notes"].items(), *unused[:UNUSED_SHOWN]]]
        if len(unused) > UNUSED_SHOWN:
            rows.append([link, f"not used: {len(unused) - UNUSED_SHOWN:,} more columns", ""])
    return Table(("Source", "Change", "Documents"), rows, (2,))


def _duplicates(figures: Figures) -> Table:
    # Stages made by earlier versions did not count clusters by source.
    counted = any(source["duplicate_clusters"] is not None for source in figures["sources"].values())
    rows = []
    for link, source in by_source(figures):
        dropped = [source["funnel"]["deduplication"].get(f"{kind} duplicate", 0) for kind in ("exact", "near")]
        rows.append([link, *dropped, *[source["duplicate_clusters"] or 0] * counted])
    return Table(("Source", "Exact, left out", "Near, left out", *["Clusters it keeps one of"] * counted), rows)


def _lengths(figures: Figures) -> Table:
    rows = [
        [
            name,
            f"{source['lengths']['mean']:,.1f}",
            *(source["lengths"][key] for key in ("p5", "p50", "p95", "longest")),
        ]
        for name, source in (("All", figures["total"]), *by_source(figures))
    ]
    return Table(("Source", "Mean", "5%", "Median", "95%", "Longest"), rows, range(1, 6))


def _coverage(figures: Figures) -> Table:
    rows = [
        [f"{int(ids):,} ids", Cell(format_percent(share), "share", share)]
        for ids, share in figures["vocabulary"]["coverage"].items()
    ]
    return Table(("The most frequent", "cover"), rows, (1,))


def _vocabulary(figures: Figures) -> Table:
    rows = []
    for link, source in by_source(figures):
        use = source["vocabulary"]
        tokens = [(token["token"], f"{token['times']:.1f}×", "plain") for token in use["characteristic"]]
        shares = [
            format_percent(ratio(use["used"], figures["vocabulary"]["defined"])),
            format_percent(use["most_frequent"]),
        ]
        rows.append([link, use["used"], *shares, Cell(" ".join(text for text, *_ in tokens), "chips", tokens)])
    columns = ("Source", "Ids used", "of all", f"Its {MOST_FREQUENT:,} most frequent cover", "Characteristic tokens")
    return Table(columns, rows, (1, 2, 3))


def _found(figures: Figures) -> Table:
    kinds, sources = figures["found"], figures["sources"]
    rows = [[link, *(source["found"].get(kind, 0) for kind in kinds)] for link, source in by_source(figures)]
    rows.append(["All", *(sum(source["found"].get(kind, 0) for source in sources.values()) for kind in kinds)])
    return Table(("Source", *(kind[:1].upper() + kind[1:] for kind in kinds)), rows, total=True)


def _files(files: Sequence[Figures]) -> Table:
    rows = [[file["source"], file["name"], Cell(file["sha256"], "hash")] for file in files[:FILES_SHOWN]]
    return Table(("Source", "File", "sha256"), rows)


def marked_differences(one: str, other: str) -> tuple[Markup, Markup]:
    """Both texts as HTML, with <mark> around the words that only one of them has."""
    words = (re.findall(r"\s+|\S+", sanitise(one)), re.findall(r"\s+|\S+", sanitise(other)))
    pages = (Markup(), Markup())
    for kind, *bounds in difflib.SequenceMatcher(a=words[0], b=words[1], autojunk=False).get_opcodes():
        pieces = ["".join(words[side][bounds[2 * side] : bounds[2 * side + 1]]) for side in (0, 1)]
        marked = [Markup("<mark>{}</mark>").format(p) if kind != "equal" and p.strip() else escape(p) for p in pieces]
        pages = (pages[0] + marked[0], pages[1] + marked[1])
    return pages
