"""How each kind of source becomes documents.

Sources whose files are downloaded first are all read alike, by `RecordReader`: a new kind of them changes nothing here.
A kind that is read otherwise adds its class and an entry in `READERS`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.documents import HELD_OUT, Document
from parakeet.data.questions import Question
from parakeet.data.reading.counts import RecordCounts
from parakeet.data.reading.pieces import Piece, divided
from parakeet.data.reading.records import BadRecord, Record
from parakeet.data.reading.shapes import shape
from parakeet.data.reading.sources import FoundFiles, find_fetched, find_files, is_sampled, source_root
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.sanitise import sanitise


class RecordReader:
    """Reads a source that a stage of its own has downloaded: `inputs["source_files/<name>"]` is its folder."""

    def __init__(self, source: Any) -> None:
        self.source = source

    @property
    def path(self) -> str:
        """Where the user keeps the source; empty if it is not on this machine."""
        return ""

    @property
    def folder(self) -> str:
        """What stands before a file's name in messages."""
        return ""

    def files(self, inputs: Mapping[str, Path]) -> FoundFiles:
        """The files that are read, and what is left out beside them."""
        return find_fetched(inputs[f"{SOURCE_FILES}/{self.source.name}"], self.source)

    def tasks(self, inputs: Mapping[str, Path]) -> tuple[FoundFiles, list[list[Piece]]]:
        """The files, and the pieces of them that each task reads."""
        found = self.files(inputs)
        return found, divided(found.files, found.root)

    def questions(self, per_task: int) -> list[Question]:
        """Held-out questions that come with the source."""
        return []

    def counts(self) -> RecordCounts:
        """Counts of no record yet, with the limits of the source."""
        return RecordCounts(most_faulty=self.source.bad_records)

    def documents(
        self, pieces: Sequence[Piece], first: bool, share: Fraction, counts: RecordCounts
    ) -> Iterator[Document]:
        """The documents of one task; `counts` says what became of every record.

        Of the records, `share` is taken, but always the `first` one of the source. Raises ParakeetError as soon as the
        source is hopeless: hours later it would be refused all the same.
        """
        index = pieces[0].rows_before
        for piece in pieces:
            for record in piece.records(self.source.separator, counts.unread):
                counts.records += 1
                if is_sampled(index, share) or (first and counts.records == 1):
                    yield from self._document(record, piece.name, counts)
                else:
                    counts.not_taken += 1
                index += 1
                if counts.is_hopeless:
                    raise counts.refusal(self.source.name, self.folder)

    def _document(self, record: Record, name: str, counts: RecordCounts) -> Iterator[Document]:
        file = sanitise(f"{name}/{record.member}" if record.member else name)
        place = {"source": self.source.name, "file": file, "row": record.row}
        if record.value is None:
            assert record.problem is not None
            counts.reject(record.problem, place, record.excerpt)
            return
        try:
            shaped = shape(record.value, self.source)
        except BadRecord as error:
            counts.reject(error.problem, place, record.value)
            return
        counts.count_changes(shaped.notes, shaped.unused)
        document = shaped.document
        yield replace(document, metadata={**document.metadata, "file": file, "row": record.row})


class LocalReader(RecordReader):
    """Reads files that are already on this machine."""

    @property
    def path(self) -> str:
        return str(self.source.path)

    @property
    def folder(self) -> str:
        return f"{sanitise(str(source_root(self.source)))}/"

    def files(self, inputs: Mapping[str, Path]) -> FoundFiles:
        return find_files(self.source)


class SyntheticReader(RecordReader):
    """Generates its dialogues, in one task, and brings held-out questions."""

    def tasks(self, inputs: Mapping[str, Path]) -> tuple[FoundFiles, list[list[Piece]]]:
        return FoundFiles([], Path()), [[]]

    def questions(self, per_task: int) -> list[Question]:
        from parakeet.data.synthetic import held_out_questions

        return held_out_questions(per_task, self.source.seed, self.source.name)

    def counts(self) -> RecordCounts:
        return RecordCounts()

    def documents(
        self, pieces: Sequence[Piece], first: bool, share: Fraction, counts: RecordCounts
    ) -> Iterator[Document]:
        from parakeet.data.synthetic import dialogues

        name, licence = self.source.name, self.source.licence
        for dialogue in dialogues(count=self.source.count(share), seed=self.source.seed):
            counts.records += 1
            metadata = {"task": dialogue.task}
            yield Document(name, licence, dialogue.turns, metadata, held_out=dialogue.split == HELD_OUT)


class RandomReader(RecordReader):
    """Draws its documents, in one task: those to train on, then those that are held out."""

    def tasks(self, inputs: Mapping[str, Path]) -> tuple[FoundFiles, list[list[Piece]]]:
        return FoundFiles([], Path()), [[]]

    def counts(self) -> RecordCounts:
        return RecordCounts()

    def documents(
        self, pieces: Sequence[Piece], first: bool, share: Fraction, counts: RecordCounts
    ) -> Iterator[Document]:
        from parakeet.data.random_text import random_texts

        source = self.source
        for held_out, count in ((False, source.count(share)), (True, source.held_out(share))):
            for text in random_texts(count, source.symbols, source.alphabet, source.seed, held_out):
                counts.records += 1
                turns = (Turn("text", text),)
                yield Document(source.name, source.licence, turns, {"row": counts.records}, held_out=held_out)


READERS = {"files": LocalReader, "synthetic": SyntheticReader, "random": RandomReader}
"""By kind of source; every other kind is downloaded first."""


def reader_of(source: Any) -> RecordReader:
    """The reader of a source, or of an evaluation set."""
    return READERS.get(source.kind, RecordReader)(source)
