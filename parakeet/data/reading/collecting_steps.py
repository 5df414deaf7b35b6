"""The datatrove step that reads sources. Only the stage function imports this module: it brings datatrove with it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep

from parakeet.data.documents import Document
from parakeet.data.questions import LeakSearch, read_questions
from parakeet.data.reading.collect import HELD_OUT_QUESTION, Tally, refusal
from parakeet.data.reading.pieces import Piece
from parakeet.data.reading.records import Problem, Record
from parakeet.data.reading.sampling import is_sampled, synthetic_count
from parakeet.data.reading.shapes import BadRecord, shape
from parakeet.data.tasks import count
from parakeet.recipe_sources import RecordSource, Source, SyntheticSource
from parakeet.sanitise import sanitise

COUNT_EVERY = 256


class ReadRecords(PipelineStep):
    """Documents of the records of one task, which `tasks/<task>.json` lists; those with a held-out question are bad.

    Of each source the share in `shares` is taken, by name. `tallies/<task>.json` says what became of each record,
    `counts/<task>` how many megabytes of the files were read, for `watch`. A task most of whose records are bad ends at
    once: hours later it would be refused all the same.
    """

    name = "Read records"
    type = "Reader"

    def __init__(self, sources: Sequence[Source], shares: Mapping[str, Fraction], questions: Path, work: Path) -> None:
        super().__init__()
        self.sources = {source.name: source for source in sources}
        self.shares = dict(shares)
        self.questions = questions
        self.work = work

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        task = json.loads((self.work / "tasks" / f"{rank:05d}.json").read_text(encoding="utf-8"))
        source = self.sources[task["source"]]
        tally = Tally()
        leaks = LeakSearch(read_questions(self.questions))
        for document in self._documents(source, task, tally):
            if question := leaks.find(document):
                tally.reject(Problem(HELD_OUT_QUESTION, question), _place(document, tally), document.content)
                continue
            tally.documents += 1
            tally.bytes += document.n_bytes
            yield Item(text="", id=str(tally.records), metadata={"document": document})
            if tally.documents % COUNT_EVERY == 0:
                count(self.work / "counts", rank, _megabytes_read(task["pieces"], tally))
        tally.save(self.work / "tallies" / f"{rank:05d}.json")
        count(self.work / "counts", rank, sum(piece["n_bytes"] for piece in task["pieces"]) / 1e6)

    def _documents(self, source: Source, task: dict[str, Any], tally: Tally) -> Iterator[Document]:
        share = self.shares[source.name]
        if isinstance(source, SyntheticSource):
            yield from _synthetic(source, share, tally)
            return
        pieces = [Piece(**piece) for piece in task["pieces"]]
        index = pieces[0].rows_before
        for piece in pieces:
            for record in piece.records(source.separator):
                tally.records += 1
                if is_sampled(index, share) or (task["first"] and tally.records == 1):
                    yield from _document(record, piece.name, source, tally)
                else:
                    tally.not_taken += 1
                index += 1
                if tally.is_hopeless:
                    raise refusal(source, tally)


def _megabytes_read(pieces: Sequence[dict[str, Any]], tally: Tally) -> float:
    """By the text that came out of them, and at most what they hold: a compressed file says no more of its end."""
    return min(tally.bytes, sum(piece["n_bytes"] for piece in pieces)) / 1e6


def _place(document: Document, tally: Tally) -> dict[str, Any]:
    """Where a document stands; of a source that is written here, its number."""
    file, row = document.metadata.get("file", "dialogues"), document.metadata.get("row", tally.records)
    return {"source": document.source, "file": file, "row": row}


def _synthetic(source: SyntheticSource, share: Fraction, tally: Tally) -> Iterator[Document]:
    from parakeet.data.synthetic import dialogues

    for dialogue in dialogues(count=synthetic_count(source, share), seed=source.seed):
        tally.records += 1
        metadata = {"task": dialogue.task, "held_out": dialogue.split == "held_out"}
        yield Document(source.name, source.licence, dialogue.turns, metadata)


def _document(record: Record, name: str, source: RecordSource, tally: Tally) -> Iterator[Document]:
    file = sanitise(f"{name}/{record.member}" if record.member else name)
    if record.value is None:
        assert record.problem is not None
        _reject(record, record.problem, record.excerpt, file, source, tally)
        return
    try:
        shaped = shape(record.value, source)
    except BadRecord as error:
        _reject(record, error.problem, record.value, file, source, tally)
        return
    if shaped.note:
        tally.notes[shaped.note] += 1
    document = shaped.document
    yield replace(document, metadata={**document.metadata, "file": file, "row": record.row})


def _reject(record: Record, problem: Problem, content: Any, file: str, source: RecordSource, tally: Tally) -> None:
    tally.reject(problem, {"source": source.name, "file": file, "row": record.row}, content)
