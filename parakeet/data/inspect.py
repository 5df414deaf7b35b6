"""`parakeet data inspect`: what was dropped from the training text, by stage, source and reason, with examples."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

EXAMPLE_FILES = {
    "documents": "problems.jsonl",
    "clean_documents": "dropped.jsonl",
    "deduplicated_documents": "clusters.jsonl",
}
"""Each stage that drops documents, with its file of examples."""
DROPPING_STAGES = tuple(EXAMPLE_FILES)


@dataclass(frozen=True)
class Drop:
    """How many documents of a source (in the stage `documents`, records) were dropped, or changed ("note: …")."""

    stage: str
    source: str
    reason: str
    number: int


@dataclass(frozen=True)
class Example:
    """One dropped document: where it came from, if that is known, and excerpts to show."""

    stage: str
    sources: Sequence[str]
    reason: str
    """The reason of a `Drop`, perhaps with `: details` after it."""
    place: str
    excerpts: Sequence[str]

    def is_of(self, drop: Drop) -> bool:
        same = self.reason == drop.reason or self.reason.startswith(f"{drop.reason}:")
        return same and self.stage == drop.stage and drop.source in self.sources


def render_inspection(artifacts: Sequence[Artifact], source: str | None, reason: str | None, examples: int) -> str:
    """A table of what was dropped. With a `reason`, also up to `examples` examples of each row.

    `reason` may be the beginning or any part of a reason, in upper or lower case. Raises ParakeetError if there is no
    such source or reason.
    """
    drops = [drop for artifact in artifacts for drop in drops_of(artifact)]
    if source is not None:
        known = sorted({name for artifact in artifacts for name in artifact.counts["sources"]})
        if source not in known:
            raise ParakeetError(f"There is no source {source!r} here. The sources are: {', '.join(known)}.")
        drops = [drop for drop in drops if drop.source == source]
    if reason is not None:
        drops = _for_reason(drops, reason)
    where = f"{' and '.join(artifact.stage for artifact in artifacts)}{f' (source {source})' if source else ''}"
    if not drops:
        return f"Nothing was dropped by {where}."
    lines = _table(drops)
    if reason is not None:
        shown = [example for artifact in artifacts for example in examples_of(artifact)]
        for drop in drops:
            lines += _examples(drop, [example for example in shown if example.is_of(drop)][:examples])
    else:
        lines += ["", "Examples: parakeet data inspect --reason TEXT"]
    return "\n".join(lines)


def drops_of(artifact: Artifact) -> list[Drop]:
    """What a stage's manifest lists as dropped, by source, the most frequent reason first."""
    drops = []
    for source, counts in artifact.counts["sources"].items():
        reasons = counts.get("bad_reasons") or counts.get("dropped") or {}
        for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            if number:
                drops.append(Drop(artifact.stage, source, reason, number))
        notes = counts.get("notes", {}).items()
        drops += [Drop(artifact.stage, source, f"note: {note}", number) for note, number in notes]
    return drops


def examples_of(artifact: Artifact) -> Iterator[Example]:
    """The examples that a stage has kept, in their order."""
    for row in _rows(artifact.path / EXAMPLE_FILES[artifact.stage]):
        place = f"{row['file']}:{row['row']}" if "file" in row and "row" in row else ""
        if artifact.stage == "deduplicated_documents":
            excerpts = (f"kept     {_one_line(row['kept'])}", f"dropped  {_one_line(row['dropped'])}")
            yield Example(artifact.stage, row["sources"], f"{row['kind']} duplicate", place, excerpts)
        else:
            yield Example(artifact.stage, [row["source"]], row["reason"], place, (_one_line(row["excerpt"]),))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (FileNotFoundError, ValueError):
        stage = path.parent.parent.name
        message = f"{path} is missing or was changed after it was made. Run the same build again with: --force {stage}"
        raise ParakeetError(message) from None


def _for_reason(drops: Sequence[Drop], wanted: str) -> list[Drop]:
    sought = wanted.strip().lower()
    found = [drop for drop in drops if drop.reason.lower().startswith(sought)]
    found = found or [drop for drop in drops if sought in drop.reason.lower()]
    if not found:
        known = ", ".join(sorted({drop.reason for drop in drops})) or "none, since nothing was dropped"
        raise ParakeetError(f"Nothing was dropped for {wanted!r}. The reasons are: {known}.")
    return found


def _table(drops: Sequence[Drop]) -> list[str]:
    rows = [("stage", "source", "reason", "dropped")]
    rows += [(drop.stage, drop.source, drop.reason, f"{drop.number:,}") for drop in drops]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)), row[3].rjust(widths[3])])
        for row in rows
    ]


def _examples(drop: Drop, examples: Sequence[Example]) -> list[str]:
    lines = ["", f"{drop.source}: {drop.reason} ({drop.stage}), {len(examples):,} of {drop.number:,}"]
    for example in examples:
        details = example.reason.removeprefix(drop.reason).lstrip(": ")
        lines.append("  " + " ".join(filter(None, (example.place or "(place unknown)", details))))
        lines += [f"    {excerpt}" for excerpt in example.excerpts]
    return lines


def _one_line(text: str) -> str:
    return " ".join(sanitise(text).split())
