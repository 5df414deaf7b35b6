"""The stage `documents`: every record of the recipe's sources becomes a document or a counted problem."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, replace_file
from parakeet.data.documents import Document, WriteDocuments, collect_parts
from parakeet.data.questions import LeakSearch, read_questions, write_questions
from parakeet.data.reading.counts import HELD_OUT_QUESTION, RecordCounts
from parakeet.data.reading.pieces import Piece
from parakeet.data.reading.records import Problem
from parakeet.data.reading.source_readers import RecordReader, reader_of
from parakeet.data.tasks import count, run_tasks, watch
from parakeet.errors import ParakeetError
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.sanitise import sanitise

PROBLEMS_FILE = "problems.jsonl"
COUNT_EVERY = 256


def collect_documents(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Write the documents of all sources, in the recipe's order, to `output`, resuming what an earlier run left there.

    Beside the Parquet parts it writes `problems.jsonl` (source, file, row, reason, excerpt; the first 100 of each
    source and reason) and `questions.jsonl` (source, task, prompt, answer: the held-out questions of synthetic
    sources). A document's metadata holds its place: `file`, relative to the source's folder, and `row`. `inputs` holds
    the folders of downloaded sources, as `source_files/<name>`. A record of a text file is one block of it, or one line
    that is not text. If `recipe.limit` is below 1, a systematic sample of the records is taken; of a downloaded source
    correspondingly more, because only a part of it was downloaded.

    Returns {"documents", "records", "bytes", "sources": {name: {"files", "records", "documents", "bytes", "bad",
    "not_taken", "bad_reasons", "notes", "unused_columns", "licence"}}}. Bytes are UTF-8 bytes of content. Every record
    is a document, bad or not taken. A record that contains a held-out question is bad.

    Records that are unusable for a normal reason (`NORMAL_REASONS` in counts.py) are left out, counted and reported.
    Raises ParakeetError if a source gives no document, if more than half of its taken records are left out for a normal
    reason, or if more than its `bad_records` of them are bad for another one; one may always be bad.
    """
    readers = [reader_of(source) for source in recipe.sources]
    work = output / "work"
    write_questions(output, [q for r in readers for q in r.questions(recipe.evaluation.questions_per_task)])
    counts = {reader.source.name: reader.counts() for reader in readers}
    of_source = _plan_tasks(readers, inputs, work, counts)
    steps = [
        ReadRecords({reader.source.name: reader for reader in readers}, _shares(recipe, inputs), output, work),
        WriteDocuments(work / "kept"),
    ]
    with progress.task("documents", _file_bytes(work / "tasks"), BYTES) as task, watch(task, work / "counts"):
        run_tasks(steps, len(of_source), recipe.executor, work / "reading")
    for number, name in enumerate(of_source):
        counts[name].add(RecordCounts.load(work / "tallies" / f"{number:05d}.json"))
    with (output / PROBLEMS_FILE).open("w", encoding="utf-8") as problems:
        problems.writelines(json.dumps(problem) + "\n" for one in counts.values() for problem in one.problems)
    for reader in readers:
        _judge(reader, counts[reader.source.name], progress)
    collect_parts(work / "kept", output)
    return {
        "documents": sum(one.documents for one in counts.values()),
        "records": sum(one.records for one in counts.values()),
        "bytes": sum(one.bytes for one in counts.values()),
        "sources": {source.name: counts[source.name].summary(source.licence) for source in recipe.sources},
    }


@dataclass(frozen=True)
class ReadRecords:
    """First step: the documents of the task that `tasks/<rank>.json` describes, without those that hold a question.

    `shares` says how much of each source is taken. `tallies/<rank>.json` reports what became of each record,
    `counts/<rank>` how many bytes of the files were read, for `watch`.
    """

    readers: Mapping[str, RecordReader] = field(repr=False)
    shares: Mapping[str, Fraction]
    questions: Path
    work: Path

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        task = json.loads((self.work / "tasks" / f"{rank:05d}.json").read_text(encoding="utf-8"))
        reader, share = self.readers[task["source"]], self.shares[task["source"]]
        pieces = [Piece(**piece) for piece in task["pieces"]]
        n_bytes = sum(piece.n_bytes for piece in pieces)
        counts = reader.counts()
        leaks = LeakSearch(read_questions(self.questions))
        for document in reader.documents(pieces, task["first"], share, counts):
            if question := leaks.find(document):
                # A generated dialogue has no place, so its number is shown instead.
                place = {"source": document.source, "file": "dialogues", "row": counts.records} | document.place
                counts.reject(Problem(HELD_OUT_QUESTION, question), place, document.content)
                continue
            counts.documents += 1
            counts.bytes += document.n_bytes
            yield document
            if counts.documents % COUNT_EVERY == 0:
                # How much of a compressed file is left is unknown. Its text is counted, up to the size of the file.
                count(self.work / "counts", rank, min(counts.bytes, n_bytes))
        counts.save(self.work / "tallies" / f"{rank:05d}.json")
        count(self.work / "counts", rank, n_bytes)


def _shares(recipe: Recipe, inputs: Mapping[str, Path]) -> dict[str, Fraction]:
    """How much is taken of the records that are here, by source; at most all."""
    limit = Fraction(str(recipe.limit))
    shares = {source.name: limit for source in recipe.sources}
    if limit < 1:
        for stage, folder in inputs.items():
            fetched = Fraction(str(Artifact.open(folder).counts["share"]))
            shares[stage.removeprefix(f"{SOURCE_FILES}/")] = limit / max(limit, fetched)
    return shares


def _plan_tasks(
    readers: list[RecordReader], inputs: Mapping[str, Path], work: Path, counts: dict[str, RecordCounts]
) -> list[str]:
    """Write `tasks/<number>.json` for every task, and return the source of each. Counts the sources' files."""
    (work / "tasks").mkdir(parents=True, exist_ok=True)
    of_source: list[str] = []
    for reader in readers:
        name = reader.source.name
        counts[name].files, tasks = reader.tasks(inputs)
        for number, pieces in enumerate(tasks):
            content = {"source": name, "first": number == 0, "pieces": [asdict(piece) for piece in pieces]}
            replace_file(work / "tasks" / f"{len(of_source):05d}.json", json.dumps(content))
            of_source.append(name)
    return of_source


def _file_bytes(tasks: Path) -> int | None:
    """What the tasks read of files; None if they read none."""
    pieces = [piece for path in tasks.iterdir() for piece in json.loads(path.read_text(encoding="utf-8"))["pieces"]]
    return sum(piece["n_bytes"] for piece in pieces) or None


def _judge(reader: RecordReader, counts: RecordCounts, progress: Progress) -> None:
    """Refuse a source that cannot be used, or report what was left out of it."""
    name = reader.source.name
    if counts.records == 0:
        where = f" ({reader.path})" if reader.path else ""
        raise ParakeetError(sanitise(f"Source {name}{where} is empty: it holds no record. Fill it, or remove it."))
    if counts.taken == 0:
        raise ParakeetError(f"Source {name}: the limit takes none of its {counts.records:,} records. Raise it.")
    if counts.is_unusable:
        raise counts.refusal(name, reader.folder)
    if counts.bad:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts.bad_reasons.most_common())
        progress.say(f"{name}: {counts.bad:,} of {counts.taken:,} records left out ({reasons}). The first:")
        for line in counts.first_problems(reader.folder, counts.bad_reasons):
            progress.say(line)
    for line in counts.changes():
        progress.say(sanitise(f"{name}: {line}"))
