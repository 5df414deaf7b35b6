"""An evaluation's figures as Markdown, and what follows from them. Imports no torch."""

import re
from collections.abc import Mapping
from typing import Any

from parakeet.sanitise import sanitise

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.md"
PLOT_FILE = "bits_per_byte.png"
BY_POSITION_PLOT_FILE = "bits_per_byte_by_position.png"
NOT_APPLICABLE = "not applicable"


def not_below_yardsticks(by_source: Mapping[str, Any]) -> list[str]:
    """Sources on which the model needs as many bits as the unigram model or `xz -9`, or more; unmeasured ones apart."""
    measured = {name: bits for name, bits in by_source.items() if bits is not None}
    return [name for name, bits in measured.items() if bits["model"] >= min(bits["unigram"], bits["xz"])]


def render_report(name: str, result: Mapping[str, Any]) -> str:
    """The measurements as Markdown."""
    return (
        "\n\n".join(
            [
                f"# Evaluation of {name}",
                "## Held-out bits per byte\n\nLower is better. The unigram model has the same tokenizer; `xz -9` "
                "compresses the same bytes, concatenated.\n\n" + bits_per_byte_table(result["bits_per_byte"]),
                "## Held-out bits per byte by position\n\n" + by_position_section(result["bits_per_byte_by_position"]),
                "## Exact answers to held-out questions\n\n" + exact_match_table(result["exact_match"]),
                "## Replies\n\nGreedy, to the same prompts for every model.\n\n" + replies_table(result["replies"]),
            ]
        )
        + "\n"
    )


def bits_per_byte_table(by_source: Mapping[str, Any]) -> str:
    rows = ["| source | documents | bytes | this model | unigram | xz -9 |", "|---|---:|---:|---:|---:|---:|"]
    for name, bits in by_source.items():
        if bits is None:
            rows.append(f"| {name} | | too little held out to measure | | | |")
        else:
            figures = " | ".join(f"{bits[key]:.3f}" for key in ("model", "unigram", "xz"))
            rows.append(f"| {name} | {bits['documents']:,} | {bits['n_bytes']:,} | {figures} |")
    return "\n".join(rows)


def by_position_section(by_position: Mapping[str, Any]) -> str:
    """What was measured, in words, and a table with one column for each source that could be."""
    sources = {name: found for name, found in by_position["sources"].items() if found is not None}
    said = (
        "Held-out documents one after the other, without a document mask, so that every position is predicted from "
        f"all before it. The model was trained on rows of up to {by_position['longest_trained_row_tokens']:,} tokens. "
        "± is one standard error over rows."
    )
    if not sources:
        return f"{said}\n\nNot measured: it takes held-out text for two rows of 32 tokens."
    cells = {
        (bucket["first"], bucket["last"], name): f"{bucket['bits_per_byte']:.3f} ± {bucket['standard_error']:.3f}"
        for name, found in sources.items()
        for bucket in found["buckets"]
    }
    rows = [f"| positions | {' | '.join(sources)} |", "|---|" + "---:|" * len(sources)]
    for first, last in sorted({(first, last) for first, last, _ in cells}):
        figures = " | ".join(cells.get((first, last, name), "") for name in sources)
        rows.append(f"| {first:,} to {last:,} | {figures} |")
    figures = " | ".join(f"{found['rows']:,} of {found['row_tokens']:,} tokens" for found in sources.values())
    return "\n".join([said, "", *rows, f"| rows measured | {figures} |"])


def exact_match_table(exact_match: Any) -> str:
    if exact_match == NOT_APPLICABLE:
        return "Not applicable: no source of this recipe comes with held-out questions."
    rows = ["| task | questions | exact | 95 % interval | example |", "|---|---:|---:|---|---|"]
    for task, figures in exact_match.items():
        low, high = figures["interval"]
        example = f"{figures['example']['prompt']} → {figures['example']['reply']}"
        share = f"{figures['accuracy']:.1%}"
        rows.append(f"| {task} | {figures['questions']} | {share} | {low:.1%} to {high:.1%} | {_cell(example)} |")
    return "\n".join(rows)


def replies_table(replies: list[dict[str, str]]) -> str:
    rows = ["| prompt | reply |", "|---|---|"]
    rows += [f"| {_cell(pair['prompt'])} | {_cell(pair['reply'])} |" for pair in replies]
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Text of a model inside a Markdown table: no pipe, tag or line break of its own takes effect."""
    plain = sanitise(" ".join(text.split())).replace("\\", "\\\\").replace("<", "&lt;")
    return re.sub(r"([|`*_\[\]])", r"\\\1", plain)
