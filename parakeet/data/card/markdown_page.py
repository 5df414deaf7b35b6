"""The data card as Markdown, for places that show no HTML: a hub, a terminal, Dagster's page of the asset."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parakeet.data.card.measures import MOST_FREQUENT
from parakeet.data.card.text import (
    EVALUATION_COLUMNS,
    NOTHING_LOOKED_FOR,
    markdown_block,
    markdown_text,
    mix_cells,
    mix_columns,
    ratio,
    share,
    size,
)

Figures = Mapping[str, Any]

FILES_SHOWN = 50


def render_markdown(figures: Figures) -> str:
    """The figures that `parakeet.data.card.make.gather` returns, section by section as on the page."""
    recipe = figures["recipe"]
    description = f"{markdown_text(recipe['description'])}\n\n" if recipe["description"] else ""
    limit = "" if recipe["limit"] == 1.0 else f"A trial: {recipe['limit'] * 100:g} % of every source.\n\n"
    sections = [
        f"# Data card of {markdown_text(recipe['name'])}\n\n{description}{limit}{_headline(figures)}",
        f"## Sources\n\n{_sources(figures)}",
        f"## Licences\n\n{_licences(figures)}",
        f"## From records to documents\n\n{_funnel(figures)}",
        f"## Duplicates\n\n{_duplicates(figures)}",
        f"## Lengths\n\n{_lengths(figures)}",
        f"## Vocabulary\n\n{_vocabulary(figures)}",
        f"## Found while cleaning\n\n{_found(figures)}",
        f"## Evaluation sets\n\n{_evaluation_sets(figures)}",
        f"## Examples\n\n{_examples(figures)}",
        f"## Provenance\n\n{_provenance(figures)}",
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Cells are Markdown of one line. Columns in `numbers` are aligned right."""
    right = set(numbers)
    rule = "".join("---:|" if column in right else "---|" for column in range(len(head)))
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{markdown_text(reason)} {number:,}" for reason, number in reasons.items())


def _headline(figures: Figures) -> str:
    total, funnel = figures["total"], figures["total"]["funnel"]
    documents = total["train"]["documents"] + total["held_out"]["documents"]
    lines = [
        f"**{total['tokens']:,} tokens** in {documents:,} documents of {len(figures['sources']):,} sources: "
        f"{size(total['bytes'])} of text, {total['bytes_per_token']:.2f} bytes a token. "
        f"{total['held_out']['tokens']:,} tokens are held out."
    ]
    if figures["faults"]:
        faults = "\n".join(f"- {markdown_text(fault)}" for fault in figures["faults"])
        lines.append(f"**Not every record is accounted for:**\n\n{faults}")
    else:
        lines.append(f"Every one of the {funnel['records']:,} records is accounted for.")
    for group in figures["licences"]:
        if group["unknown"]:
            lines.append(
                f"**Licence unknown:** {markdown_text(', '.join(group['sources']))}, {group['tokens']:,} tokens "
                f"({share(group['share'])})."
            )
    return "\n\n".join(lines)


def _sources(figures: Figures) -> str:
    columns = mix_columns(figures)
    rows = []
    for name, source in figures["sources"].items():
        rows.append(
            [
                markdown_text(name),
                markdown_text(source["licence"]),
                f"{source['train']['documents'] + source['held_out']['documents']:,}",
                f"{source['tokens']:,}",
                share(source["share_of_text"]),
                size(source["bytes"]),
                f"{source['bytes_per_token']:.2f}",
                *mix_cells(source, columns),
            ]
        )
    head = ["source", "licence", "documents", "tokens", "share", "text", "bytes a token"]
    head += [column.lower() for column in columns]
    plans = [f"{p['rows']:,} rows of {p['row_tokens']:,} tokens, {p['fill'] * 100:.2f} % full" for p in figures["rows"]]
    packed = f"\n\nPacked: {'; '.join(plans)}." if plans else ""
    return _table(head, rows, range(2, len(head))) + packed


def _licences(figures: Figures) -> str:
    rows = [
        [
            markdown_text(group["licence"]),
            markdown_text(", ".join(group["sources"])),
            f"{group['tokens']:,}",
            share(group["share"]),
        ]
        for group in figures["licences"]
    ]
    return _table(["licence", "sources", "tokens", "share"], rows, (2, 3))


def _funnel(figures: Figures) -> str:
    everything = {"**all**": figures["total"], **{markdown_text(n): s for n, s in figures["sources"].items()}}
    rows = []
    for name, source in everything.items():
        way = source["funnel"]
        steps = [
            f"{way['records']:,}",
            _reasons({**way["limit"], **way["unusable"]}),
            *(_reasons(way[loss]) for loss in ("cleaning", "deduplication")),
            f"{way['train']:,}",
            f"{way['held_out']:,}",
        ]
        rows.append([name, *steps])
    head = [
        "source",
        "records",
        "not taken or unusable" if figures["total"]["funnel"]["limit"] else "unusable",
        "cleaned out",
        "duplicates",
        "training",
        "held out",
    ]
    return _table(head, rows, (1, 5, 6))


def _duplicates(figures: Figures) -> str:
    told = figures["duplicates"]
    lines = [f"{told['exact']:,} exact and {told['near']:,} near duplicates were left out."]
    if clusters := told["clusters"]:
        lines[0] += (
            f" They belong to {clusters['exact']:,} clusters of exact copies and {clusters['near']:,} of near ones; "
            f"the largest has {clusters['largest']:,} documents."
        )
    if told["turns_cut"]:
        lines[0] += f" {told['turns_cut']:,} turns with their replies were cut out of conversations."
    lines.append(_duplicates_by_source(figures))
    for cluster in told["examples"]:
        lines += [
            f"{markdown_text(', '.join(cluster['sources']))}, a cluster of {cluster['size']:,}. Kept:",
            markdown_block(cluster["kept"]),
            "Left out:",
            markdown_block(cluster["dropped"]),
        ]
    return "\n\n".join(lines)


def _duplicates_by_source(figures: Figures) -> str:
    sources = figures["sources"]
    counted = any(source["duplicate_clusters"] is not None for source in sources.values())
    rows = []
    for name, source in sources.items():
        dropped = (source["funnel"]["deduplication"].get(f"{kind} duplicate", 0) for kind in ("exact", "near"))
        clusters = [f"{source['duplicate_clusters'] or 0:,}"] if counted else []
        rows.append([markdown_text(name), *(f"{number:,}" for number in dropped), *clusters])
    head = ["source", "exact, left out", "near, left out", *["clusters it keeps one of"] * counted]
    return _table(head, rows, range(1, len(head)))


def _lengths(figures: Figures) -> str:
    everything = {"**all**": figures["total"], **{markdown_text(n): s for n, s in figures["sources"].items()}}
    rows = []
    for name, source in everything.items():
        found = source["lengths"]
        rows.append([name, f"{found['mean']:,.1f}", *(f"{found[key]:,}" for key in ("p5", "p50", "p95", "longest"))])
    return "Tokens of a document.\n\n" + _table(
        ["source", "mean", "5 %", "median", "95 %", "longest"], rows, range(1, 6)
    )


def _vocabulary(figures: Figures) -> str:
    use = figures["vocabulary"]
    unused = use["unused"]
    cover = [f"the {int(rank):,} most frequent cover {share(part)}" for rank, part in use["coverage"].items()]
    said = (
        f"{use['used']:,} of the {use['defined']:,} ids of {markdown_text(use['kind'])} "
        f"({share(ratio(use['used'], use['defined']))}) stand in the training text; "
        f"{', '.join([*cover, f'{unused:,} are never used'])}."
    )
    top = "\n".join(f"{t['id']:>8}  {share(t['share']):>7}  {t['token']}" for t in use["top"])
    lines = [said, "The most frequent, with their shares of the tokens:", markdown_block(top)]
    if use["unused_examples"]:
        lines += ["Some that are never used:", markdown_block("  ".join(use["unused_examples"]))]
    rows = []
    for name, source in figures["sources"].items():
        own = source["vocabulary"]
        tokens = " ".join(markdown_text(token["token"]) for token in own["characteristic"])
        shares = [share(ratio(own["used"], use["defined"])), share(own["most_frequent"])]
        rows.append([markdown_text(name), f"{own['used']:,}", *shares, tokens])
    head = ["source", "ids used", "of all", f"its {MOST_FREQUENT:,} most frequent cover", "characteristic tokens"]
    lines.append(_table(head, rows, (1, 2, 3)))
    return "\n\n".join(lines)


def _found(figures: Figures) -> str:
    kinds = figures["found"]
    if not kinds:
        return "Cleaning found none, or did not count any."
    rows = [
        [markdown_text(name), *(f"{source['found'].get(kind, 0):,}" for kind in kinds)]
        for name, source in figures["sources"].items()
    ]
    return _table(["source", *map(markdown_text, kinds)], rows, range(1, len(kinds) + 1))


def _evaluation_sets(figures: Figures) -> str:
    if not figures["evaluation_sets"]:
        return NOTHING_LOOKED_FOR
    rows = [
        [markdown_text(name), *(f"{found.get(key, 0):,}" for key in EVALUATION_COLUMNS)]
        for name, found in figures["evaluation_sets"].items()
    ]
    head = ["set", *(column.lower() for column in EVALUATION_COLUMNS.values())]
    return _table(head, rows, range(1, len(head)))


def _examples(figures: Figures) -> str:
    lines = ["Beginnings of the training documents with the lowest ids, read back from the tokens."]
    for name, source in figures["sources"].items():
        lines.append(f"### {markdown_text(name)}")
        for example in source["examples"]:
            turns = [f"[{turn['role']}] {turn['text']}" for turn in example["turns"]]
            lines.append(markdown_block("\n\n".join([*turns, *(["…"] if example["more_turns"] else [])])))
    return "\n\n".join(lines)


def _provenance(figures: Figures) -> str:
    made = figures["provenance"]
    rows = [[markdown_text(name), digest] for name, digest in made["contents"].items()]
    lines = [_table(["stage", "content (sha256)"], rows)]
    for title, files in (("Source files", made["files"]), ("Evaluation sets", made["evaluation_files"])):
        if files:
            listed = "\n".join(f"{file['sha256']}  {file['source']}/{file['name']}" for file in files[:FILES_SHOWN])
            rest = f"\n\nThe other {len(files) - FILES_SHOWN:,} are in data_card.json." * (len(files) > FILES_SHOWN)
            lines.append(f"{title}, with their sha256:\n\n{markdown_block(listed)}{rest}")
    return "\n\n".join(lines)
