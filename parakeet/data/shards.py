"""Token shards: uncompressed Arrow IPC files that memory-map without a copy (DESIGN §4)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.documents import Document, parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_document
from parakeet.tokenizer import Tokenizer

FORMAT_VERSION = 1
TOKENS_PER_BATCH = 4 << 20
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class TokenDocument:
    """A document as ids. `loss_spans` is flat: start, end, start, end, …"""

    doc_id: bytes
    source: str
    input_ids: np.ndarray
    loss_spans: list[int]
    n_bytes: int


def make_token_shards(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Stage `token_shards`: every document as ids, the held-out ones in files of their own."""
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    files = parts(inputs["deduplicated_documents"])
    sources = sorted(source.name for source in recipe.sources)
    writers = {split: ShardWriter(output, split, tokenizer, sources, recipe.shards.shard_bytes) for split in SPLITS}
    with progress.task("token shards", None, "tokens") as task:
        for document in read_documents(files):
            split = "held_out" if document.metadata["held_out"] else "train"
            tokens = tokenise(tokenizer, document, recipe.shards.loss_on)
            writers[split].write(tokens)
            task.advance(len(tokens.input_ids))
    for writer in writers.values():
        writer.close()
    counts = {split: writer.counts() for split, writer in writers.items()}
    _require_held_out(recipe, counts["held_out"])
    return {"tokenizer_sha256": tokenizer.sha256, "largest_id": max(w.largest_id for w in writers.values()), **counts}


def _require_held_out(recipe: Recipe, held_out: dict[str, Any]) -> None:
    """Said here, before hours of training whose result nobody could measure."""
    if held_out["bytes"] < recipe.shards.min_held_out_bytes:
        raise ParakeetError(
            f"Only {held_out['documents']:,} documents with {held_out['bytes']:,} bytes are held out, too little to "
            f"measure a model with ({recipe.shards.min_held_out_bytes:,} bytes are needed). Add text, or raise "
            f"deduplication.held_out_fraction (now {recipe.deduplication.held_out_fraction})."
        )


def tokenise(tokenizer: Tokenizer, document: Document, loss_on: str) -> TokenDocument:
    ids, spans = render_document(tokenizer, document.turns, loss_on)
    return TokenDocument(document.doc_id, document.source, ids, spans, document.n_bytes)


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
    """Writes `<split>-00000.arrow`, …; a new file begins when one has reached `shard_bytes`."""

    def __init__(self, directory: Path, split: str, tokenizer: Tokenizer, sources: list[str], shard_bytes: int) -> None:
        self.directory = directory
        self.split = split
        self.sources = sources
        self.shard_bytes = shard_bytes
        self.schema = shard_schema(tokenizer, sources)
        self.largest_id = 0
        self._tally = {name: {"documents": 0, "tokens": 0, "bytes": 0} for name in sources}
        self._rows: list[TokenDocument] = []
        self._tokens = 0
        self._files = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._sink: pa.NativeFile | None = None
        self._open()

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
        self._close_file()

    def counts(self) -> dict[str, Any]:
        total = {key: sum(tally[key] for tally in self._tally.values()) for key in ("documents", "tokens", "bytes")}
        return {**total, "files": self._files, "sources": self._tally}

    def _open(self) -> None:
        self._sink = pa.OSFile(str(self.directory / f"{self.split}-{self._files:05d}.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        self._files += 1

    def _close_file(self) -> None:
        assert self._writer is not None
        assert self._sink is not None
        self._writer.close()
        self._sink.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        assert self._writer is not None
        assert self._sink is not None
        if self._sink.tell() >= self.shard_bytes:
            self._close_file()
            self._open()
        self._writer.write_batch(self._batch())
        self._rows, self._tokens = [], 0

    def _batch(self) -> pa.RecordBatch:
        indices = pa.array([self.sources.index(row.source) for row in self._rows], pa.int16())
        columns = [
            pa.array([row.doc_id for row in self._rows], pa.binary(16)),
            # The whole list of sources in every batch: an IPC file refuses a second, different dictionary.
            pa.DictionaryArray.from_arrays(indices, pa.array(self.sources, pa.string())),
            _lists([row.input_ids for row in self._rows]),
            _lists([np.array(row.loss_spans, np.uint32) for row in self._rows]),
            pa.array([row.n_bytes for row in self._rows], pa.uint32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _lists(arrays: list[np.ndarray]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, np.concatenate(arrays))


class TokenShards:
    """Random access to the documents of one split, memory-mapped: documents are numbered in file order."""

    def __init__(self, directory: Path, split: str = "train", tokenizer: Tokenizer | None = None) -> None:
        """Raises ParakeetError if a file is missing or torn, or was made with another tokenizer."""
        self.directory = directory
        files = sorted(directory.glob(f"{split}-*.arrow"))
        if not files:
            raise ParakeetError(
                f"{directory} holds no {split} shards. Run the same build again with: --force token_shards"
            )
        self._ids: list[np.ndarray] = []
        self._offsets: list[np.ndarray] = []
        self._spans: list[tuple[np.ndarray, np.ndarray]] = []
        self._sources: list[np.ndarray] = []
        self._bytes: list[np.ndarray] = []
        self._doc_ids: list[pa.FixedSizeBinaryArray] = []
        self.names: list[str] = []
        for path in files:
            self._map(path, tokenizer)
        counts = [len(offsets) - 1 for offsets in self._offsets]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _map(self, path: Path, tokenizer: Tokenizer | None) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            metadata = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            self.names = json.loads(metadata["sources"])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise ParakeetError(
                f"{path} is not a whole token shard ({error}). Run the same build again with: --force token_shards"
            ) from None
        if tokenizer is not None and metadata["tokenizer_sha256"] != tokenizer.sha256:
            raise ParakeetError(
                f"{path} was made with tokenizer {metadata['tokenizer_sha256']}, not with {tokenizer.sha256}. "
                "Run the same build again with: --force token_shards"
            )
        for batch in batches:
            ids, spans = batch.column("input_ids"), batch.column("loss_spans")
            self._ids.append(ids.values.to_numpy(zero_copy_only=True))
            self._offsets.append(ids.offsets.to_numpy(zero_copy_only=True))
            self._spans.append(
                (spans.values.to_numpy(zero_copy_only=True), spans.offsets.to_numpy(zero_copy_only=True))
            )
            self._sources.append(batch.column("source").indices.to_numpy(zero_copy_only=True))
            self._doc_ids.append(batch.column("doc_id"))
            self._bytes.append(batch.column("n_bytes").to_numpy(zero_copy_only=True))

    def __len__(self) -> int:
        return int(self._first[-1])

    def lengths(self) -> np.ndarray:
        """(documents,) int64 tokens of each document."""
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.diff(offsets).astype(np.int64) for offsets in self._offsets)]
        )

    def sources(self) -> np.ndarray:
        """(documents,) index of each document's source in `names`."""
        return np.concatenate([np.zeros(0, np.int16), *self._sources])

    def n_bytes(self) -> np.ndarray:
        """(documents,) UTF-8 bytes of content."""
        return np.concatenate([np.zeros(0, np.uint32), *self._bytes])

    def tokens(self, number: int) -> np.ndarray:
        """Ids of one document: a read-only uint32 view of the mapped file."""
        batch, row = self._locate(number)
        offsets = self._offsets[batch]
        return self._ids[batch][offsets[row] : offsets[row + 1]]

    def doc_id(self, number: int) -> bytes:
        """The 16 bytes by which all stages know a document."""
        batch, row = self._locate(number)
        return bytes(self._doc_ids[batch][row].as_py())

    def loss_spans(self, number: int) -> np.ndarray:
        """Flat start, end pairs of one document, in tokens from its beginning."""
        batch, row = self._locate(number)
        values, offsets = self._spans[batch]
        return values[offsets[row] : offsets[row + 1]]

    def _locate(self, number: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._first, number, side="right")) - 1
        return batch, number - int(self._first[batch])
