"""What became of a source's records, and when there are too many bad ones among them."""

import json
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.data.reading.records import EXCERPT_CHARACTERS, Problem, excerpt_of
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent, one_line

HELD_OUT_QUESTION = "held-out question"
NORMAL_REASONS = frozenset(
    (
        HELD_OUT_QUESTION,
        "roles do not alternate",
        "no reply",
        "empty conversation",
        "empty turn",
        "empty text",
    )
)
"""Reasons that occur in good published sets too. They are left out without casting doubt on the other records."""
MOST_NORMAL = 0.5
MOST_FAULTY = 0.01
HOPELESS_FAULTY = 1000
HOPELESS_BAD = 10_000
"""Without a single document. More than above, because a set may be sorted by length, with the empty records first."""
PROBLEMS_KEPT = 100
PROBLEMS_SHOWN = 5


@dataclass
class RecordCounts:
    """The records of a source or of one task: `records` = `documents` + `bad` + `not_taken`."""

    files: int = 0
    records: int = 0
    documents: int = 0
    bytes: int = 0
    not_taken: int = 0
    bad_reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    """Files, and members of archives, that are left out, by ending."""
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.bad_reasons.total()

    @property
    def faulty(self) -> int:
        """Records that are bad for a reason that is not normal."""
        return sum(number for reason, number in self.bad_reasons.items() if reason not in NORMAL_REASONS)

    @property
    def taken(self) -> int:
        return self.records - self.not_taken

    @property
    def is_too_faulty(self) -> bool:
        """More than 1 % of the taken records are faulty; of fewer than 100, more than one."""
        return self.faulty > max(1, MOST_FAULTY * self.taken)

    @property
    def is_unusable(self) -> bool:
        """Too faulty, more than half left out for normal reasons, or no document at all."""
        return self.is_too_faulty or self.bad - self.faulty > MOST_NORMAL * self.taken or self.documents == 0

    @property
    def is_hopeless(self) -> bool:
        """Whether a task can stop early: most of its records are faulty, or none of many gave a document."""
        mostly_faulty = self.faulty >= HOPELESS_FAULTY and 2 * self.faulty > self.taken
        return mostly_faulty or (self.documents == 0 and self.bad >= HOPELESS_BAD)

    def reject(self, problem: Problem, place: dict[str, Any], content: Any) -> None:
        """Count a bad record. `place` names its source, file and row."""
        self.bad_reasons[problem.reason] += 1
        if self.bad_reasons[problem.reason] <= PROBLEMS_KEPT:
            excerpt = one_line(excerpt_of(content)[: 4 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]
            self.problems.append({**place, "reason": one_line(str(problem)), "excerpt": excerpt})

    def add(self, other: "RecordCounts") -> None:
        """Add the counts of a later task. The first problems of each reason are kept."""
        seen = Counter(self.bad_reasons)
        for problem in other.problems:
            seen[_reason_of(problem)] += 1
            if seen[_reason_of(problem)] <= PROBLEMS_KEPT:
                self.problems.append(problem)
        self.records += other.records
        self.documents += other.documents
        self.bytes += other.bytes
        self.not_taken += other.not_taken
        self.bad_reasons += other.bad_reasons
        self.notes += other.notes
        self.unread += other.unread

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(vars(self)))

    @classmethod
    def load(cls, path: Path) -> "RecordCounts":
        values = json.loads(path.read_text(encoding="utf-8"))
        counters = ("bad_reasons", "notes", "unread")
        return cls(**{**values, **{name: Counter(values.get(name, {})) for name in counters}})

    def summary(self, licence: str) -> dict[str, Any]:
        """The source's entry in the stage's counts."""
        return {
            "files": self.files,
            "records": self.records,
            "documents": self.documents,
            "bytes": self.bytes,
            "bad": self.bad,
            "not_taken": self.not_taken,
            "bad_reasons": dict(sorted(self.bad_reasons.items())),
            "notes": dict(sorted(self.notes.items())),
            "unread": dict(sorted(self.unread.items())),
            "licence": licence,
        }

    def first_problems(self, folder: str, reasons: Container[str]) -> list[str]:
        """Lines for a person. `folder` is put before the files' names, so that a terminal can open them."""
        problems = [problem for problem in self.problems if _reason_of(problem) in reasons][:PROBLEMS_SHOWN]
        return [f"  {folder}{p['file']}:{p['row']}: {p['reason']}: {p['excerpt']}" for p in problems]

    def refusal(self, source: str, folder: str) -> ParakeetError:
        """The error for a source that is unusable or hopeless."""
        reasons, limit = [reason for reason, _ in self.bad_reasons.most_common()], ""
        if self.is_too_faulty:
            reasons = [reason for reason in reasons if reason not in NORMAL_REASONS]
            limit = f", and at most {format_percent(MOST_FAULTY, 0)} may be bad"
        elif self.documents:
            reasons = [reason for reason in reasons if reason in NORMAL_REASONS]
            limit = f", and at most {format_percent(MOST_NORMAL, 0)} may be left out like this"
        number = sum(self.bad_reasons[reason] for reason in reasons)
        return ParakeetError(
            f"Source {source}: {number:,} of {self.taken:,} records cannot be used ({', '.join(reasons)}){limit}. "
            "Correct the file, or the source's columns in the recipe. The first:\n"
            + "\n".join(self.first_problems(folder, reasons))
        )


def _reason_of(problem: dict[str, Any]) -> str:
    """The reason of a recorded problem, without the details of this one."""
    return str(problem["reason"]).partition(": ")[0]
