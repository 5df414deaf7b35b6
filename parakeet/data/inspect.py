"""`parakeet data inspect`: what was dropped from the training text, by stage, source and reason, with examples."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.formatting import one_line, render_table


@dataclass(frozen=True)
class Drop:
    """How many documents of a source (in the stage `documents`, records) were dropped, or changed ("note: …")."""

    stage: str
    source: str
    reason: str
    number: int
    examples_file: Path


def render_inspection(
    made: Sequence[tuple[Artifact, str]], source: str | None, reason: str | None, examples: int
) -> str:
    """A table of what was dropped. With a `reason`, also up to `examples` examples of each row.

    `made` are artefacts of stages that drop documents, each with the name of its file of examples. `reason` may be any
    part of a reason, in upper or lower case. Raises ParakeetError if there is no such source or reason.
    """
    drops = [drop for artifact, name in made for drop in _drops(artifact, artifact.path / name)]
    if source is not None:
        known = sorted({name for artifact, _ in made for name in artifact.counts["sources"]})
        if source not in known:
            raise ParakeetError(f"There is no source {source!r} here. The sources are: {', '.join(known)}.")
        drops = [drop for drop in drops if drop.source == source]
    if reason is not None:
        drops = _for_reason(drops, reason)
    if not drops:
        *first, last = [artifact.stage for artifact, _ in made]
        stages = f"{', '.join(first)} or {last}" if first else last
        return f"Nothing was dropped by {stages}{f' (source {source})' if source else ''}."
    rows = [(drop.stage, drop.source, drop.reason, drop.number) for drop in drops]
    table = render_table(("stage", "source", "reason", "dropped"), rows)
    if reason is None:
        return f"{table}\n\nExamples: parakeet data inspect --reason TEXT"
    return "\n".join([table, *(line for drop in drops for line in _examples(drop, examples))])


def _drops(artifact: Artifact, examples_file: Path) -> Iterator[Drop]:
    """What a stage's manifest lists as dropped, by source, the most frequent reason first."""
    for source, counts in artifact.counts["sources"].items():
        reasons = counts.get("bad_reasons") or counts.get("dropped") or {}
        for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            if number:
                yield Drop(artifact.stage, source, reason, number, examples_file)
        for note, number in counts.get("notes", {}).items():
            yield Drop(artifact.stage, source, f"note: {note}", number, examples_file)


def _for_reason(drops: Sequence[Drop], wanted: str) -> list[Drop]:
    sought = wanted.strip().lower()
    found = [drop for drop in drops if drop.reason.lower().startswith(sought)]
    found = found or [drop for drop in drops if sought in drop.reason.lower()]
    if not found:
        known = ", ".join(sorted({drop.reason for drop in drops})) or "none, since nothing was dropped"
        raise ParakeetError(f"Nothing was dropped for {wanted!r}. The reasons are: {known}.")
    return found


def _examples(drop: Drop, most: int) -> list[str]:
    """The first examples of a drop, as lines. A pair of duplicates has two excerpts, any other example one."""
    lines = []
    shown = 0
    for example in _read(drop.examples_file):
        reason = example.get("reason") or f"{example['kind']} duplicate"
        # An example's reason may have details behind a colon.
        details = reason.removeprefix(drop.reason)
        own = reason.startswith(drop.reason) and details[:1] in ("", ":")
        if shown == most or not own or drop.source not in example.get("sources", [example.get("source")]):
            continue
        shown += 1
        place = f"{example['file']}:{example['row']}" if "row" in example else "(place unknown)"
        lines.append(f"  {place} {details.lstrip(': ')}".rstrip())
        if "kept" in example:
            lines += [f"    {which:<7}  {one_line(example[which])}" for which in ("kept", "dropped")]
        else:
            lines.append(f"    {one_line(example['excerpt'])}")
    return ["", f"{drop.source}: {drop.reason} ({drop.stage}), {shown:,} of {drop.number:,}", *lines]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (FileNotFoundError, ValueError):
        stage = path.parent.parent.name
        message = f"{path} is missing or was changed after it was made. Run the same build again with: --force {stage}"
        raise ParakeetError(message) from None
