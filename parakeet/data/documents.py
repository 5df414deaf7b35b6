"""Documents between the stages: Parquet parts of turns with their source and licence (DESIGN §4)."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.artifact import replace_file, sync_file
from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.binary(16), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field(
            "turns",
            pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])),
            nullable=False,
        ),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)

REPEATED = ["source", "licence", "turns.list.element.role"]
"""Columns of few values: a dictionary of the others would be as long as they are, and slower to read."""
ROWS_PER_GROUP = 4096
BYTES_PER_GROUP = 4 << 20
"""A row group is what a reader holds at once."""
BYTES_PER_PART = 16 << 20
"""A part is the unit of parallel work: datatrove never splits a file between workers."""


@dataclass(frozen=True)
class Document:
    """One plain text or one conversation.

    `metadata` is small and JSON-serialisable; `metadata["held_out"]`, where present, overrides the
    hash that otherwise decides whether a document is held out.
    """

    source: str
    licence: str
    turns: tuple[Turn, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def doc_id(self) -> bytes:
        """16 bytes of blake2b over the normalised content: equal for exact duplicates."""
        digest = hashlib.blake2b(digest_size=16)
        for turn in self.turns:
            digest.update(turn.role.encode() + b"\x1f" + normalised(turn.content).encode() + b"\x1e")
        return digest.digest()

    @property
    def is_plain(self) -> bool:
        return self.turns[0].role == "text"

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the content of all turns, without roles and ends."""
        return sum(len(turn.content.encode()) for turn in self.turns)

    @property
    def content(self) -> str:
        """The turns' content joined by newlines: what the filters and the deduplication read."""
        return "\n".join(turn.content for turn in self.turns)


def normalised(text: str) -> str:
    """NFKC, case-folded, every run of whitespace one space: the form that exact deduplication compares."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


class DocumentWriter:
    """Writes documents into `directory/part-00000.parquet`, …, in the order given.

    A new part begins after about `BYTES_PER_PART` bytes of content. What an earlier, interrupted try left in the
    directory is taken away. Use as a context manager; without one document there is one empty part.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self._rows: list[dict[str, Any]] = []
        self._part_bytes = 0
        self._group_bytes = 0
        self._parts = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "DocumentWriter":
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in parts(self.directory):
            path.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._close()
            return
        self._flush()
        if self._parts == 0:
            self._open()
        self._close()

    def write(self, document: Document, doc_id: bytes | None = None) -> None:
        """`doc_id`, where it is known, saves computing it."""
        n_bytes = document.n_bytes
        self._rows.append(
            {
                "doc_id": doc_id or document.doc_id,
                "source": document.source,
                "licence": document.licence,
                "turns": [{"role": turn.role, "content": turn.content} for turn in document.turns],
                "metadata": json.dumps(document.metadata, ensure_ascii=False, sort_keys=True),
            }
        )
        self.count += 1
        self._part_bytes += n_bytes
        self._group_bytes += n_bytes
        if self._part_bytes >= BYTES_PER_PART:
            self._flush()
            self._close()
        elif len(self._rows) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._flush()

    def _open(self) -> None:
        path = self.directory / f"part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=REPEATED)
        self._parts += 1

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._open()
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []
        self._group_bytes = 0

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            # Before the task is called finished: a power cut must not leave the word without the file.
            sync_file(self.directory / f"part-{self._parts - 1:05d}.parquet")
        self._writer = None
        self._part_bytes = 0


def parts(directory: Path) -> list[Path]:
    """The Parquet parts of a documents artefact, in order."""
    return sorted(directory.glob("part-*.parquet"))


def read_part(path: Path) -> Iterator[Document]:
    for _, document in read_identified(path):
        yield document


def read_identified(path: Path) -> Iterator[tuple[bytes, Document]]:
    """Documents of one part with their `doc_id` as it was written, a row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, use_threads=False).to_pylist():
                yield (
                    row["doc_id"],
                    Document(
                        source=row["source"],
                        licence=row["licence"],
                        turns=tuple(Turn(turn["role"], turn["content"]) for turn in row["turns"]),
                        metadata=json.loads(row["metadata"]),
                    ),
                )


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Documents of several parts, one after the other, in bounded memory."""
    for path in paths:
        yield from read_part(path)


def count_documents(directory: Path) -> int:
    """Number of documents, from the Parquet footers alone."""
    return sum(pq.read_metadata(path).num_rows for path in parts(directory))


def content_bytes(path: Path) -> int:
    """About the bytes of text in a part, from the Parquet footer alone."""
    metadata = pq.read_metadata(path)
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def megabytes(paths: Iterable[Path]) -> float:
    """About the text in some parts, in millions of bytes: what the progress of a stage goes to."""
    return sum(map(content_bytes, paths)) / 1e6


def part_groups(sizes: Sequence[int], group_size: int, most: int = 1 << 20) -> list[range]:
    """Neighbouring parts in groups of about `group_size`, and in at most about `most`; as ranges of part numbers.

    A pure function of the sizes: what a task works on must not depend on who works.
    """
    size = max(group_size, -(-sum(sizes) // most))
    groups, begin, held = [], 0, 0
    for number, part in enumerate(sizes):
        if held and held + part > size:
            groups.append(range(begin, number))
            begin, held = number, 0
        held += part
    if begin < len(sizes):
        groups.append(range(begin, len(sizes)))
    return groups


def collect_parts(folder: Path, output: Path) -> None:
    """Move the parts of the tasks' folders in `folder` to `output`, numbered through; empty ones are left out.

    Killed in between, it goes on: what goes where is written down before the first file moves.
    """
    plan = folder / "moves.json"
    if not plan.exists():
        written = [path for task in sorted(folder.iterdir()) if count_documents(task) for path in parts(task)]
        moves = [[path.relative_to(folder).as_posix(), f"part-{n:05d}.parquet"] for n, path in enumerate(written)]
        replace_file(plan, json.dumps(moves))
    for source, target in json.loads(plan.read_text(encoding="utf-8")):
        if (folder / source).exists():
            (folder / source).rename(output / target)


def refuse_emptied(recipe: Recipe, kept: Mapping[str, int], by: str) -> None:
    """ParakeetError where a source that is to have a share of the training is left without a document."""
    for source in recipe.sources:
        if source.weight is not None and not kept.get(source.name):
            raise ParakeetError(
                f"Source {source.name} has the weight {source.weight:g}, but {by} left no document of it. Mend the "
                "source, or the rules that it falls under (in the recipe: clean, deduplication), or take it out."
            )
