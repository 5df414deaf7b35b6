"""What cleaning did: documents kept, dropped and found, by source, with the first examples of what was dropped."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.data.cleaning.text_faults import Fault
from parakeet.data.documents import Document

EXAMPLES_PER_REASON = 20
EXCERPT_CHARACTERS = 300


class CleaningCounts:
    """Counts of one task, or of all of them added up in order."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By source and reason."""
        self.found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By source and kind."""
        self.contaminated: Counter[str] = Counter()
        """Documents that share text with each evaluation set."""
        self.records_found: defaultdict[str, set[int]] = defaultdict(set)
        """Numbers of each set's records that share text with a document."""
        self.examples: list[dict[str, Any]] = []

    def drop(self, document: Document, fault: Fault) -> None:
        excerpt = (fault.excerpt or document.content)[:EXCERPT_CHARACTERS]
        example = {"source": document.source, "reason": fault.reason, "excerpt": excerpt} | document.place
        self._drop(document.source, fault.reason, 1, [example])

    def add(self, other: "CleaningCounts") -> None:
        """Add the counts of a later task. The first examples of each reason are kept."""
        self.kept.update(other.kept)
        for source, found in other.found.items():
            self.found[source].update(found)
        self.contaminated.update(other.contaminated)
        for name, records in other.records_found.items():
            self.records_found[name] |= records
        for source, reasons in other.dropped.items():
            for reason, number in reasons.items():
                examples = [e for e in other.examples if (e["source"], e["reason"]) == (source, reason)]
                self._drop(source, reason, number, examples)

    def _drop(self, source: str, reason: str, number: int, examples: list[dict[str, Any]]) -> None:
        room = max(0, EXAMPLES_PER_REASON - self.dropped[source][reason])
        self.examples += examples[:room]
        self.dropped[source][reason] += number

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        contaminated = {name: [n, sorted(self.records_found[name])] for name, n in self.contaminated.items()}
        values = {
            "kept": self.kept,
            "dropped": self.dropped,
            "found": self.found,
            "contaminated": contaminated,
            "examples": self.examples,
        }
        replace_file(path, json.dumps(values, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "CleaningCounts":
        values = json.loads(path.read_text(encoding="utf-8"))
        counts = cls()
        counts.kept.update(values["kept"])
        for source, reasons in values["dropped"].items():
            counts.dropped[source].update(reasons)
        for source, found in values["found"].items():
            counts.found[source].update(found)
        for name, (documents, records) in values["contaminated"].items():
            counts.contaminated[name] = documents
            counts.records_found[name] = set(records)
        counts.examples = values["examples"]
        return counts

    def by_source(self) -> dict[str, dict[str, Any]]:
        """`{source: {"kept": n, "dropped": {reason: n}, "found": {kind: n}}}`, sorted."""
        return {
            name: {
                "kept": self.kept[name],
                "dropped": dict(sorted(self.dropped[name].items())),
                "found": dict(sorted(self.found[name].items())),
            }
            for name in sorted({*self.kept, *self.dropped})
        }
