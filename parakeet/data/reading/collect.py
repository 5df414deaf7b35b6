"""The stage `documents`: every record of the recipe's sources as a document, or as a counted problem."""

import json
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, replace_file
from parakeet.data.documents import collect_parts
from parakeet.data.questions import Question, write_questions
from parakeet.data.reading.pieces import divided
from parakeet.data.reading.records import EXCERPT_CHARACTERS, Problem, excerpt_of
from parakeet.data.reading.sources import fetched_files, source_files, source_root
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SOURCE_FILES, FileSource, RecordSource, Source, SyntheticSource
from parakeet.sanitise import sanitise

PROBLEMS_FILE = "problems.jsonl"
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
"""What stands in good published sets too: such records are left out, and say nothing against the others."""
MOST_NORMAL = 0.5
MOST_FAULTY = 0.01
HOPELESS_FAULTY = 1000
HOPELESS_BAD = 10_000
"""Without a document among them. More, since a set may be sorted by length, with what is empty first."""
PROBLEMS_KEPT = 100
PROBLEMS_SHOWN = 5


@dataclass
class Tally:
    """What became of a source's records, or of a task's: `records` = `documents` + `bad` + `not_taken`."""

    files: int = 0
    records: int = 0
    documents: int = 0
    bytes: int = 0
    not_taken: int = 0
    bad_reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.bad_reasons.total()

    @property
    def faulty(self) -> int:
        """Records that are bad for a reason which is not normal."""
        return sum(number for reason, number in self.bad_reasons.items() if reason not in NORMAL_REASONS)

    @property
    def taken(self) -> int:
        return self.records - self.not_taken

    @property
    def is_too_faulty(self) -> bool:
        """More than 1 % of the taken records are faulty, or more than one where fewer than 100 were taken."""
        return self.faulty > max(1, MOST_FAULTY * self.taken)

    @property
    def is_hopeless(self) -> bool:
        """Whether a task may end here: most of its records are faulty, or there is not one document."""
        mostly_faulty = self.faulty >= HOPELESS_FAULTY and 2 * self.faulty > self.taken
        return mostly_faulty or (self.documents == 0 and self.bad >= HOPELESS_BAD)

    def reject(self, problem: Problem, where: dict[str, Any], content: Any) -> None:
        self.bad_reasons[problem.reason] += 1
        if self.bad_reasons[problem.reason] <= PROBLEMS_KEPT:
            excerpt = " ".join(sanitise(excerpt_of(content)[: 4 * EXCERPT_CHARACTERS]).split())
            reason = " ".join(sanitise(str(problem)).split())
            self.problems.append({**where, "reason": reason, "excerpt": excerpt[:EXCERPT_CHARACTERS]})

    def add(self, other: "Tally") -> None:
        """Count what comes behind this; of each reason's problems the first are kept."""
        seen = Counter(self.bad_reasons)
        for problem in other.problems:
            seen[reason_of(problem)] += 1
            if seen[reason_of(problem)] <= PROBLEMS_KEPT:
                self.problems.append(problem)
        self.records += other.records
        self.documents += other.documents
        self.bytes += other.bytes
        self.not_taken += other.not_taken
        self.bad_reasons += other.bad_reasons
        self.notes += other.notes

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(vars(self)))

    @classmethod
    def load(cls, path: Path) -> "Tally":
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "bad_reasons": Counter(values["bad_reasons"]), "notes": Counter(values["notes"])})

    def counts(self, licence: str) -> dict[str, Any]:
        return {
            "files": self.files,
            "records": self.records,
            "documents": self.documents,
            "bytes": self.bytes,
            "bad": self.bad,
            "not_taken": self.not_taken,
            "bad_reasons": dict(sorted(self.bad_reasons.items())),
            "notes": dict(sorted(self.notes.items())),
            "licence": licence,
        }


def reason_of(problem: dict[str, Any]) -> str:
    """The reason of a problem that was kept, without what is particular to it."""
    return str(problem["reason"]).partition(": ")[0]


def collect_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write all sources' documents in the recipe's order into `output`, a directory that may hold an earlier try.

    Beside the Parquet parts it writes `problems.jsonl` (source, file, row, reason, excerpt; the first 100 of each
    source and reason) and `questions.jsonl` (source, task, prompt, answer: the held-out questions of synthetic
    sources). A document's metadata says where it stood: `file`, relative to the source's folder, and `row`.
    `inputs` holds the folders of remote sources, as `source_files/<name>`. Of a text file, one record is one document
    made of it, or one line that is no text. Where `recipe.limit` is below 1, a systematic sample of the records is
    taken; of a remote source so much less as was not fetched.

    Returns {"documents", "records", "bytes", "sources": {name: {"files", "records", "documents", "bytes", "bad",
    "not_taken", "bad_reasons", "notes", "licence"}}}; bytes are UTF-8 bytes of content, records are documents, bad
    ones and those not taken. A record in which a held-out question stands is a bad one.

    What is normal in published sets (`NORMAL_REASONS`: held-out questions, roles that do not alternate, no reply, empty
    conversations, turns and texts) is left out, counted and told. Raises ParakeetError where a source gives no
    document, where more than half of its taken records are left out for such a reason, or where more than 1 % of
    them are bad for another; where fewer than 100 are taken, one may be.
    """
    from parakeet.data.part_steps import WriteDocuments
    from parakeet.data.reading.collecting_steps import ReadRecords
    from parakeet.data.tasks import run_tasks, watch

    work = output / "work"
    write_questions(output, _questions(recipe))
    tallies = {source.name: Tally() for source in recipe.sources}
    of_source = _plan_tasks(recipe, inputs, work, tallies)
    steps = [ReadRecords(recipe.sources, _shares(recipe, inputs), output, work), WriteDocuments(work / "kept")]
    with progress.task("documents", _megabytes(work / "tasks"), "MB") as task, watch(task, work / "counts"):
        run_tasks(steps, len(of_source), recipe.executor, work / "reading")
    for number, name in enumerate(of_source):
        tallies[name].add(Tally.load(work / "tallies" / f"{number:05d}.json"))
    with (output / PROBLEMS_FILE).open("w", encoding="utf-8") as problems:
        problems.writelines(json.dumps(problem) + "\n" for tally in tallies.values() for problem in tally.problems)
    for source in recipe.sources:
        _judge(source, tallies[source.name], progress)
    collect_parts(work / "kept", output)
    return {
        "documents": sum(tally.documents for tally in tallies.values()),
        "records": sum(tally.records for tally in tallies.values()),
        "bytes": sum(tally.bytes for tally in tallies.values()),
        "sources": {source.name: tallies[source.name].counts(source.licence) for source in recipe.sources},
    }


def _shares(recipe: Recipe, inputs: Mapping[str, Path]) -> dict[str, Fraction]:
    """How much is taken of the records that each source has here, by name; at most all."""
    limit = Fraction(str(recipe.limit))
    shares = {source.name: limit for source in recipe.sources}
    if limit < 1:
        for stage, folder in inputs.items():
            fetched = Fraction(str(Artifact.open(folder).counts["share"]))
            shares[stage.removeprefix(f"{SOURCE_FILES}/")] = limit / max(limit, fetched)
    return shares


def _plan_tasks(recipe: Recipe, inputs: Mapping[str, Path], work: Path, tallies: dict[str, Tally]) -> list[str]:
    """Write `tasks/<number>.json` for every task, and give each one's source. Counts the sources' files."""
    (work / "tasks").mkdir(parents=True, exist_ok=True)
    of_source: list[str] = []
    for source in recipe.sources:
        if isinstance(source, SyntheticSource):
            tasks: list[dict[str, Any]] = [{"pieces": []}]
        else:
            files, root = _files(source, inputs)
            tallies[source.name].files = len(files)
            tasks = [{"pieces": [asdict(piece) for piece in pieces]} for pieces in divided(files, root)]
        for number, task in enumerate(tasks):
            content = json.dumps({"source": source.name, "first": number == 0, **task})
            replace_file(work / "tasks" / f"{len(of_source):05d}.json", content)
            of_source.append(source.name)
    return of_source


def _megabytes(tasks: Path) -> float | None:
    """What the tasks read of files, in millions of bytes; None where it is nothing."""
    pieces = [piece for path in tasks.iterdir() for piece in json.loads(path.read_text(encoding="utf-8"))["pieces"]]
    return sum(piece["n_bytes"] for piece in pieces) / 1e6 or None


def _files(source: RecordSource, inputs: Mapping[str, Path]) -> tuple[list[Path], Path]:
    """The files of a source, and the folder that their names are told relative to."""
    if isinstance(source, FileSource):
        return source_files(source), source_root(source)
    folder = inputs[f"{SOURCE_FILES}/{source.name}"]
    return fetched_files(folder, source.name), folder


def _judge(source: Source, tally: Tally, progress: Progress) -> None:
    """Refuse a source that cannot be used, or say what was left out of it."""
    if tally.records == 0:
        where = f" ({source.path})" if isinstance(source, FileSource) else ""
        message = f"Source {source.name}{where} is empty: there is no record in it. Fill it, or take it out."
        raise ParakeetError(sanitise(message))
    if tally.taken == 0:
        raise ParakeetError(f"Source {source.name}: the limit takes none of its {tally.records:,} records. Raise it.")
    if tally.is_too_faulty or tally.bad - tally.faulty > MOST_NORMAL * tally.taken or tally.documents == 0:
        raise refusal(source, tally)
    if tally.bad:
        progress.say(f"{source.name}: {tally.bad:,} of {tally.taken:,} records left out. The first:")
        for line in _shown(source, tally, tally.bad_reasons):
            progress.say(line)


def refusal(source: Source, tally: Tally) -> ParakeetError:
    """Too many of the records that were read so far are bad: faulty, or left out for a normal reason, or all."""
    reasons, limit = [reason for reason, _ in tally.bad_reasons.most_common()], ""
    if tally.is_too_faulty:
        reasons = [reason for reason in reasons if reason not in NORMAL_REASONS]
        limit = f", and at most {MOST_FAULTY:.0%} may be bad"
    elif tally.documents:
        reasons = [reason for reason in reasons if reason in NORMAL_REASONS]
        limit = f", and at most {MOST_NORMAL:.0%} may be left out like this"
    number = sum(tally.bad_reasons[reason] for reason in reasons)
    return ParakeetError(
        f"Source {source.name}: {number:,} of {tally.taken:,} records cannot be used ({', '.join(reasons)}){limit}. "
        "Correct the file, or the source's columns in the recipe. The first:\n"
        + "\n".join(_shown(source, tally, reasons))
    )


def _shown(source: Source, tally: Tally, reasons: Container[str]) -> list[str]:
    folder = f"{sanitise(str(source_root(source)))}/" if isinstance(source, FileSource) else ""
    problems = [problem for problem in tally.problems if reason_of(problem) in reasons][:PROBLEMS_SHOWN]
    return [f"  {folder}{p['file']}:{p['row']}: {p['reason']}: {p['excerpt']}" for p in problems]


def _questions(recipe: Recipe) -> list[Question]:
    sources = [source for source in recipe.sources if isinstance(source, SyntheticSource)]
    if not sources:
        return []
    from parakeet.data.synthetic import held_out_questions

    return [
        question
        for source in sources
        for question in held_out_questions(recipe.evaluation.questions_per_task, source.seed, source.name)
    ]
