"""The clean_documents stage: normalise the text, and drop what is no use, or not to be trained on, with the reason why.

datatrove runs it, one task per part; only the stage function imports it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.artifact import replace_file
from parakeet.data.cleaning.text_faults import Fault
from parakeet.data.documents import Document, collect_parts, count_documents, megabytes, parts, refuse_emptied
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

if TYPE_CHECKING:
    from parakeet.data.cleaning.decontaminate import SetCounts

DROPPED_FILE = "dropped.jsonl"
EXAMPLES_PER_REASON = 20
EXCERPT_CHARACTERS = 300

_REMEDIES = {
    "too short": "lower clean.min_characters",
    "too long": "raise clean.max_characters",
    "language": "add to clean.languages",
    "boilerplate": "set clean.boilerplate to keep",
    "repetition": "set clean.repetition to null",
    "quality": "set clean.quality to null",
    "contaminated": "take text that is not in decontamination.sets",
    "empty turn": "look for turns without text in the source",
    "only control tokens": "look for turns without text in the source",
}


@dataclass
class Contamination:
    """How many documents share text with an evaluation set, and with which of its records (by number)."""

    documents: int = 0
    records: set[int] = field(default_factory=set)

    def add(self, records: Sequence[int]) -> None:
        """Count a document that shares text with these records."""
        self.documents += 1
        self.records.update(records)


class Tally:
    """What became of documents: by source the kept, the dropped by reason and what was found; the first examples."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.contaminated: defaultdict[str, Contamination] = defaultdict(Contamination)
        self.examples: list[dict[str, Any]] = []

    def drop(self, document: Document, fault: Fault) -> None:
        """Count a document that is dropped."""
        excerpt = (fault.excerpt or document.content)[:EXCERPT_CHARACTERS]
        example = {"source": document.source, "reason": fault.reason, "excerpt": excerpt}
        example |= {key: document.metadata[key] for key in ("file", "row") if key in document.metadata}
        self._drop(document.source, fault.reason, 1, [example])

    def add(self, other: "Tally") -> None:
        """Count what a later part counted."""
        self.kept.update(other.kept)
        for source, found in other.found.items():
            self.found[source].update(found)
        for name, contamination in other.contaminated.items():
            self.contaminated[name].documents += contamination.documents
            self.contaminated[name].records |= contamination.records
        for source, reasons in other.dropped.items():
            for reason, number in reasons.items():
                examples = [e for e in other.examples if (e["source"], e["reason"]) == (source, reason)]
                self._drop(source, reason, number, examples)

    def _drop(self, source: str, reason: str, number: int, examples: list[dict[str, Any]]) -> None:
        room = max(0, EXAMPLES_PER_REASON - self.dropped[source][reason])
        self.examples += examples[:room]
        self.dropped[source][reason] += number

    def save(self, path: Path) -> None:
        """Write it so that whoever reads finds all of it or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        contaminated = {name: [c.documents, sorted(c.records)] for name, c in self.contaminated.items()}
        values = {
            "kept": self.kept,
            "dropped": self.dropped,
            "found": self.found,
            "contaminated": contaminated,
            "examples": self.examples,
        }
        replace_file(path, json.dumps(values, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Tally":
        values = json.loads(path.read_text(encoding="utf-8"))
        tally = cls()
        tally.kept.update(values["kept"])
        for source, reasons in values["dropped"].items():
            tally.dropped[source].update(reasons)
        for source, found in values["found"].items():
            tally.found[source].update(found)
        for name, (documents, records) in values["contaminated"].items():
            tally.contaminated[name] = Contamination(documents, set(records))
        tally.examples = values["examples"]
        return tally

    def summary(self) -> dict[str, dict[str, Any]]:
        """`{source: {"kept": n, "dropped": {reason: n}, "found": {kind: n}}}`, sorted."""
        return {
            name: {
                "kept": self.kept[name],
                "dropped": dict(sorted(self.dropped[name].items())),
                "found": dict(sorted(self.found[name].items())),
            }
            for name in sorted({*self.kept, *self.dropped})
        }


def clean_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write the documents that are kept, in order, and `dropped.jsonl` with examples of the others.

    Returns {"documents", "dropped", "sources": {name: {"kept", "dropped": {reason: n}, "found": {kind: n}}},
    "evaluation_sets": {name: {"records", "short", "bad", "found", "documents"}}}. What is found, in so many documents:
    "mended" (of all), "boilerplate" (of those that nothing before it dropped), "e-mail", "phone" and "IP address" (of
    the kept). Of a set's records that are looked for, so many are `found`, in so many dropped `documents`.

    Goes on where an interrupted try stopped. Raises ParakeetError where nothing is kept, an evaluation set cannot be
    read, or a language is unknown.
    """
    from parakeet.data.cleaning.cleaning_steps import CleanDocuments
    from parakeet.data.cleaning.language import language_guesser
    from parakeet.data.part_steps import ReadPart, WriteDocuments
    from parakeet.data.tasks import run_tasks, watch

    paths = parts(inputs["documents"])
    total = count_documents(inputs["documents"])
    work = output / "work"
    if recipe.clean.languages:
        language_guesser(recipe.clean.languages)
    sets, index = _evaluation_sets(recipe, inputs, work / "evaluation_sets.npz", progress)
    steps = [
        ReadPart([[path] for path in paths], work / "read"),
        CleanDocuments(recipe.clean, work / "tallies", index),
        WriteDocuments(work / "kept"),
    ]
    with progress.task("cleaning", megabytes(paths), "MB") as task, watch(task, work / "read"):
        run_tasks(steps, len(paths), recipe.executor, work / "cleaning")
    tally = Tally()
    for path in sorted((work / "tallies").glob("[0-9]*")):
        tally.add(Tally.load(path))
    kept, sources = tally.kept.total(), tally.summary()
    if kept == 0:
        raise ParakeetError(_nothing_left(total, sources))
    refuse_emptied(recipe, tally.kept, "cleaning")
    replace_file(output / DROPPED_FILE, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in tally.examples))
    collect_parts(work / "kept", output)
    evaluation_sets = {counts.name: _set_summary(counts, tally) for counts in sets}
    return {"documents": kept, "dropped": total - kept, "sources": sources, "evaluation_sets": evaluation_sets}


def _evaluation_sets(
    recipe: Recipe, inputs: Mapping[str, Path], file: Path, progress: Progress
) -> "tuple[list[SetCounts], Path | None]":
    """The recipe's evaluation sets, and the file of their index; an earlier try's is taken as it is."""
    if not recipe.decontamination.sets:
        return [], None
    from parakeet.data.cleaning.decontaminate import EvaluationIndex, build_index

    if not file.is_file():
        build_index(recipe.decontamination, inputs, progress).save(file)
    return EvaluationIndex.load(file).sets, file


def _set_summary(counts: "SetCounts", tally: Tally) -> dict[str, int]:
    shared = tally.contaminated[counts.name]
    looked_for = {"records": counts.records, "short": counts.short, "bad": counts.bad}
    return {**looked_for, "found": len(shared.records), "documents": shared.documents}


def _nothing_left(total: int, sources: dict[str, dict[str, Any]]) -> str:
    if total == 0:
        return "There is no document to clean: the recipe's sources hold none. Add text to a source."
    reasons: Counter[str] = Counter()
    for source in sources.values():
        reasons.update(source["dropped"])
    counts = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
    remedies = dict.fromkeys(_REMEDIES[reason.split(":")[0]] for reason, _ in reasons.most_common())
    return (
        f"No document is left after cleaning: all {total:,} were dropped ({counts}). "
        f"To keep some, {', or '.join(remedies)}, or add other text."
    )
