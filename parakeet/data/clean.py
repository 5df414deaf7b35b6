"""The clean_documents stage: normalise the text, and drop what is no use with the reason why.

datatrove runs it, one task per part; only the stage function imports it.
"""

import json
import os
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.documents import Document, count_documents, parts
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Clean, Recipe

EXAMPLES_PER_REASON = 20
EXCERPT_CHARACTERS = 300

_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_MANY_BLANK_LINES = re.compile(r"\n{4,}")

_REMEDIES = {
    "too short": "lower clean.min_characters",
    "too long": "raise clean.max_characters",
    "repetition": "set clean.repetition to false",
    "empty turn": "look for turns without text in the source",
}


def normalise(text: str) -> str:
    """NFC, `\\n` line ends, no control characters, no trailing spaces, at most two blank lines together, stripped.

    Form feeds, vertical tabs and Unicode's own separators end a line too. Byte-order marks and lone surrogates
    go with the control characters. Normalising twice changes nothing.
    """
    text = _REMOVED.sub("", _LINE_END.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    # A regular expression for trailing spaces takes quadratic time on a long run of spaces inside a line.
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _MANY_BLANK_LINES.sub("\n\n\n", text).strip()


def normalise_document(document: Document) -> Document:
    return replace(document, turns=tuple(Turn(turn.role, normalise(turn.content)) for turn in document.turns))


def fault_of(document: Document, settings: Clean) -> str | None:
    """Why a normalised document is dropped for its size or an empty turn, or None."""
    if not document.is_plain and not all(turn.content for turn in document.turns):
        return "empty turn"
    characters = len(document.content)
    if characters < settings.min_characters:
        return "too short"
    return "too long" if characters > settings.max_characters else None


class Tally:
    """Documents kept and dropped by source and reason, with the first few examples of each."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.examples: list[dict[str, str]] = []

    def count(self, document: Document, reason: str | None) -> None:
        """Count one document: kept where `reason` is None."""
        if reason is None:
            self.kept[document.source] += 1
            return
        excerpt = document.content[:EXCERPT_CHARACTERS]
        self._drop(document.source, reason, 1, [{"source": document.source, "reason": reason, "excerpt": excerpt}])

    def add(self, other: "Tally") -> None:
        """Count what a later part counted."""
        self.kept.update(other.kept)
        for source, reasons in other.dropped.items():
            for reason, number in reasons.items():
                examples = [e for e in other.examples if (e["source"], e["reason"]) == (source, reason)]
                self._drop(source, reason, number, examples)

    def _drop(self, source: str, reason: str, number: int, examples: list[dict[str, str]]) -> None:
        room = max(0, EXAMPLES_PER_REASON - self.dropped[source][reason])
        self.examples += examples[:room]
        self.dropped[source][reason] += number

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"kept": self.kept, "dropped": self.dropped, "examples": self.examples}
        path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tally":
        values = json.loads(path.read_text(encoding="utf-8"))
        tally = cls()
        tally.kept.update(values["kept"])
        for source, reasons in values["dropped"].items():
            tally.dropped[source].update(reasons)
        tally.examples = values["examples"]
        return tally

    def summary(self) -> dict[str, dict[str, Any]]:
        """`{source: {"kept": n, "dropped": {reason: n}}}`, sorted."""
        names = sorted({*self.kept, *self.dropped})
        return {name: {"kept": self.kept[name], "dropped": dict(sorted(self.dropped[name].items()))} for name in names}


def clean_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write the documents that are kept, in order, and `dropped.jsonl` with examples of the others.

    Returns the counts of documents kept and dropped, over all and by source and reason. Raises ParakeetError
    where nothing is kept.
    """
    from parakeet.data.steps import CleanDocuments, ReadPart, WriteDocuments, run_tasks, watch

    paths = parts(inputs["documents"])
    total = count_documents(inputs["documents"])
    work = output / "work"
    work.mkdir()
    steps = [
        ReadPart(paths, work / "read"),
        CleanDocuments(recipe.clean, work / "tallies"),
        WriteDocuments(work / "kept"),
    ]
    with progress.task("Clean", total, "documents") as task, watch(task, work / "read"):
        run_tasks(steps, tasks=len(paths), workers=min(os.cpu_count() or 1, len(paths)), logs=work / "logs")
    tally = Tally()
    for path in sorted((work / "tallies").iterdir()):
        tally.add(Tally.load(path))
    kept, sources = tally.kept.total(), tally.summary()
    if kept == 0:
        raise ParakeetError(_nothing_left(total, sources))
    _collect_parts(work / "kept", output)
    with (output / "dropped.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in tally.examples)
    shutil.rmtree(work)
    return {"documents": kept, "dropped": total - kept, "sources": sources}


def _collect_parts(folder: Path, output: Path) -> None:
    """Number the tasks' parts through, leaving out those of tasks that kept nothing."""
    written = [path for task in sorted(folder.iterdir()) if count_documents(task) for path in parts(task)]
    for number, path in enumerate(written):
        path.rename(output / f"part-{number:05d}.parquet")


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
