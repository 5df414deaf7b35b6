"""The stage `documents`: every record of the recipe's sources as a document, or as a counted problem."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.questions import Question, refuse_leaks, write_questions
from parakeet.data.shapes import BadRecord, shape
from parakeet.data.sources import EXCERPT_CHARACTERS, Problem, Record, excerpt_of, read_records, source_files
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.recipe import FileSource, Recipe, SyntheticSource
from parakeet.sanitise import sanitise

PROBLEMS_FILE = "problems.jsonl"
MOST_BAD_RECORDS = 0.01
PROBLEMS_KEPT = 100
PROBLEMS_SHOWN = 5
RECORDS_PER_ADVANCE = 256


@dataclass
class Tally:
    """What became of one source's records: `records` = `documents` + `bad`."""

    licence: str
    files: int = 0
    records: int = 0
    documents: int = 0
    bytes: int = 0
    bad_reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.bad_reasons.total()

    def counts(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "records": self.records,
            "documents": self.documents,
            "bytes": self.bytes,
            "bad": self.bad,
            "bad_reasons": dict(sorted(self.bad_reasons.items())),
            "notes": dict(sorted(self.notes.items())),
            "licence": self.licence,
        }


def collect_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write all sources' documents in the recipe's order into `output`, an existing empty directory.

    Beside the Parquet parts it writes `problems.jsonl` (source, file, row, reason, excerpt; the first 100 of each
    source) and `questions.jsonl` (source, task, prompt, answer: the held-out questions of synthetic sources).
    `inputs` is empty: sources are outside the store. Of a text file, one record is one document made of it, or
    one line that is no text.

    Returns {"documents", "records", "bytes", "sources": {name: {"files", "records", "documents", "bytes", "bad",
    "bad_reasons", "notes", "licence"}}}; bytes are UTF-8 bytes of content, records are documents plus bad ones.
    Raises ParakeetError where a source gives no document, more than 1 % of its records are bad, or the text of a
    held-out question stands in a training document.
    """
    tallies: dict[str, Tally] = {}
    questions: list[Question] = []
    with ExitStack() as stack:
        writer = stack.enter_context(DocumentWriter(output))
        problems = stack.enter_context((output / PROBLEMS_FILE).open("w", encoding="utf-8"))
        for source in recipe.sources:
            tally = tallies[source.name] = Tally(source.licence)
            if isinstance(source, SyntheticSource):
                _collect_synthetic(source, tally, writer, progress)
                questions += _questions(source, recipe.evaluation.questions_per_task)
            else:
                _collect_files(source, tally, writer, progress)
            problems.writelines(json.dumps(problem) + "\n" for problem in tally.problems)
            _refuse_unusable(source, tally)
            if tally.bad:
                progress.say(f"{source.name}: {tally.bad:,} of {tally.records:,} records left out. The first:")
                for line in _shown(tally):
                    progress.say(line)
    write_questions(output, questions)
    refuse_leaks(output, questions)
    return {
        "documents": sum(tally.documents for tally in tallies.values()),
        "records": sum(tally.records for tally in tallies.values()),
        "bytes": sum(tally.bytes for tally in tallies.values()),
        "sources": {name: tally.counts() for name, tally in tallies.items()},
    }


def _collect_files(source: FileSource, tally: Tally, writer: DocumentWriter, progress: Progress) -> None:
    files = source_files(source)
    with progress.task(f"documents of {source.name}", total=None, unit="records") as task:
        for number, path in enumerate(files, start=1):
            tally.files += 1
            for record in _counted(read_records(path), tally, task, f"file {number:,} of {len(files):,}"):
                _take(record, path, source, tally, writer)


def _counted(records: Iterator[Record], tally: Tally, task: Task, note: str) -> Iterator[Record]:
    """Counts each record, and moves the progress in steps, since drawing a bar costs more than a record."""
    before = tally.records
    for record in records:
        tally.records += 1
        if tally.records - before == RECORDS_PER_ADVANCE:
            task.advance(RECORDS_PER_ADVANCE, note)
            before = tally.records
        yield record
    task.advance(tally.records - before, note)


def _take(record: Record, path: Path, source: FileSource, tally: Tally, writer: DocumentWriter) -> None:
    if record.value is None:
        assert record.problem is not None
        _reject(record, record.problem, record.excerpt, path, source, tally)
        return
    try:
        shaped = shape(record.value, source)
    except BadRecord as error:
        _reject(record, error.problem, record.value, path, source, tally)
        return
    _write(shaped.document, tally, writer)
    if shaped.note:
        tally.notes[shaped.note] += 1


def _write(document: Document, tally: Tally, writer: DocumentWriter) -> None:
    writer.write(document)
    tally.documents += 1
    tally.bytes += document.n_bytes


def _reject(record: Record, problem: Problem, content: Any, path: Path, source: FileSource, tally: Tally) -> None:
    tally.bad_reasons[problem.reason] += 1
    if len(tally.problems) < PROBLEMS_KEPT:
        excerpt = " ".join(sanitise(excerpt_of(content)[: 4 * EXCERPT_CHARACTERS]).split())
        tally.problems.append(
            {
                "source": source.name,
                "file": sanitise(str(path)),
                "row": record.row,
                "reason": " ".join(sanitise(str(problem)).split()),
                "excerpt": excerpt[:EXCERPT_CHARACTERS],
            }
        )


def _refuse_unusable(source: FileSource | SyntheticSource, tally: Tally) -> None:
    if tally.records == 0:
        where = f" ({source.path})" if isinstance(source, FileSource) else ""
        message = f"Source {source.name}{where} is empty: there is no record in it. Fill it, or take it out."
        raise ParakeetError(sanitise(message))
    if tally.bad > MOST_BAD_RECORDS * tally.records:
        raise ParakeetError(
            f"Source {source.name}: {tally.bad:,} of {tally.records:,} records cannot be used, and at most "
            f"{MOST_BAD_RECORDS:.0%} may be bad. Correct the file, or the source's columns in the recipe. The first:\n"
            + "\n".join(_shown(tally))
        )


def _shown(tally: Tally) -> list[str]:
    return [f"  {p['file']}:{p['row']}: {p['reason']}: {p['excerpt']}" for p in tally.problems[:PROBLEMS_SHOWN]]


def _collect_synthetic(source: SyntheticSource, tally: Tally, writer: DocumentWriter, progress: Progress) -> None:
    from parakeet.data.synthetic import dialogues

    with progress.task(f"documents of {source.name}", total=source.documents, unit="records") as task:
        for dialogue in dialogues(count=source.documents, seed=source.seed):
            metadata = {"task": dialogue.task, "held_out": dialogue.split == "held_out"}
            _write(Document(source.name, source.licence, dialogue.turns, metadata), tally, writer)
            tally.records += 1
            if tally.records % RECORDS_PER_ADVANCE == 0:
                task.advance(RECORDS_PER_ADVANCE)
        task.advance(tally.records % RECORDS_PER_ADVANCE)


def _questions(source: SyntheticSource, per_task: int) -> list[Question]:
    from parakeet.data.synthetic import held_out_questions

    held_out = held_out_questions(per_task=per_task, seed=source.seed)
    return [Question(source.name, question.task, question.prompt, question.answer) for question in held_out]
