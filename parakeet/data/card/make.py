"""The stage `data_card`: what the corpus holds, by source, as a page, as Markdown and as figures.

The counts of the earlier stages are checked against each other and against the shards. If a record is not accounted
for, the page says so. Nothing in the three files depends on the machine or the time.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.data.card.charts import card_charts, colour
from parakeet.data.card.measures import (
    Measures,
    SourceMeasures,
    beginning,
    example_figures,
    length_figures,
    measure,
    ratio,
    source_vocabulary_figures,
    vocabulary_figures,
)
from parakeet.data.card.tables import LOSSES, card_tables, marked_differences
from parakeet.data.documents import count_documents
from parakeet.data.tokens.canaries import LICENCE as CANARY_LICENCE
from parakeet.data.tokens.shards import SPLITS
from parakeet.pages import render
from parakeet.progress import Progress
from parakeet.recipe import CANARY_SOURCE, Recipe
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.sanitise import sanitise
from parakeet.tokenizer import Tokenizer

HTML_FILE = "data_card.html"
MARKDOWN_FILE = "data_card.md"
UNKNOWN_LICENCE = "unknown"
CLUSTERS_SHOWN = 4
DUPLICATE_CHARACTERS = 280
"""A little less than `clusters.jsonl` holds of each document, so that both excerpts end with a whole word."""
DOCUMENT_STAGES = ("documents", "clean_documents", "deduplicated_documents")
FUNNEL = ("records", "taken", "documents", "clean", "deduplicated", "train", "held_out")


def make_data_card(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Stage `data_card`: write `data_card.html`, `data_card.md` and `data_card.json`, which hold the same figures.

    Returns the counts that the stage's headline shows; "unaccounted" is the number of `faults`.
    """
    artifacts = {name: Artifact.open(path) for name, path in inputs.items()}
    figures = gather(recipe, artifacts, progress)
    text = json.dumps(figures, ensure_ascii=False, indent=1) + "\n"
    (output / "data_card.json").write_text(text, encoding="utf-8")
    tables, drawings = card_tables(figures), {"charts": card_charts(figures), "colour": colour}
    figures.setdefault("canaries", None)
    page = render("data_card.html", tables=tables, marked_differences=marked_differences, **drawings, **figures)
    (output / HTML_FILE).write_text(page, encoding="utf-8")
    (output / MARKDOWN_FILE).write_text(render("data_card.md", tables=tables, **figures), encoding="utf-8")
    total = figures["total"]
    return {
        "sources": len(figures["sources"]),
        "documents": total["train"]["documents"] + total["held_out"]["documents"],
        "tokens": total["tokens"],
        "held_out_tokens": total["held_out"]["tokens"],
        "bytes": total["bytes"],
        "licences": len(figures["licences"]),
        "unknown_licences": sum(group["unknown"] for group in figures["licences"]),
        "unaccounted": len(figures["faults"]),
    }


def gather(recipe: Recipe, artifacts: Mapping[str, Artifact], progress: Progress) -> dict[str, Any]:
    """All figures of the card, as JSON values. Their text is sanitised."""
    counts = {name: artifact.counts for name, artifact in artifacts.items()}
    names = [source.name for source in recipe.sources]
    tokenizer = Tokenizer.load(artifacts["tokenizer"].path)
    expected = sum(counts["token_shards"][split]["tokens"] for split in ("train", "held_out"))
    with progress.task("data card", expected, "tokens") as task:
        measures = measure(artifacts["token_shards"].path, tokenizer, task)
    names += sorted(set().union(*measures.by_split.values()) - set(names))
    accounts = {name: _account(name, counts, measures) for name in names}
    planted = counts["token_shards"].get("canaries")
    if planted:
        accounts[CANARY_SOURCE] |= {"train": 0, "held_out": 0}  # they are no records that stages could lose
    sources = {name: _source(name, recipe, counts, accounts[name], measures, tokenizer) for name in names}
    by_size = sorted(names, key=lambda name: (-sources[name]["tokens"], name))
    return {
        "recipe": {"name": recipe.name, "description": sanitise(recipe.description), "limit": recipe.limit},
        "total": _total(accounts, measures),
        "sources": {name: sources[name] for name in by_size},
        # A mix that takes everything once adds nothing to the sizes.
        "mixed": any(s["mix"] and s["train"]["tokens"] and s["mix"]["epochs"] != 1.0 for s in sources.values()),
        "licences": _licences(sources),
        "faults": _faults(accounts, counts, artifacts, measures),
        "found": list(_reasons(*(source["found"] for source in sources.values()))),
        "unread": _reasons(*(source["unread"] for source in sources.values())),
        **({"canaries": planted} if planted else {}),
        "evaluation_sets": {
            sanitise(name): dict(found) for name, found in counts["clean_documents"].get("evaluation_sets", {}).items()
        },
        "duplicates": _duplicates(artifacts["deduplicated_documents"]),
        "vocabulary": {"kind": tokenizer.name, **vocabulary_figures(measures.id_counts, tokenizer)},
        # One entry for each sequence length that the model is trained at.
        "rows": [
            {key: plan[key] for key in ("row_tokens", "rows", "fill", "split_documents") if key in plan}
            for plan in counts["packing_plan"].get("lengths", {}).values()
        ],
        "provenance": _provenance(artifacts),
    }


def _account(name: str, counts: Mapping[str, Any], measures: Measures) -> dict[str, Any]:
    """One source's documents: how many each stage kept, and how many it left out for each reason."""
    collected, cleaned, deduplicated = (counts[stage]["sources"].get(name, {}) for stage in DOCUMENT_STAGES)
    records, not_taken = collected.get("records", 0), collected.get("not_taken", 0)
    return {
        "records": records,
        "limit": _reasons({"not taken (limit)": not_taken}),
        "taken": records - not_taken,
        "unusable": _reasons(collected.get("bad_reasons", {})),
        "documents": collected.get("documents", 0),
        "cleaning": _reasons(cleaned.get("dropped", {})),
        "clean": cleaned.get("kept", 0),
        "deduplication": _reasons(deduplicated.get("dropped", {})),
        "deduplicated": deduplicated.get("kept", 0),
        "held_out_by_deduplication": deduplicated.get("held_out", 0),
        **{split: sources[name].documents for split, sources in measures.by_split.items()},
    }


def _reasons(*tallies: Mapping[str, int]) -> dict[str, int]:
    """The sum of all tallies by sanitised reason, without zeros, the most frequent first."""
    total: Counter[str] = Counter()
    for tally in tallies:
        for reason, number in tally.items():
            total[sanitise(reason)] += number
    return dict(sorted(((why, n) for why, n in total.items() if n), key=lambda pair: (-pair[1], pair[0])))


def _source(
    name: str,
    recipe: Recipe,
    counts: Mapping[str, Any],
    account: dict[str, Any],
    measures: Measures,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    settings = next((source for source in recipe.sources if source.name == name), None)
    collected = counts["documents"]["sources"].get(name, {})
    own = CANARY_LICENCE if name == CANARY_SOURCE and "canaries" in counts["token_shards"] else ""
    licence = collected.get("licence") or (settings.licence if settings else own) or UNKNOWN_LICENCE
    train, held_out = (measures.by_split[split][name] for split in ("train", "held_out"))
    everything = sum(source.tokens for source in measures.by_split["train"].values())
    mix = counts["packing_plan"].get("mix", {}).get(name)
    return {
        "licence": sanitise(licence),
        "kind": settings.kind if settings else "",
        "files": collected.get("files", 0),
        **_sizes(train, held_out),
        "share_of_text": ratio(train.tokens, everything),
        "mix": {key: mix[key] for key in ("tokens", "share", "epochs", "documents") if key in mix} if mix else None,
        "weight": settings.weight if settings else None,
        "funnel": account,
        "notes": _reasons(collected.get("notes", {})),
        "unread": _reasons(collected.get("unread", {})),
        "unused_columns": {sanitise(key): number for key, number in collected.get("unused_columns", {}).items()},
        "found": _reasons(counts["clean_documents"]["sources"].get(name, {}).get("found", {})),
        "duplicate_clusters": counts["deduplicated_documents"]["sources"].get(name, {}).get("clusters"),
        "vocabulary": source_vocabulary_figures(train.id_counts, measures.id_counts, tokenizer),
        "examples": [example_figures(tokenizer, example) for example in train.examples],
    }


def _sizes(train: SourceMeasures, held_out: SourceMeasures) -> dict[str, Any]:
    both = train + held_out
    sizes = {
        "tokens": both.tokens,
        "bytes": both.n_bytes,
        "bytes_per_token": round(ratio(both.n_bytes, both.tokens), 3),
    }
    return {**sizes, "train": train.sizes, "held_out": held_out.sizes, "lengths": length_figures(both.lengths)}


def _total(accounts: Mapping[str, Any], measures: Measures) -> dict[str, Any]:
    train, held_out = (sum(sources.values(), SourceMeasures()) for sources in measures.by_split.values())
    funnel: dict[str, Any] = {key: sum(account[key] for account in accounts.values()) for key in FUNNEL}
    funnel |= {loss: _reasons(*(account[loss] for account in accounts.values())) for loss in LOSSES}
    return {**_sizes(train, held_out), "funnel": funnel}


def _licences(sources: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sources of each licence, the one with the most tokens first."""
    total = sum(source["tokens"] for source in sources.values())
    groups = []
    for licence in {source["licence"] for source in sources.values()}:
        under = sorted(name for name, source in sources.items() if source["licence"] == licence)
        tokens = sum(sources[name]["tokens"] for name in under)
        groups.append(
            {
                "licence": licence,
                "unknown": licence.strip().casefold() == UNKNOWN_LICENCE,
                "sources": under,
                "tokens": tokens,
                "share": ratio(tokens, total),
            }
        )
    return sorted(groups, key=lambda group: (-group["tokens"], group["licence"]))


def _faults(
    accounts: Mapping[str, Any], counts: Mapping[str, Any], artifacts: Mapping[str, Artifact], measures: Measures
) -> list[str]:
    """What does not add up, as sentences. Empty if every record is accounted for."""
    faults = []
    for name, account in accounts.items():
        steps = (
            ("taken", "documents", "unusable", "records read", "became documents or are unusable"),
            ("documents", "clean", "cleaning", "documents collected", "were kept or dropped by cleaning"),
            ("clean", "deduplicated", "deduplication", "clean documents", "were kept or dropped as duplicates"),
        )
        for before, after, loss, were, became in steps:
            counted = account[after] + sum(account[loss].values())
            if account[before] != counted:
                faults.append(f"{name}: {account[before]:,} {were}, but {counted:,} {became}")
        held_out = account["held_out_by_deduplication"]
        for split, kept in (("train", account["deduplicated"] - held_out), ("held_out", held_out)):
            if account[split] != kept:
                what = split.replace("_", "-")
                faults.append(f"{name}: {kept:,} {what} documents kept, but the shards hold {account[split]:,}")
    if planted := counts["token_shards"].get("canaries"):
        held = {split: measures.by_split[split][CANARY_SOURCE].documents for split in SPLITS}
        if held != {"train": planted["documents"], "held_out": 0}:
            faults.append(
                f"{CANARY_SOURCE}: {planted['documents']:,} documents planted in the training text, but the shards "
                f"hold {held['train']:,}, and {held['held_out']:,} in the held-out text"
            )
    for stage in DOCUMENT_STAGES:
        counted, written = counts[stage]["documents"], count_documents(artifacts[stage].path)
        if counted != written:
            faults.append(f"{stage}: {counted:,} documents counted, but its files hold {written:,}")
    return faults


def _duplicates(artifact: Artifact) -> dict[str, Any]:
    counts = artifact.counts
    path = artifact.path / "clusters.jsonl"
    # Not splitlines(): an excerpt may contain one of Unicode's other line ends.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    near = [cluster for line in lines if (cluster := json.loads(line))["kind"] == "near"]
    # A reader doubts the largest clusters first. Where both beginnings are the same there is nothing to see.
    near.sort(key=lambda c: (c["kept"].split() == c["dropped"].split(), -c["size"], c["kept"], c["dropped"]))
    return {
        "exact": counts.get("exact_duplicates", 0),
        "near": counts.get("near_duplicates", 0),
        "clusters": counts.get("clusters"),
        "turns_cut": counts.get("exchanges_cut", 0),
        "examples": [
            {
                "sources": [sanitise(name) for name in cluster["sources"]],
                "size": cluster["size"],
                "kept": beginning(sanitise(cluster["kept"]), DUPLICATE_CHARACTERS),
                "dropped": beginning(sanitise(cluster["dropped"]), DUPLICATE_CHARACTERS),
            }
            for cluster in near[:CLUSTERS_SHOWN]
        ],
    }


def _provenance(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    tested = artifacts["clean_documents"].manifest.get("source_files", {})
    return {
        # Contents, not fingerprints: if a stage comes out the same with other settings, so does this card.
        "contents": {name: a.content for name, a in artifacts.items() if not name.startswith(f"{SOURCE_FILES}/")},
        "files": _outside(artifacts["documents"].manifest.get("source_files", {}))
        + _downloaded(artifacts["documents"]),
        "evaluation_files": _outside(tested) + _downloaded(artifacts["clean_documents"]),
    }


def _outside(files: Mapping[str, str]) -> list[dict[str, str]]:
    """Files outside the store, which a manifest labels `<source>/<name>`."""
    split = ((*label.partition("/")[::2], digest) for label, digest in files.items())
    return [{"source": sanitise(source), "name": sanitise(name), "sha256": digest} for source, name, digest in split]


def _downloaded(documents: Artifact) -> list[dict[str, str]]:
    """The files in the `source_files` artefacts that the documents were made from."""
    found = []
    for stage, made_from in documents.manifest.get("inputs", {}).items():
        if not stage.startswith(f"{SOURCE_FILES}/"):
            continue
        # Artefacts are in <root>/<stage>/<name>.
        folder = documents.path.parent.parent / stage / Path(made_from["path"]).name
        source = sanitise(stage.rpartition("/")[2])
        for name, entry in Artifact.open(folder).manifest["files"].items():
            found.append({"source": source, "name": sanitise(name), "sha256": entry["sha256"]})
    return found
