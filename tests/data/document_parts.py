"""Parts of documents for tests, also as Parakeet wrote them before `held_out` and `split` became columns."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.documents import SCHEMA, Document, DocumentWriter

OLD_SCHEMA = pa.schema([SCHEMA.field(name) for name in ("doc_id", "source", "licence", "turns", "metadata")])


def write_parts(directory: Path, *groups: list[Document]) -> Path:
    """A folder with one part for each group."""
    directory.mkdir(parents=True)
    for number, documents in enumerate(groups):
        with DocumentWriter(directory / "new") as writer:
            for document in documents:
                writer.write(document)
        (directory / "new" / "part-00000.parquet").rename(directory / f"part-{number:05d}.parquet")
    (directory / "new").rmdir()
    return directory


def write_old_part(path: Path, documents: Sequence[Document]) -> None:
    """The metadata's JSON held `held_out`: before deduplication what the source asked for, then what was decided."""
    rows = []
    for document in documents:
        held_out = document.held_out if document.split is None else document.split == "held_out"
        metadata = document.metadata if held_out is None else {**document.metadata, "held_out": held_out}
        rows.append(document.to_row() | {"metadata": json.dumps(metadata, ensure_ascii=False, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=OLD_SCHEMA)
    pq.write_table(table, path, row_group_size=100, compression="zstd")
