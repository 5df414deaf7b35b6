"""What became of a source's records, and when there are too many bad ones among them."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.data.reading.records import EXCERPT_CHARACTERS, Problem, excerpt_of
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent, one_line
from parakeet.recipe_sources import MOST_BAD

HELD_OUT_QUESTION = "held-out question"
NORMAL_REASONS = frozenset(
    (
        HELD_OUT_QUESTION,
        "no Human turn",
        "no reply",
        "empty conversation",
        "empty turn",
        "empty text",
        "tool calls",
        "unknown speaker",
        "content is not text",
    )
)
"""Reasons that occur in good published sets too. They are left out without casting doubt on the other records."""
MOST_NORMAL = 0.5
MOSTLY_FAULTY = 0.5
HOPELESS_FAULTY = 1000
HOPELESS_BAD = 10_000
"""Without a single document. More than above, because a set may be sorted by length, with the empty records first."""
PROBLEMS_KEPT = 100
PROBLEMS_SHOWN = 5
COLUMNS_NAMED = 100
COLUMNS_SHOWN = 6
OTHER_COLUMNS = "other columns"
"""All that are not among the first `COLUMNS_NAMED`: the keys of records may be data themselves."""
REMEDIES = {
    "unknown columns": "name the columns in the recipe, such as columns: {text: NAME}, columns: {messages: NAME} or "
    "columns: {human: NAME, assistant: NAME}",
    **dict.fromkeys(
        ("malformed turn", "not a list of turns"),
        "name the columns in the recipe, such as columns: {messages: NAME, role: NAME, content: NAME} or "
        "columns: {alternating: NAME}",
    ),
    "broken JSON": "write it again with one JSON object on each line, without commas between them",
    "invalid UTF-8": "save it as UTF-8, such as with: iconv -f WINDOWS-1252 -t UTF-8",
    "NUL byte": "save it as text in UTF-8",
    **dict.fromkeys(
        ("wrong number of values", "broken quotes"),
        "write it again with quotes around the values that hold the delimiter, quotes or line ends",
    ),
    "unknown speaker": "say in the recipe who they are, such as speakers: {NAME: assistant}",
}
"""What to do about a reason, other than to correct the file."""


@dataclass
class RecordCounts:
    """The records of a source or of one task: `records` = `documents` + `bad` + `not_taken`.

    `most_faulty` is the share of faulty records that the source may have. `unused_columns` counts the documents of
    which a column (or key of a turn) went nowhere, `unused_text` those of them where it holds text.
    """

    most_faulty: float = MOST_BAD
    files: int = 0
    records: int = 0
    documents: int = 0
    bytes: int = 0
    not_taken: int = 0
    bad_reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    """Files, and members of archives, that are left out, by ending."""
    unused_columns: Counter[str] = field(default_factory=Counter)
    unused_text: Counter[str] = field(default_factory=Counter)
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
        """More of the taken records are faulty than may be, and more than one."""
        return self.faulty > max(1, self.most_faulty * self.taken)

    @property
    def most_normal(self) -> float:
        """The share of records that may be left out for normal reasons."""
        return max(MOST_NORMAL, self.most_faulty)

    @property
    def is_unusable(self) -> bool:
        """Too faulty, more than half left out for normal reasons, or no document at all."""
        return self.is_too_faulty or self.bad - self.faulty > self.most_normal * self.taken or self.documents == 0

    @property
    def is_hopeless(self) -> bool:
        """Whether a task can stop early: most of its records are faulty, or none of many gave a document."""
        mostly_faulty = (
            self.faulty >= HOPELESS_FAULTY and self.faulty > max(MOSTLY_FAULTY, self.most_faulty) * self.taken
        )
        return mostly_faulty or (self.documents == 0 and self.bad >= HOPELESS_BAD)

    def reject(self, problem: Problem, place: dict[str, Any], content: Any) -> None:
        """Count a bad record. `place` names its source, file and row."""
        self.bad_reasons[problem.reason] += 1
        if self.bad_reasons[problem.reason] <= PROBLEMS_KEPT:
            excerpt = one_line(excerpt_of(content)[: 4 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]
            self.problems.append({**place, "reason": one_line(str(problem)), "excerpt": excerpt})

    def count_changes(self, notes: Iterable[str], unused: Mapping[str, bool]) -> None:
        """Count what was done to a record that became a document."""
        self.notes.update(notes)
        for name, is_text in unused.items():
            self._count_unused(name, 1, int(is_text))

    def _count_unused(self, name: str, number: int, with_text: int) -> None:
        is_named = name in self.unused_columns or len(self.unused_columns) < COLUMNS_NAMED
        key = name if is_named else OTHER_COLUMNS
        self.unused_columns[key] += number
        self.unused_text[key] += with_text

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
        for name, number in other.unused_columns.items():
            self._count_unused(name, number, other.unused_text[name])

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(vars(self)))

    @classmethod
    def load(cls, path: Path) -> "RecordCounts":
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values |= {key: Counter(value) for key, value in values.items() if isinstance(value, dict)}
        return cls(**values)

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
            "unused_columns": self._unused(),
            "licence": licence,
        }

    def _unused(self) -> dict[str, int]:
        """Those with text first, then the most frequent."""
        columns = sorted(self.unused_columns.items(), key=lambda item: (-self.unused_text[item[0]], -item[1], item[0]))
        return dict(columns)

    def changes(self) -> list[str]:
        """Lines for a person: what was left out of the documents or changed in them."""
        lines = [f"{note} ({number:,} of {self.documents:,} documents)" for note, number in self.notes.most_common()]
        unused = [f"{name} ({number:,})" for name, number in self._unused().items()]
        if unused:
            more = f" and {len(unused) - COLUMNS_SHOWN:,} more" if len(unused) > COLUMNS_SHOWN else ""
            lines.append(f"columns that are not used: {', '.join(unused[:COLUMNS_SHOWN])}{more}")
        return lines

    def first_problems(self, folder: str, reasons: Container[str]) -> list[str]:
        """Lines for a person. `folder` is put before the files' names, so that a terminal can open them."""
        problems = [problem for problem in self.problems if _reason_of(problem) in reasons][:PROBLEMS_SHOWN]
        return [f"  {folder}{p['file']}:{p['row']}: {p['reason']}: {p['excerpt']}" for p in problems]

    def refusal(self, source: str, folder: str) -> ParakeetError:
        """The error for a source that is unusable or hopeless."""
        reasons, limit = [reason for reason, _ in self.bad_reasons.most_common()], ""
        remedy = "the source's columns in the recipe"
        if self.is_too_faulty:
            reasons = [reason for reason in reasons if reason not in NORMAL_REASONS]
            limit = f", and at most {format_percent(self.most_faulty, 0)} may be bad (sources[].bad_records)"
        elif self.documents:
            reasons = [reason for reason in reasons if reason in NORMAL_REASONS]
            limit = f", and at most {format_percent(self.most_normal, 0)} may be left out like this"
            remedy = "allow more with sources[].bad_records in the recipe"
        number = sum(self.bad_reasons[reason] for reason in reasons)
        remedies = dict.fromkeys(REMEDIES[reason] for reason in reasons if reason in REMEDIES) or [remedy]
        # In a folder, what is no training text may be the reason: settings, package.json, a table of contents.
        several = len({problem["file"] for problem in self.problems}) > 1
        files = f"files, or read only some of them, such as {folder}**/*.txt" if several else "file"
        return ParakeetError(
            f"Source {source}: {number:,} of {self.taken:,} records cannot be used ({', '.join(reasons)}){limit}. "
            f"Correct the {files}, or {'; '.join(remedies)}. The first:\n"
            + "\n".join(self.first_problems(folder, reasons))
        )


def _reason_of(problem: dict[str, Any]) -> str:
    """The reason of a recorded problem, without the details of this one."""
    return str(problem["reason"]).partition(": ")[0]
