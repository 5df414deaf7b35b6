"""Writing token shards: uncompressed Arrow IPC files (DESIGN §4), a few for each task that tokenises."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.artifact import sync_file
from parakeet.tokenizer import Tokenizer

FORMAT_VERSION = 1
TOKENS_PER_BATCH = 4 << 20


@dataclass(frozen=True)
class TokenDocument:
    """A document as ids. `loss_spans` is flat: start, end, start, end, …"""

    doc_id: bytes
    source: str
    input_ids: np.ndarray
    loss_spans: list[int]
    n_bytes: int


def shard_schema(tokenizer: Tokenizer, sources: list[str]) -> pa.Schema:
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "tokenizer_sha256": tokenizer.sha256,
        "vocabulary_rows": str(tokenizer.rows),
        "controls": json.dumps(tokenizer.controls, ensure_ascii=False),
        "sources": json.dumps(sources),
    }
    return pa.schema(
        [
            pa.field("doc_id", pa.binary(16), nullable=False),
            pa.field("source", pa.dictionary(pa.int16(), pa.string()), nullable=False),
            pa.field("input_ids", pa.list_(pa.uint32()), nullable=False),
            pa.field("loss_spans", pa.list_(pa.uint32()), nullable=False),
            pa.field("n_bytes", pa.uint32(), nullable=False),
        ],
        metadata=metadata,
    )


class ShardWriter:
    """Writes `<split>-<task>-000.arrow`, …; a new file begins when one has reached `shard_bytes`.

    What an earlier, interrupted try of the task left is taken away. A task without documents leaves no file, but for
    the first, so that a split always has one.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        tokenizer: Tokenizer,
        sources: list[str],
        shard_bytes: int,
        task: int = 0,
    ) -> None:
        self.directory = directory
        self.prefix = f"{split}-{task:05d}"
        self.task = task
        self.numbers = {name: number for number, name in enumerate(sources)}
        self.names = pa.array(sources, pa.string())
        self.shard_bytes = shard_bytes
        self.schema = shard_schema(tokenizer, sources)
        self.largest_id = 0
        self._tally = {name: {"documents": 0, "tokens": 0, "bytes": 0} for name in sources}
        self._rows: list[TokenDocument] = []
        self._tokens = 0
        self._files = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._sink: pa.NativeFile | None = None
        for path in directory.glob(f"{self.prefix}-*.arrow"):
            path.unlink()

    def write(self, document: TokenDocument) -> None:
        tally = self._tally[document.source]
        tally["documents"] += 1
        tally["tokens"] += len(document.input_ids)
        tally["bytes"] += document.n_bytes
        self.largest_id = max(self.largest_id, int(document.input_ids.max()))
        self._rows.append(document)
        self._tokens += len(document.input_ids)
        if self._tokens >= min(TOKENS_PER_BATCH, self.shard_bytes // 4):
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is None and self._files == 0 and self.task == 0:
            self._open()
        self._close_file()

    def counts(self) -> dict[str, Any]:
        total = {key: sum(tally[key] for tally in self._tally.values()) for key in ("documents", "tokens", "bytes")}
        return {**total, "files": self._files, "sources": self._tally}

    def _path(self, number: int) -> Path:
        return self.directory / f"{self.prefix}-{number:03d}.arrow"

    def _open(self) -> None:
        self._sink = pa.OSFile(str(self._path(self._files)), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        self._files += 1

    def _close_file(self) -> None:
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        self._sink.close()
        self._writer = self._sink = None
        # Before the task is called finished: a power cut must not leave the word without the file.
        sync_file(self._path(self._files - 1))

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._sink is not None and self._sink.tell() >= self.shard_bytes:
            self._close_file()
        if self._writer is None:
            self._open()
        assert self._writer is not None
        self._writer.write_batch(self._batch())
        self._rows, self._tokens = [], 0

    def _batch(self) -> pa.RecordBatch:
        indices = pa.array([self.numbers[row.source] for row in self._rows], pa.int16())
        columns = [
            pa.array([row.doc_id for row in self._rows], pa.binary(16)),
            # The whole list of sources in every batch: an IPC file refuses a second, different dictionary.
            pa.DictionaryArray.from_arrays(indices, self.names),
            _lists([row.input_ids for row in self._rows]),
            _lists([np.array(row.loss_spans, np.uint32) for row in self._rows]),
            pa.array([row.n_bytes for row in self._rows], pa.uint32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _lists(arrays: list[np.ndarray]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, np.concatenate(arrays))
