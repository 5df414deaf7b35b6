"""Documents between the stages: their Parquet parts, and the pipeline steps that read and write them.

Every stage before the token shards reads and writes the columns of `SCHEMA`, here and nowhere else.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.artifact import replace_file, sync_file
from parakeet.conversation import Turn
from parakeet.data.marks import stream_safe
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe

TRAIN, HELD_OUT = "train", "held_out"

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
        pa.field("held_out", pa.bool_()),
        pa.field("split", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)

DICTIONARY_COLUMNS = ["source", "licence", "turns.list.element.role", "split"]
"""Columns with few distinct values. For the others a dictionary would be as long as the data, and slower to read."""
ROWS_PER_GROUP = 4096
BYTES_PER_GROUP = 4 << 20
"""A reader holds one row group in memory."""
BYTES_PER_PART = 16 << 20
"""A part is the unit of parallel work: no task reads half a part."""
COUNTED_BYTES = 1 << 20
"""How much a task reads before it reports its progress again."""


@dataclass(frozen=True)
class Document:
    """One plain text or one conversation.

    `metadata` is small and JSON-serialisable: the file and row that the document comes from, and what helps to find it.
    """

    source: str
    licence: str
    turns: tuple[Turn, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    held_out: bool | None = None
    """What the source asks for: True holds the document out, False trains on it, None leaves it to deduplication."""
    split: str | None = None
    """`train` or `held_out`, decided by deduplication; None before."""

    @cached_property
    def doc_id(self) -> bytes:
        """16 bytes of blake2b over the normalised content: equal for exact duplicates.

        Computed when first asked for. It is no field, so `replace(document, turns=...)` cannot keep an old one.
        """
        digest = hashlib.blake2b(digest_size=16)
        for turn in self.turns:
            digest.update(turn.role.encode() + b"\x1f" + normalised(turn.content).encode() + b"\x1e")
        return digest.digest()

    @property
    def is_plain(self) -> bool:
        return self.turns[0].role == "text"

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the content of all turns, without roles and end tokens."""
        return sum(len(turn.content.encode()) for turn in self.turns)

    @property
    def content(self) -> str:
        """The content of all turns, joined by newlines: what the filters and the deduplication read."""
        return "\n".join(turn.content for turn in self.turns)

    @property
    def place(self) -> dict[str, Any]:
        """`file` and `row` of the record it was made from; empty for documents that no file held."""
        return {key: self.metadata[key] for key in ("file", "row") if key in self.metadata}

    def with_split(self, split: str) -> "Document":
        return _identified(replace(self, split=split), self.doc_id)

    def to_row(self) -> dict[str, Any]:
        return {
            "doc_id": self.doc_id,
            "source": self.source,
            "licence": self.licence,
            "turns": [{"role": turn.role, "content": turn.content} for turn in self.turns],
            "held_out": self.held_out,
            "split": self.split,
            "metadata": json.dumps(self.metadata, ensure_ascii=False, sort_keys=True),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Document":
        document = cls(
            source=row["source"],
            licence=row["licence"],
            turns=tuple(Turn(turn["role"], turn["content"]) for turn in row["turns"]),
            metadata=json.loads(row["metadata"]),
            held_out=row["held_out"],
            split=row["split"],
        )
        return _identified(document, row["doc_id"])


def _identified(document: Document, doc_id: bytes) -> Document:
    """The document with a `doc_id` that need not be computed."""
    document.__dict__["doc_id"] = doc_id
    return document


def normalised(text: str) -> str:
    """NFKC, case-folded, every run of whitespace one space: the form that exact deduplication compares."""
    return " ".join(unicodedata.normalize("NFKC", stream_safe(text)).casefold().split())


class DocumentWriter:
    """Writes documents to `directory/part-00000.parquet`, `part-00001.parquet`, …, in the order given.

    A new part begins after about `BYTES_PER_PART` bytes of content. Parts that an interrupted run left in the directory
    are removed. Use it as a context manager. If no document is written, there is one empty part.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
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
        if kind is None:
            self._flush()
            if self._parts == 0:
                self._open()
        self._close()

    def write(self, document: Document) -> None:
        n_bytes = document.n_bytes
        self._rows.append(document.to_row())
        self._part_bytes += n_bytes
        self._group_bytes += n_bytes
        if self._part_bytes >= BYTES_PER_PART:
            self._flush()
            self._close()
        elif len(self._rows) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._flush()

    def _open(self) -> None:
        path = self.directory / f"part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=DICTIONARY_COLUMNS)
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
            # Synced before the task is marked as complete: after a power cut the mark must not outlive the file.
            sync_file(self.directory / f"part-{self._parts - 1:05d}.parquet")
        self._writer = None
        self._part_bytes = 0


def parts(directory: Path) -> list[Path]:
    """The Parquet parts of a documents artefact, in order."""
    return sorted(directory.glob("part-*.parquet"))


def read_batches(path: Path, columns: Sequence[str] = tuple(SCHEMA.names)) -> Iterator[pa.RecordBatch]:
    """The record batches of a part with these columns, a row group in memory at a time.

    Parts of stage version 2 kept `held_out` in the metadata's JSON and had no `split`. They are read as if they had
    both columns. This is the only place that knows; remove it when such artefacts need not be read any more.
    """
    with pq.ParquetFile(path) as file:
        old = "split" not in file.schema_arrow.names
        stored = [name for name in file.schema_arrow.names if name in columns or (old and name == "metadata")]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=stored, use_threads=False)
            yield from (_with_split(table) if old else table).select(list(columns)).to_batches()


def _with_split(table: pa.Table) -> pa.Table:
    """A table of version 2 with the columns of today.

    Its deduplication overwrote `held_out` by its decision, so this one value gives both columns.
    """
    metadata = [json.loads(text) for text in table["metadata"].to_pylist()]
    held_out = [values.pop("held_out", None) for values in metadata]
    split = [None if value is None else HELD_OUT if value else TRAIN for value in held_out]
    rest = [json.dumps(values, ensure_ascii=False, sort_keys=True) for values in metadata]
    return (
        table.drop_columns("metadata")
        .append_column("metadata", pa.array(rest, pa.string()))
        .append_column("held_out", pa.array(held_out, pa.bool_()))
        .append_column("split", pa.array(split, pa.string()))
    )


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """The documents of several parts, one after the other, a row group in memory at a time."""
    for path in paths:
        for batch in read_batches(path):
            yield from map(Document.from_row, batch.to_pylist())


def count_documents(directory: Path) -> int:
    """Number of documents, from the Parquet footers alone."""
    return sum(pq.read_metadata(path).num_rows for path in parts(directory))


def content_bytes(path: Path) -> int:
    """About the bytes of text in a part, from the Parquet footer alone."""
    metadata = pq.read_metadata(path)
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def part_groups(sizes: Sequence[int], group_size: int, most: int = 1 << 20) -> list[range]:
    """Neighbouring parts in groups of about `group_size`, in about `most` groups at most; as ranges of part numbers.

    A pure function of the sizes: a task's share of the work must not depend on the workers.
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
    """Move the parts in the tasks' folders below `folder` to `output` and number them; empty ones are left out.

    The moves are written down before the first file moves, so an interrupted call can be repeated.
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
    """ParakeetError if a source with a weight has no document left: it could not have its share of the training."""
    for source in recipe.sources:
        if source.weight is not None and not kept.get(source.name):
            raise ParakeetError(
                f"Source {source.name} has the weight {source.weight:g}, but {by} left none of its documents. Correct "
                "the source or the rules in the recipe (clean, deduplication), or remove the source."
            )


# Pipeline steps. A datatrove pipeline takes any function of (data, rank, world size), so Parakeet's own documents
# travel from step to step, and this module imports neither datatrove nor what brings it.


@dataclass(frozen=True)
class ReadParts:
    """First step of a pipeline: the documents of the parts `groups[rank]`, in order.

    `counts/<rank>` holds the bytes of content read so far, for `watch`. (Documents differ too much in size for a number
    of documents to say how much is left.)
    """

    groups: Sequence[Sequence[Path]] = field(repr=False)
    counts: Path

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from parakeet.data.tasks import count

        n_bytes = reported = 0
        for document in read_documents(self.groups[rank]):
            n_bytes += document.n_bytes
            yield document
            if n_bytes - reported >= COUNTED_BYTES:
                count(self.counts, rank, n_bytes)
                reported = n_bytes
        count(self.counts, rank, n_bytes)


@dataclass(frozen=True)
class WriteDocuments:
    """Last step of a pipeline: writes a task's documents to parts in `folder/<rank>`.

    Parts that an interrupted run of the task left there are overwritten.
    """

    folder: Path

    def __call__(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with DocumentWriter(self.folder / f"{rank:05d}") as writer:
            for document in data:
                writer.write(document)
                yield document
