"""Writing token shards: uncompressed Arrow IPC files, a few per tokenising task."""

import json
from collections.abc import Iterable
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from parakeet.tokenizer import Tokenizer

FORMAT_VERSION = 1
TOKENS_PER_BATCH = 4 << 20
"""A record batch: 16 MiB of ids."""
TALLIED = ("documents", "tokens", "bytes")


class TokenDocument(NamedTuple):
    """A document as ids (n,) uint32. `loss_spans` is flat: start, end, start, end, …"""

    doc_id: bytes
    source: str
    input_ids: np.ndarray
    loss_spans: list[int]
    n_bytes: int


def _schema(tokenizer: Tokenizer, sources: list[str]) -> pa.Schema:
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
    """Writes `<split>-<task>-000.arrow`, …, and begins a new file when one has reached `shard_bytes`.

    Files of an earlier, interrupted attempt at the task are deleted. Without documents, only task 0 writes a file, so
    every split has at least one.
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
        self.schema = _schema(tokenizer, sources)
        self.largest_id = 0
        self._tally = np.zeros((len(sources), len(TALLIED)), np.int64)
        self._limit = min(TOKENS_PER_BATCH, shard_bytes // 4)
        # Ids of the current batch, copied in while they are in the processor's cache. Keeping tiktoken's results until
        # the batch is full made tiktoken itself 5 % slower, because each result then needed fresh memory.
        self._ids = np.empty(self._limit + self._limit // 8, np.uint32)
        self._rows: list[tuple[bytes, str, int, list[int], int]] = []
        self._tokens = 0
        self._files = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._sink: pa.NativeFile | None = None
        for path in directory.glob(f"{self.prefix}-*.arrow"):
            path.unlink()

    def write(self, document: TokenDocument) -> None:
        doc_id, source, ids, spans, n_bytes = document
        end = self._tokens + len(ids)
        if end > len(self._ids):
            # Only a document longer than an eighth of a batch gets here.
            self._ids = np.concatenate([self._ids[: self._tokens], np.empty(2 * end - self._tokens, np.uint32)])
        self._ids[self._tokens : end] = ids
        self._rows.append((doc_id, source, len(ids), spans, n_bytes))
        self._tokens = end
        if end >= self._limit:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is None and self._files == 0 and self.task == 0:
            self._open()
        self._close_file()

    def counts(self) -> dict[str, Any]:
        by_source = {
            name: dict(zip(TALLIED, row, strict=True))
            for name, row in zip(self.numbers, self._tally.tolist(), strict=True)
        }
        total = dict(zip(TALLIED, self._tally.sum(axis=0).tolist(), strict=True))
        return {**total, "files": self._files, "sources": by_source}

    def _open(self) -> None:
        self._sink = pa.OSFile(str(self.directory / f"{self.prefix}-{self._files:03d}.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        self._files += 1

    def _close_file(self) -> None:
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        self._sink.close()
        self._writer = self._sink = None

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
        doc_ids, sources, lengths, spans, n_bytes = (list(column) for column in zip(*self._rows, strict=True))
        numbers = np.fromiter(map(self.numbers.__getitem__, sources), np.int16, len(sources))
        ids = self._ids[: self._tokens]
        # _tally (sources, 3): the columns of TALLIED.
        tallied: list[Any] = [np.ones(len(sources)), lengths, n_bytes]
        for column, values in enumerate(tallied):
            self._tally[:, column] += np.bincount(numbers, values, len(self.numbers)).astype(np.int64)
        self.largest_id = max(self.largest_id, int(ids.max(initial=0)))
        columns = [
            pa.array(doc_ids, pa.binary(16)),
            # Every batch has the same dictionary of all sources, because an IPC file refuses a second one.
            pa.DictionaryArray.from_arrays(pa.array(numbers), self.names),
            pa.ListArray.from_arrays(_offsets(lengths), ids),
            pa.ListArray.from_arrays(_offsets(map(len, spans)), np.fromiter(chain.from_iterable(spans), np.uint32)),
            pa.array(n_bytes, pa.uint32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    """(lists + 1,) int32: where lists of these lengths begin and end, one after the other."""
    return np.fromiter(accumulate(lengths, initial=0), np.int32)
