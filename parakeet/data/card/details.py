"""The data card's page, second half: what the text is like, source by source, and where it comes from."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from parakeet.data.card.charts import bar, colour, curve, histogram
from parakeet.data.card.elements import count, named, reasons_told, table
from parakeet.data.card.measures import MOST_FREQUENT
from parakeet.data.card.text import EVALUATION_COLUMNS, NOTHING_LOOKED_FOR, html_text, ratio, share, size

Figures = Mapping[str, Any]

FILES_SHOWN = 500


def duplicates(figures: Figures) -> str:
    """How many copies there were, and what the search took for one."""
    found = figures["duplicates"]
    said = f"{found['exact']:,} exact and {found['near']:,} near duplicates were left out."
    if clusters := found["clusters"]:
        said += (
            f" They belong to {clusters['exact']:,} clusters of exact copies and {clusters['near']:,} of near ones; "
            f"the largest has {clusters['largest']:,} documents, of which one is kept."
        )
    if found["turns_cut"]:
        said += f" {found['turns_cut']:,} turns with their replies stood in another conversation too and were cut out."
    shown = []
    for cluster in found["examples"]:
        kept, dropped = marked_differences(cluster["kept"], cluster["dropped"])
        shown.append(
            f'<div class="compare"><p class="facts">{html_text(", ".join(cluster["sources"]))}: '
            f"a cluster of {cluster['size']:,}</p>"
            f'<div class="pair"><div><p class="label">Kept</p><p class="text" dir="auto">{kept}</p></div>'
            f'<div><p class="label">Left out</p><p class="text" dir="auto">{dropped}</p></div></div></div>'
        )
    told = "<p class='note'>The beginnings of some near duplicates; what differs is marked.</p>" if shown else ""
    return f"<p>{said}</p>{_duplicates_by_source(figures)}{told}{''.join(shown)}"


def _duplicates_by_source(figures: Figures) -> str:
    sources = figures["sources"]
    counted = any(source["duplicate_clusters"] is not None for source in sources.values())
    rows = []
    for number, (name, source) in enumerate(sources.items()):
        dropped = (source["funnel"]["deduplication"].get(f"{kind} duplicate", 0) for kind in ("exact", "near"))
        clusters = [count(source["duplicate_clusters"] or 0)] if counted else []
        rows.append([named(name, number), *map(count, dropped), *clusters])
    head = ["Source", "Exact, left out", "Near, left out", *["Clusters it keeps one of"] * counted]
    return table(head, rows, range(1, len(head)))


def marked_differences(one: str, other: str) -> tuple[str, str]:
    """Both texts as HTML, with the words that only one of them has marked."""
    words = (re.findall(r"\s+|\S+", one), re.findall(r"\s+|\S+", other))
    lines: tuple[list[str], list[str]] = ([], [])
    for kind, *bounds in difflib.SequenceMatcher(a=words[0], b=words[1], autojunk=False).get_opcodes():
        for side, line in enumerate(lines):
            piece = html_text("".join(words[side][bounds[2 * side] : bounds[2 * side + 1]]))
            line.append(piece if kind == "equal" or not piece.strip() else f"<mark>{piece}</mark>")
    return "".join(lines[0]), "".join(lines[1])


def lengths(figures: Figures) -> str:
    """A histogram of each source, all on one scale of lengths."""
    sources, everything = figures["sources"], figures["total"]["lengths"]
    filled = [k for k, count in enumerate(everything["bins"]) if count] or [0]

    def one(name: str, found: Figures, kind: str) -> str:
        drawn = histogram(found["bins"], filled[0], filled[-1], kind, f"Documents of {name} by length in tokens")
        told = f"median {found['p50']:,}, 90 % from {found['p5']:,} to {found['p95']:,}"
        caption = f"<b>{html_text(name)}</b>{told}<br>longest {found['longest']:,}"
        return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"

    drawn = [one("All", everything, "rest")]
    drawn += [one(name, source["lengths"], colour(n)) for n, (name, source) in enumerate(sources.items())]
    return (
        "<p class='note'>Documents by their length in tokens. Each bar is twice as long as the one before it; "
        f'the highest of each source fills the height.</p><div class="multiples">{"".join(drawn)}</div>'
    )


def vocabulary(figures: Figures) -> str:
    """Which ids the training text uses, and how unevenly."""
    use = figures["vocabulary"]
    rows = [[f"{int(rank):,} ids", bar(part), share(part)] for rank, part in use["coverage"].items()]
    drawn = curve(use["curve"], "Share of the training tokens by number of ids") if use["curve"] else ""
    top = "".join(
        f'<li class="{"control" if token["control"] else "plain"}">{html_text(token["token"])}'
        f"<small>{share(token['share'])}</small></li>"
        for token in use["top"]
    )
    unused = f"{use['unused']:,} ids are never used"
    details = [f"{use['unused_bytes']:,} of them single bytes"] if use["unused_bytes"] else []
    if use["unused_controls"]:
        details.append(f"control tokens: {html_text(', '.join(use['unused_controls']))}")
    never = "".join(f"<li>{html_text(token)}</li>" for token in use["unused_examples"])
    return (
        f"<p>{use['used']:,} of the {use['defined']:,} ids of <code>{html_text(use['kind'])}</code> stand in the "
        f"training text ({share(ratio(use['used'], use['defined']))}).</p>"
        f'<div class="pair"><figure>{drawn}<figcaption>Share of the training tokens that the most frequent ids cover, '
        f"by how many ids</figcaption></figure>{table(['The most frequent', '', 'cover'], rows, (2,))}</div>"
        f'<p class="label">Most frequent</p><ul class="chips">{top}</ul>'
        f'<p class="label">Never used</p><p class="note">{unused}{"".join(f"; {detail}" for detail in details)}.'
        f'{" The first of the others:" if never else ""}</p><ul class="chips">{never}</ul>'
        + _vocabulary_by_source(figures)
    )


def _vocabulary_by_source(figures: Figures) -> str:
    defined = figures["vocabulary"]["defined"]
    rows = []
    for number, (name, source) in enumerate(figures["sources"].items()):
        use = source["vocabulary"]
        chips = "".join(
            f'<li class="plain">{html_text(token["token"])}<small>{token["times"]:.1f}×</small></li>'
            for token in use["characteristic"]
        )
        shares = [share(ratio(use["used"], defined)), share(use["most_frequent"])]
        rows.append([named(name, number), count(use["used"]), *shares, f'<ul class="chips">{chips}</ul>'])
    head = ["Source", "Ids used", "of all", f"Its {MOST_FREQUENT:,} most frequent cover", "Characteristic"]
    note = (
        "<p class='note'>By source. Characteristic are the tokens that set a source most apart from the whole, with "
        "how many times as frequent they are in it.</p>"
    )
    return note + table(head, rows, (1, 2, 3))


def found(figures: Figures) -> str:
    """What cleaning counted and left, or masked."""
    kinds = figures["found"]
    if not kinds:
        return "<p>Cleaning found none, or did not count any.</p>"
    rows = [
        [named(name, number), *(count(source["found"].get(kind, 0)) for kind in kinds)]
        for number, (name, source) in enumerate(figures["sources"].items())
    ]
    sums = (sum(source["found"].get(kind, 0) for source in figures["sources"].values()) for kind in kinds)
    rows.append(["All", *map(count, sums)])
    head = ["Source", *(html_text(kind[:1].upper() + kind[1:]) for kind in kinds)]
    note = (
        "Personal data, chat models that talk of themselves, wrongly decoded text that was mended: counted by cleaning."
    )
    return f"<p class='note'>{note}</p>{table(head, rows, range(1, len(head)), total=True)}"


def evaluation_sets(figures: Figures) -> str:
    """What was looked for in the text, and how much of it stood there."""
    if not figures["evaluation_sets"]:
        return f"<p>{NOTHING_LOOKED_FOR}</p>"
    rows = [
        [html_text(name), *(count(found.get(key, 0)) for key in EVALUATION_COLUMNS)]
        for name, found in figures["evaluation_sets"].items()
    ]
    note = "<p class='note'>Records that a model is to be measured on. Documents in which one stands are left out.</p>"
    head = ["Set", *EVALUATION_COLUMNS.values()]
    return note + table(head, rows, range(1, len(head)))


def examples(figures: Figures) -> str:
    """Each source with the beginnings of a few documents."""
    note = (
        "<p class='note'>The beginnings of the training documents with the lowest ids, which are hashes of their text: "
        "chosen by nobody. They are read back from the tokens.</p>"
    )
    return note + "".join(_source(n, name, source) for n, (name, source) in enumerate(figures["sources"].items()))


def _source(number: int, name: str, source: Figures) -> str:
    unknown = " warn" if source["licence"].casefold() == "unknown" else ""
    facts = [
        f"{source['train']['documents']:,} documents for training and {source['held_out']['documents']:,} held out",
        f"{source['tokens']:,} tokens",
        size(source["bytes"]),
        *([f"{source['files']:,} files" if source["files"] != 1 else "1 file"] if source["files"] else []),
        *([f"noted while reading: {reasons_told(source['notes'])}"] if source["notes"] else []),
    ]
    shown = [] if source["examples"] else ["<p>No document of it is left for training.</p>"]
    for example in source["examples"]:
        turns = "".join(
            f'<div class="turn {html_text(turn["role"])}"><p class="label">{html_text(turn["role"])}</p>'
            f'<p class="text" dir="auto">{html_text(turn["text"])}</p></div>'
            for turn in example["turns"]
        )
        more = '<p class="note">… and more turns</p>' if example["more_turns"] else ""
        shown.append(f'<div class="example">{turns}{more}<p class="id">{example["doc_id"]}</p></div>')
    return (
        f'<article class="source" id="source-{number}"><header><span class="dot {colour(number)}"></span>'
        f'<h3>{html_text(name)}</h3><span class="pill{unknown}">{html_text(source["licence"])}</span></header>'
        f'<p class="facts">{"; ".join(facts)}</p><div class="examples">{"".join(shown)}</div></article>'
    )


def provenance(figures: Figures) -> str:
    """The artefacts and the files that all of this was made from."""
    made = figures["provenance"]
    rows = [[html_text(name), f'<span class="hash">{digest}</span>'] for name, digest in made["contents"].items()]
    return (
        "<p class='note'>The artefacts that this card was made from, each with one hash over those of its files.</p>"
        + table(["Stage", "Content (sha256)"], rows)
        + _files("Source files", made["files"])
        + _files("Evaluation sets that were looked for", made["evaluation_files"])
    )


def _files(title: str, files: Sequence[Figures]) -> str:
    if not files:
        return ""
    rows = [
        [html_text(file["source"]), html_text(file["name"]), f'<span class="hash">{html_text(file["sha256"])}</span>']
        for file in files[:FILES_SHOWN]
    ]
    more = "" if len(files) <= FILES_SHOWN else f"<p>The other {len(files) - FILES_SHOWN:,} are in data_card.json.</p>"
    return (
        f"<details><summary>{title} ({len(files):,})</summary>{table(['Source', 'File', 'sha256'], rows)}{more}"
        "</details>"
    )
