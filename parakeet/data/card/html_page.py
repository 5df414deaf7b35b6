"""The data card as one HTML file: no script, nothing from the network, readable on a phone and on paper."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parakeet.data.card.charts import bar, strip
from parakeet.data.card.details import (
    duplicates,
    evaluation_sets,
    examples,
    found,
    lengths,
    provenance,
    vocabulary,
)
from parakeet.data.card.elements import count, named, reasons_told, table
from parakeet.data.card.style import STYLE
from parakeet.data.card.text import html_text, mix_cells, mix_columns, ratio, share, size

Figures = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Should any text ever get past the escaping, a browser still runs and fetches nothing."""
SOURCES_NAMED = 3
LOSSES = {
    "limit": ("Not taken", "reading"),
    "unusable": ("Unusable", "reading"),
    "cleaning": ("Cleaned out", "cleaning"),
    "deduplication": ("Duplicates", "deduplication"),
}
"""What a column calls each way to be left out, and by what it was."""


def render_html(figures: Figures) -> str:
    """The page, of the figures that `parakeet.data.card.make.gather` returns."""
    name = html_text(figures["recipe"]["name"])
    sections = [
        f'<section id="{key}"><h2>{title}</h2>{body(figures)}</section>' for key, (title, body) in SECTIONS.items()
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>Data card of {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join([_head(figures, name), *sections])
        + '\n<footer>The same figures are in <a href="data_card.json">data_card.json</a> and '
        '<a href="data_card.md">data_card.md</a>.</footer>\n</main>\n</body>\n</html>\n'
    )


def _head(figures: Figures, name: str) -> str:
    total, recipe = figures["total"], figures["recipe"]
    limit = "" if recipe["limit"] == 1.0 else f" A trial: {recipe['limit'] * 100:g} % of every source."
    tiles = {
        "tokens": f"{total['tokens']:,}",
        "documents": f"{total['train']['documents'] + total['held_out']['documents']:,}",
        "of text": size(total["bytes"]),
        "sources": f"{len(figures['sources']):,}",
        "bytes a token": f"{total['bytes_per_token']:.2f}",
        "tokens held out": f"{total['held_out']['tokens']:,}",
    }
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in tiles.items())
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in SECTIONS.items())
    return (
        f'<header><p class="eyebrow">Data card</p><h1>{name}</h1>'
        f'<p class="lead">{html_text(recipe["description"])}{limit}</p>'
        f'<dl class="tiles">{cells}</dl>{_notices(figures)}<nav>{links}</nav></header>'
    )


def _notices(figures: Figures) -> str:
    funnel = figures["total"]["funnel"]
    if figures["faults"]:
        faults = "".join(f"<li>{html_text(fault)}</li>" for fault in figures["faults"])
        accounts = f'<div class="notice warn bad"><b>Not every record is accounted for.</b><ul>{faults}</ul></div>'
    else:
        accounts = (
            f'<p class="notice">Every one of the {funnel["records"]:,} records is accounted for: it is in the corpus, '
            "or counted below under the reason why not.</p>"
        )
    unknown = [group for group in figures["licences"] if group["unknown"]]
    for group in unknown:
        accounts += (
            f'<p class="notice warn"><b>Licence unknown:</b> {html_text(", ".join(group["sources"]))}, '
            f"{group['tokens']:,} tokens ({share(group['share'])}). Find it out before you share the text or a model "
            "made from it.</p>"
        )
    return accounts


def _mix(figures: Figures) -> str:
    sources, total = figures["sources"], figures["total"]
    columns = mix_columns(figures)
    shares = [(name, source["share_of_text"]) for name, source in sources.items()]
    strips = f'<p class="strip-name">Training tokens by source</p>{strip(shares, "Training tokens by source")}'
    if columns:
        mix = [(name, (source["mix"] or {}).get("share", 0.0)) for name, source in sources.items()]
        strips += f'<p class="strip-name">As training meets them, repeats counted</p>{strip(mix, "Tokens of the mix")}'
    head = ["Source", "Licence", "Documents", "Tokens", "Share", "Text", "Bytes a token"]
    rows = []
    for number, (name, source) in enumerate(sources.items()):
        documents = source["train"]["documents"] + source["held_out"]["documents"]
        rows.append(
            [
                named(name, number),
                f'<span class="keep">{html_text(source["licence"])}</span>',
                count(documents),
                count(source["tokens"]),
                share(source["share_of_text"]),
                size(source["bytes"]),
                f"{source['bytes_per_token']:.2f}",
                *mix_cells(source, columns),
            ]
        )
    documents = total["train"]["documents"] + total["held_out"]["documents"]
    text = [size(total["bytes"]), f"{total['bytes_per_token']:.2f}"]
    sums = ["All", "", f"{documents:,}", f"{total['tokens']:,}", "", *text]
    rows.append([*sums, *[""] * len(columns)])
    head += columns
    note = (
        "<p class='note'>Documents, tokens and text count what is held out too; shares are of the training split."
        f"{_rows_said(figures['rows'])}</p>"
    )
    return strips + table(head, rows, range(2, len(head)), total=True) + note


def _rows_said(rows: Sequence[Figures]) -> str:
    plans = [
        f"{plan['rows']:,} rows of {plan['row_tokens']:,} tokens, {plan['fill'] * 100:.2f} % full" for plan in rows
    ]
    return f" Packed, that is {'; '.join(plans)}." if plans else ""


def _licences(figures: Figures) -> str:
    rows = []
    for group in figures["licences"]:
        licence = html_text(group["licence"])
        rows.append(
            [
                f'<span class="pill warn">{licence}</span>'
                if group["unknown"]
                else f'<span class="keep">{licence}</span>',
                html_text(", ".join(group["sources"])),
                count(group["tokens"]),
                bar(group["share"]),
                share(group["share"]),
            ]
        )
    return table(["Licence", "Sources", "Tokens", "", "Share"], rows, (2, 4))


def _funnel(figures: Figures) -> str:
    total, sources = figures["total"]["funnel"], figures["sources"]
    # Of a trial's thousandth nothing would be seen beside all records: bars are shares of what was taken.
    most = total["taken"]
    limited = bool(total["limit"])
    steps = (
        *([("Records", "records", "limit")] if limited else []),
        ("Taken" if limited else "Records", "taken", "unusable"),
        ("Documents", "documents", "cleaning"),
        ("Clean", "clean", "deduplication"),
        ("Deduplicated", "deduplicated", ""),
    )
    lines = []
    for label, key, loss in steps:
        drawn = "<span></span>" if key == "records" else bar(ratio(total[key], most))
        lines.append(f'<li><span>{label}</span>{drawn}<span class="n">{total[key]:,}</span></li>')
        if loss:
            lines.append(f'<li class="lost"><p>{reasons_told(total[loss]) or "nothing"}</p></li>')
    split = bar(ratio(total["train"], most), ratio(total["held_out"], most))
    lines.append(
        f'<li class="split"><span>Training<br>and held out</span>{split}'
        f'<span class="n">{total["train"]:,}<br>{total["held_out"]:,}</span></li>'
    )
    losses = [loss for loss in LOSSES if loss != "limit" or limited]
    head = ["Source", "Records", *(LOSSES[loss][0] for loss in losses), "Training", "Held out"]
    rows = [
        [
            named(name, number),
            count(account["records"]),
            *(count(sum(account[loss].values())) for loss in losses),
            count(account["train"]),
            count(account["held_out"]),
        ]
        for number, (name, account) in enumerate((name, source["funnel"]) for name, source in sources.items())
    ]
    lost = (sum(total[loss].values()) for loss in losses)
    rows.append(["All", *(f"{n:,}" for n in (total["records"], *lost, total["train"], total["held_out"]))])
    by_source = table(head, rows, range(1, len(head)), total=True)
    return (
        "<p class='note'>What each stage took out, and what was left.</p>"
        f'<ol class="funnel">{"".join(lines)}</ol>{by_source}{_dropped(figures)}'
    )


def _dropped(figures: Figures) -> str:
    """Every reason, with the sources that it met most."""
    rows = []
    for loss, (_, stage) in LOSSES.items():
        for reason, number in figures["total"]["funnel"][loss].items():
            met = {name: source["funnel"][loss].get(reason, 0) for name, source in figures["sources"].items()}
            most = sorted(((n, name) for name, n in met.items() if n), key=lambda pair: (-pair[0], pair[1]))
            named = ", ".join(f"{html_text(name)} {n:,}" for n, name in most[:SOURCES_NAMED])
            more = f" and {len(most) - SOURCES_NAMED:,} more" if len(most) > SOURCES_NAMED else ""
            rows.append([html_text(reason), stage, count(number), named + more])
    return table(["Reason", "Left out by", "Documents", "Where"], rows, (2,)) if rows else ""


SECTIONS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "mix": ("Sources", _mix),
    "licences": ("Licences", _licences),
    "funnel": ("From records to documents", _funnel),
    "duplicates": ("Duplicates", duplicates),
    "lengths": ("Lengths", lengths),
    "vocabulary": ("Vocabulary", vocabulary),
    "found": ("Found while cleaning", found),
    "evaluation-sets": ("Evaluation sets", evaluation_sets),
    "examples": ("Source by source", examples),
    "provenance": ("Provenance", provenance),
}
