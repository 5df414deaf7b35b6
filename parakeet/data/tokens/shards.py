"""Reading token shards: uncompressed Arrow IPC files that memory-map without a copy."""

import json
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pyarrow as pa

from parakeet.errors import ParakeetError
from parakeet.tokenizer import Tokenizer

SPLITS = ("train", "held_out")


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(Σ counts,) int64: starts[0], starts[0] + 1, … (counts[0] numbers), then the same from starts[1], and so on."""
    # Entry k of range i is starts[i] + k, at the place (counts before i) + k of the result. So add every
    # place to the constant starts[i] − (counts before i) of its range.
    ends = np.cumsum(counts)
    numbers = np.repeat(starts - ends + counts, counts)
    numbers += np.arange(len(numbers))
    return numbers


class Shard(NamedTuple):
    """One file of token shards, memory-mapped."""

    words: np.ndarray
    """uint32 (words,): the whole file. Ids and loss spans are both columns of uint32, so a word of the file is an id or
    a bound of a span, wherever Arrow put them."""
    batches: list[pa.RecordBatch]
    sources: list[str]
    vocabulary_rows: int


def open_shard(path: Path, tokenizer: Tokenizer | None) -> Shard:
    """ParakeetError if the file is missing or incomplete, or was made with another tokenizer."""
    try:
        mapped = pa.memory_map(str(path), "r").read_buffer()
        reader = pa.ipc.open_file(mapped)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        metadata = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
        sources, made_with = json.loads(metadata["sources"]), metadata["tokenizer_sha256"]
        rows = int(metadata["vocabulary_rows"]) if tokenizer is None else tokenizer.rows
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ParakeetError(
            f"{path} is not a complete token shard ({error}). Run the same build again with: --force token_shards"
        ) from None
    if tokenizer is not None and made_with != tokenizer.sha256:
        raise ParakeetError(
            f"{path} was made with tokenizer {made_with}, not with {tokenizer.sha256}. "
            "Run the same build again with: --force token_shards"
        )
    return Shard(np.frombuffer(mapped, np.uint32, mapped.size // 4), batches, sources, rows)


class TokenShards:
    """Random access to the documents of one split, memory-mapped. Documents are numbered in file order.

    The tokens stay in the files. In memory are 12 bytes a document, and 13 more if some documents are not trained on
    as a whole. `vocabulary_rows` is one more than the largest id that may occur in them.
    """

    def __init__(self, directory: Path, split: str = "train", tokenizer: Tokenizer | None = None) -> None:
        """Raises ParakeetError if a file is missing or incomplete, or was made with another tokenizer."""
        self.directory = directory
        self._paths = sorted(directory.glob(f"{split}-*.arrow"))
        if not self._paths:
            raise ParakeetError(
                f"{directory} holds no {split} shards. Run the same build again with: --force token_shards"
            )
        self.names: list[str] = []
        self.vocabulary_rows = 0
        self._words: list[np.ndarray] = []
        self._batches: list[pa.RecordBatch] = []
        columns: list[_BatchColumns] = []
        for path in self._paths:
            shard = open_shard(path, tokenizer)
            words_before = sum(map(len, self._words))
            columns += [_batch_columns(batch, shard.words, words_before) for batch in shard.batches]
            self._words.append(shard.words)
            self._batches += shard.batches
            self.names, self.vocabulary_rows = shard.sources, shard.vocabulary_rows
        # An address is the number of a word, counted through all files: file f holds those from _file_begins[f].
        self._file_begins = np.cumsum([0, *map(len, self._words)], dtype=np.int64)
        # Per document, (documents,): tokens, and the address of the first.
        self._lengths = _joined([c.lengths for c in columns], np.uint32)
        self._addresses = _joined([c.addresses for c in columns], np.int64)
        # The last three arrays are kept only if a document is not trained on as a whole: with loss_on "all", none is.
        self._whole = _joined([c.whole for c in columns], np.bool_)
        self._all_whole = bool(self._whole.all())
        if self._all_whole:
            self._whole = np.zeros(0, np.bool_)
        else:
            self._span_words = _joined([c.span_words for c in columns], np.uint32)
            self._span_addresses = _joined([c.span_addresses for c in columns], np.int64)

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self) -> np.ndarray:
        """(documents,) int64 tokens of each document."""
        return self._lengths.astype(np.int64)

    def sources(self) -> np.ndarray:
        """(documents,) index of each document's source in `names`."""
        return _joined([batch.column("source").indices.to_numpy() for batch in self._batches], np.int16)

    def n_bytes(self) -> np.ndarray:
        """(documents,) UTF-8 bytes of content."""
        return _joined([batch.column("n_bytes").to_numpy() for batch in self._batches], np.uint32)

    def id_counts(self) -> np.ndarray:
        """(vocabulary rows,) how often each id occurs in these shards."""
        counts = np.zeros(self.vocabulary_rows, np.int64)
        for batch in self._batches:
            ids = batch.column("input_ids").values.to_numpy()
            found = np.bincount(ids)
            if len(found) > self.vocabulary_rows:
                self._refuse(np.arange(len(self)))
            counts[: len(found)] += found
        return counts

    def tokens(self, number: int) -> np.ndarray:
        """Ids of one document: a read-only uint32 view of the mapped file."""
        address = int(self._addresses[number])
        file = self._file(address)
        begin = address - int(self._file_begins[file])
        return self._words[file][begin : begin + int(self._lengths[number])]

    def read(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Ids (Σ lengths,) uint32 of pieces, one after the other: lengths[i] tokens of documents[i] from starts[i].

        ParakeetError if a document is shorter than that, or holds an id beyond the vocabulary.
        """
        if len(documents) == 0:
            return np.zeros(0, np.uint32)
        if documents.max() >= len(self) or (starts + lengths > self._lengths[documents]).any():
            raise ParakeetError(
                f"{self.directory} does not hold all tokens that the packing plan names: the plan was made from other "
                "shards. Run the same build again with: --force packing_plan"
            )
        ids = self._gather(self._addresses[documents] + starts, lengths)
        if int(ids.max(initial=0)) >= self.vocabulary_rows:
            self._refuse(documents)
        return ids

    def all_targets(self, documents: np.ndarray) -> np.ndarray:
        """(documents,) whether every token after the first of a document is a target."""
        return np.ones(len(documents), np.bool_) if self._all_whole else self._whole[documents]

    def spans(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of loss spans of each document (documents,), and (Σ numbers, 2) the start and end of each, in tokens.

        Only for documents that `all_targets` is false for.
        """
        words = self._span_words[documents].astype(np.int64)
        return words // 2, self._gather(self._span_addresses[documents], words).astype(np.int64).reshape(-1, 2)

    def doc_ids(self) -> np.ndarray:
        """(documents, 2) uint64: the 16 bytes of each document's id as two big-endian integers."""
        parts = [
            np.frombuffer(
                batch.column("doc_id").buffers()[1], ">u8", 2 * len(batch), 16 * batch.column("doc_id").offset
            )
            for batch in self._batches
        ]
        return _joined(parts, np.uint64).astype(np.uint64).reshape(-1, 2)

    def doc_id(self, number: int) -> bytes:
        """The 16 bytes that identify a document in every stage."""
        for batch in self._batches:
            if number < len(batch):
                return bytes(batch.column("doc_id")[number].as_py())
            number -= len(batch)
        raise IndexError(number)

    def _file(self, address: int) -> int:
        return int(np.searchsorted(self._file_begins, address, side="right")) - 1

    def _gather(self, addresses: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Words (Σ counts,): counts[i] of them from addresses[i]. Each file that holds some is indexed once."""
        if len(self._words) == 1:
            return self._words[0][ranges(addresses, counts)]
        # Group the pieces by file. sources (Σ counts,): the words within their file, file after file; places: the
        # place of each in the result. Both are in by_file order, so each file has one slice of them.
        files = np.searchsorted(self._file_begins, addresses, side="right") - 1
        by_file = np.argsort(files, kind="stable")
        sources = ranges((addresses - self._file_begins[files])[by_file], counts[by_file])
        places = ranges((np.cumsum(counts) - counts)[by_file], counts[by_file])
        found = np.empty(len(places), np.uint32)
        words_of_file = np.bincount(files, weights=counts, minlength=len(self._words)).astype(np.int64)
        begin = 0
        for file in np.flatnonzero(words_of_file).tolist():
            end = begin + int(words_of_file[file])
            found[places[begin:end]] = self._words[file][sources[begin:end]]
            begin = end
        return found

    def _refuse(self, documents: np.ndarray) -> NoReturn:
        """Name the first document with an id beyond the vocabulary."""
        for number in documents.tolist():
            largest = int(self.tokens(number).max(initial=0))
            if largest >= self.vocabulary_rows:
                path = self._paths[self._file(int(self._addresses[number]))]
                raise ParakeetError(
                    f"{path}: document {self.doc_id(number).hex()} holds the token id {largest}, but the vocabulary "
                    f"has {self.vocabulary_rows:,} rows. Run the same build again with: --force token_shards"
                )
        raise AssertionError("no document holds an id beyond the vocabulary")


class _BatchColumns(NamedTuple):
    """Per document of one record batch, (documents,) each. Addresses count the words of all files."""

    lengths: np.ndarray
    addresses: np.ndarray
    whole: np.ndarray
    """Whether the one loss span covers every target."""
    span_words: np.ndarray
    """Twice the number of loss spans."""
    span_addresses: np.ndarray


def _batch_columns(batch: pa.RecordBatch, words: np.ndarray, words_before: int) -> _BatchColumns:
    # begins, span_begins (documents + 1,): the offsets of the two list columns within this batch.
    ids, spans = batch.column("input_ids"), batch.column("loss_spans")
    begins, span_begins = ids.offsets.to_numpy(), spans.offsets.to_numpy()
    lengths, span_words = np.diff(begins), np.diff(span_begins)
    bounds = spans.values.to_numpy()
    # One span, from token 0 or 1 to the end. The first token of a document is never a target, so both are whole.
    whole = span_words == 2
    whole[whole] = (bounds[span_begins[:-1][whole]] <= 1) & (bounds[span_begins[:-1][whole] + 1] >= lengths[whole])
    return _BatchColumns(
        lengths.astype(np.uint32),
        words_before + _place(ids.values, words) + begins[:-1].astype(np.int64),
        whole,
        span_words.astype(np.uint32),
        words_before + _place(spans.values, words) + span_begins[:-1].astype(np.int64),
    )


def _place(values: pa.Array, words: np.ndarray) -> int:
    """The number of the word, in its mapped file, at which an Arrow array begins: the difference of two pointers."""
    if len(values) == 0:
        return 0
    begin = values.to_numpy().__array_interface__["data"][0] - words.__array_interface__["data"][0]
    return int(begin) // words.itemsize


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])
