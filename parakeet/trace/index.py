"""The trace index: every place in the training text where a sequence of tokens stands, found in milliseconds.

A folder of .npy files, memory-mapped. The documents are those of the `train` split of token shards, in that order, in
one or more index shards; a document lies in one of them. After each document stands a separator of its own, a value
above the vocabulary, so no match crosses documents. Per shard (N tokens, D documents):

    tokens-00000.npy     (3 (N + D) + padding,) uint8: three big-endian bytes a token
    positions-00000.npy  (N,) uint32: the suffix array, without the separators, which would stand at its end
    keys-00000.npy       (N / 64,) uint64: the first eight bytes of every 64th suffix, big-endian

and of the whole, D documents in all shards: `document_starts.npy` (D + 1,) int64, the first token of each, counted
through the shards' tokens and separators; `document_sources.npy` (D,) uint16; `document_ids.npy` (D, 16) uint8;
`id_counts.npy` (rows,) int64; and `index.json`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.trace.suffix_array import MOST_TOKENS, TOKEN_BYTES, packed, suffix_array

if TYPE_CHECKING:
    from parakeet.data.tokens.shards import TokenShards
    from parakeet.progress import Progress, Task

MANIFEST_FILE = "index.json"
SCHEMA = 1
SHARD_TOKENS = 1 << 26
"""Most tokens of an index shard, unless one document is longer: building needs 16 bytes each, about 1 GiB."""
KEY_STEP = 64
_NOWHERE = 0xFFFFFF
"""In a query: an id that is no token. No separator has this value."""
_FIRST, _MOST = 8, 64
"""Tokens that are compared at a time: few at first, since most matches are short, then more and more."""
_PADDING = _MOST * TOKEN_BYTES
_PIECE = 1 << 20
"""Tokens that are copied at a time."""
_STRIDES = (64, 8, 1)
REBUILD = "Run the same build again with: --force trace_index"


@dataclass(frozen=True)
class Occurrence:
    """Where a sequence of tokens stands: a document, by its number in the train split, and a token of it."""

    document: int
    start: int


@dataclass(frozen=True)
class Document:
    """A document of the training text. `doc_id` is 32 hexadecimal digits, the same in every stage."""

    source: str
    doc_id: str
    n_tokens: int


@dataclass(frozen=True)
class _Shard:
    tokens: np.ndarray
    """(3 entries + padding,) uint8; an entry is a token or a separator."""
    positions: np.ndarray
    """(tokens,) uint32 entries."""
    keys: np.ndarray
    """(ceil(tokens / KEY_STEP),) uint64."""
    first_entry: int
    """Entries in the shards before this one."""
    first_document: int
    entries: int


class TraceIndex:
    """Looks up sequences of tokens in the training text. Nothing is held in memory: the files are mapped."""

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray], shards: list[_Shard]):
        """Use `open`."""
        self.folder = folder
        self.tokenizer_hash = str(manifest["tokenizer"])
        self.shards_content = str(manifest["token_shards"])
        self.rows = int(manifest["rows"])
        self.tokens = int(manifest["tokens"])
        self.documents = int(manifest["documents"])
        self.sources = tuple(str(name) for name in manifest["sources"])
        self.builder = str(manifest["builder"])
        self._starts = arrays["document_starts"]
        self._sources = arrays["document_sources"]
        self._ids = arrays["document_ids"]
        self._id_counts = arrays["id_counts"]
        self._shards = shards

    @classmethod
    def open(cls, folder: Path) -> "TraceIndex":
        """Map an index. ParakeetError if a file is missing, incomplete, or not of the size that it should have."""
        path = folder / MANIFEST_FILE
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise ParakeetError(f"{path} has schema {manifest['schema']}; this Parakeet reads {SCHEMA}. {REBUILD}")
            documents, rows = int(manifest["documents"]), int(manifest["rows"])
            shapes = {
                "document_starts": (np.int64, (documents + 1,)),
                "document_sources": (np.uint16, (documents,)),
                "document_ids": (np.uint8, (documents, 16)),
                "id_counts": (np.int64, (rows,)),
            }
            arrays = {name: _mapped(folder / f"{name}.npy", *shape) for name, shape in shapes.items()}
            shards: list[_Shard] = []
            entry = document = 0
            for number, counts in enumerate(manifest["shards"]):
                n, d = int(counts["tokens"]), int(counts["documents"])
                tokens = _mapped(folder / f"tokens-{number:05}.npy", np.uint8, (TOKEN_BYTES * (n + d) + _PADDING,))
                positions = _mapped(folder / f"positions-{number:05}.npy", np.uint32, (n,))
                keys = _mapped(folder / f"keys-{number:05}.npy", np.uint64, (-(-n // KEY_STEP),))
                shards.append(_Shard(tokens, positions, keys, entry, document, n + d))
                entry, document = entry + n + d, document + d
            return cls(folder, manifest, arrays, shards)
        except FileNotFoundError as error:
            raise ParakeetError(f"{folder} is not a trace index: it has no {Path(error.filename).name}.") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ParakeetError(f"{path} cannot be read ({error}). {REBUILD}") from None

    def longest_matches(self, ids: Any) -> np.ndarray:
        """(n,) int64: the length of the longest prefix of ids[i:] that stands within one document.

        It is 0 where ids[i] is no token of the training text.
        """
        query = _Query(ids, self.rows)
        n = query.length
        # The end of the longest match, i + length, never falls as i grows: a match at i without its first token is one
        # at i + 1. So between two positions whose matches end at the same place all end there, and a long copy costs
        # no more than a short one.
        ends = np.full(n + 1, -1, np.int64)
        ends[n] = n
        for stride, before in zip(_STRIDES, (n + 1, *_STRIDES), strict=False):
            wanted = np.arange(0, n, stride)
            wanted = wanted[ends[wanted] < 0]
            if stride != _STRIDES[0]:
                left = wanted // before * before
                same = ends[left] == ends[np.minimum(left + before, n)]
                ends[wanted[same]] = ends[left[same]]
                wanted = wanted[~same]
            ends[wanted] = wanted + self._longest(query, wanted)
        return ends[:n] - np.arange(n)

    def counts(self, ids: Any, starts: Any, lengths: Any) -> np.ndarray:
        """(m,) int64: how often each ids[start : start + length] occurs. An empty one occurs at each token."""
        query = _Query(ids, self.rows)
        found = np.zeros(len(np.atleast_1d(starts)), np.int64)
        for shard in self._shards:
            begins, ends = _ranges(shard, query, *_pieces(query, starts, lengths))
            found += ends - begins
        return found

    def occurrences(self, ids: Any, limit: int) -> list[Occurrence]:
        """At most `limit` places where `ids` stands, in the order of the documents. The same every time."""
        return self.occurrences_of(ids, [0], [len(ids)], limit)[0]

    def occurrences_of(self, ids: Any, starts: Any, lengths: Any, limit: int) -> list[list[Occurrence]]:
        """For each ids[start : start + length], (m,) of them: at most `limit` places, as `occurrences`.

        If there are more, they are taken at equal distances in the order of what follows them.
        """
        query = _Query(ids, self.rows)
        pieces = _pieces(query, starts, lengths)
        begins, ends = (
            (
                np.array(side).reshape(len(self._shards), -1)  # (shards, m)
                for side in zip(*(_ranges(shard, query, *pieces) for shard in self._shards), strict=True)
            )
            if self._shards
            else (np.zeros((0, len(pieces[0])), np.int64),) * 2
        )
        counts = ends - begins
        totals = counts.sum(axis=0)
        taken = np.minimum(totals, limit)
        # Occurrence k of `taken` of a piece: number k · total / taken of all, counted through the shards.
        of_piece = np.repeat(np.arange(len(totals)), taken)
        k = np.arange(len(of_piece)) - np.repeat(np.cumsum(taken) - taken, taken)
        number = k * totals[of_piece] // np.maximum(taken[of_piece], 1)
        entries = np.zeros(len(of_piece), np.int64)
        for i, shard in enumerate(self._shards):
            before = counts[:i].sum(axis=0)[of_piece]
            here = (number >= before) & (number < before + counts[i, of_piece])
            rank = begins[i, of_piece[here]] + number[here] - before[here]
            entries[here] = shard.first_entry + shard.positions[rank].astype(np.int64)
        documents = np.searchsorted(self._starts, entries, side="right") - 1
        offsets = entries - self._starts[documents]
        order = np.lexsort((offsets, documents, of_piece))
        found: list[list[Occurrence]] = [[] for _ in range(len(totals))]
        for piece, document, offset in zip(
            of_piece[order].tolist(), documents[order].tolist(), offsets[order].tolist(), strict=True
        ):
            found[piece].append(Occurrence(document, offset))
        return found

    def document(self, number: int) -> Document:
        """IndexError if there is no such document."""
        n_tokens = self._length(number)
        return Document(self.sources[int(self._sources[number])], bytes(self._ids[number]).hex(), n_tokens)

    def read(self, number: int, start: int, length: int) -> np.ndarray:
        """Ids (at most length,) uint32 of a document from `start`; fewer where the document begins or ends.

        A negative `start` counts from before the document: read(number, -5, 8) gives its first 3 tokens.
        """
        n_tokens = self._length(number)
        begin, end = max(start, 0), min(start + length, n_tokens)
        shard = self._shard_of(number)
        first = int(self._starts[number]) - shard.first_entry
        return _unpacked(shard, first + begin, first + max(begin, end))

    def id_counts(self) -> np.ndarray:
        """(rows,) int64: how often each id occurs."""
        return np.array(self._id_counts)

    def _length(self, number: int) -> int:
        if not 0 <= number < self.documents:
            raise IndexError(number)
        return int(self._starts[number + 1] - self._starts[number]) - 1

    @cached_property
    def _first_documents(self) -> np.ndarray:
        return np.array([shard.first_document for shard in self._shards])

    def _shard_of(self, number: int) -> _Shard:
        return self._shards[int(np.searchsorted(self._first_documents, number, side="right")) - 1]

    def _longest(self, query: "_Query", starts: np.ndarray) -> np.ndarray:
        longest = np.zeros(len(starts), np.int64)
        after = np.zeros(len(starts), np.bool_)
        for shard in self._shards:
            _, left, right = _insertion(shard, query, starts, query.length - starts, after)
            longest = np.maximum(longest, np.maximum(left, right))
        return longest


class _Query:
    """Ids that are looked for, as in the index; what is no token becomes `_NOWHERE`."""

    def __init__(self, ids: Any, rows: int) -> None:
        asked = np.asarray(ids, np.int64).reshape(-1)
        self.length = len(asked)
        known = np.where((asked >= 0) & (asked < rows), asked, _NOWHERE)
        self.bytes = np.full(TOKEN_BYTES * self.length + _PADDING, 0xFF, np.uint8)
        self.bytes[: TOKEN_BYTES * self.length] = packed(known).reshape(-1)


def _pieces(query: _Query, starts: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    begins, counts = np.atleast_1d(np.asarray(starts, np.int64)), np.atleast_1d(np.asarray(lengths, np.int64))
    if ((begins < 0) | (counts < 0) | (begins + counts > query.length)).any():
        raise IndexError(f"a piece is not within the {query.length} tokens")
    return begins, counts


def _ranges(shard: _Shard, query: _Query, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) begin and end, in the suffix array, of the suffixes that begin with each piece of the query."""
    m = len(starts)
    after = np.arange(2 * m) >= m
    places, _, _ = _insertion(shard, query, np.tile(starts, 2), np.tile(lengths, 2), after)
    return places[:m], places[m:]


def _insertion(
    shard: _Shard, query: _Query, starts: np.ndarray, lengths: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each piece of the query would stand in the suffix array: all (m,), of which all pieces are searched at once.

    `after` puts a piece behind the suffixes that begin with it, otherwise before them. Returns the place, and how many
    tokens the piece shares with the suffix before the place and with the one at it.
    """
    # The keys leave few suffixes. The piece's place is above `low` and at most `high`.
    first = _first_bytes(query.bytes, starts)
    keep = np.clip(8 - TOKEN_BYTES * lengths, 0, 8)  # bytes of the key that are not of the piece
    rest = np.where(
        keep == 8, np.uint64(2**64 - 1), (np.uint64(1) << (8 * np.minimum(keep, 7)).astype(np.uint64)) - np.uint64(1)
    )
    below, above = (
        np.searchsorted(shard.keys, first & ~rest, "left"),
        np.searchsorted(shard.keys, first | rest, "right"),
    )
    whole = keep > 0
    low = (np.where(whole & after, above, below) - 1) * KEY_STEP
    high = np.minimum(np.where(whole & ~after, below, above) * KEY_STEP, len(shard.positions))
    low = np.maximum(low, -1)
    # Tokens that the piece shares with the suffixes at `low` and `high`: at least so many. `exact` once it was compared.
    shared = np.zeros((2, len(starts)), np.int64)
    exact = np.zeros((2, len(starts)), np.bool_)
    exact[0], exact[1] = low < 0, high == len(shard.positions)
    while len(active := np.flatnonzero(high - low > 1)):
        middle = (low[active] + high[active]) // 2
        same, less = _compare(
            shard, query, shard.positions[middle], starts[active], lengths[active], shared[:, active].min(axis=0)
        )
        # A suffix that begins with the piece is before its place if the place is `after`.
        less |= (same == lengths[active]) & after[active]
        side = np.where(less, 0, 1)
        shared[side, active], exact[side, active] = same, True
        low[active[less]], high[active[~less]] = middle[less], middle[~less]
    for side, at in enumerate((low, high)):
        missing = np.flatnonzero(~exact[side])
        shared[side, missing], _ = _compare(
            shard, query, shard.positions[at[missing]], starts[missing], lengths[missing], shared[side, missing]
        )
    return high, shared[0], shared[1]


def _compare(
    shard: _Shard, query: _Query, positions: np.ndarray, starts: np.ndarray, lengths: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare suffixes with pieces of the query, (m,) of each, which share at least `shared` tokens.

    Returns how many tokens they share (m,), at most all of the piece, and whether the suffix is less (m,); for a whole
    piece the latter says nothing.
    """
    same, less = shared.astype(np.int64), np.zeros(len(starts), np.bool_)
    active, width = np.arange(len(starts)), _FIRST
    while len(active):
        n_bytes = width * TOKEN_BYTES
        mine = _rows(shard.tokens, positions[active] + same[active], n_bytes)
        theirs = _rows(query.bytes, starts[active] + same[active], n_bytes)
        differs = mine != theirs
        at = differs.argmax(axis=1)
        row = np.arange(len(active))
        unequal = differs[row, at]
        less[active] = unequal & (mine[row, at] < theirs[row, at])
        same[active] += np.where(unequal, at // TOKEN_BYTES, width)
        active = active[~unequal & (same[active] < lengths[active])]
        width = min(2 * width, _MOST)
    whole = same >= lengths
    return np.minimum(same, lengths), less & ~whole


def _rows(text: np.ndarray, places: np.ndarray, n_bytes: int) -> np.ndarray:
    """(m, n_bytes) uint8: the bytes from each place, in tokens. One copy for each row: void elements are not looked into."""
    windows = np.ndarray((len(text) - n_bytes + 1,), f"V{n_bytes}", text, strides=(1,))
    return windows[places * TOKEN_BYTES].view(np.uint8).reshape(-1, n_bytes)


def _first_bytes(text: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(m,) uint64: the first eight bytes from each place, in tokens, so that the order is that of the tokens."""
    return _rows(text, places, 8).reshape(-1).view(">u8").astype(np.uint64)


def _unpacked(shard: _Shard, begin: int, end: int) -> np.ndarray:
    four = np.zeros((end - begin, 4), np.uint8)
    four[:, 1:] = shard.tokens[TOKEN_BYTES * begin : TOKEN_BYTES * end].reshape(-1, TOKEN_BYTES)
    return four.reshape(-1).view(">u4").astype(np.uint32)


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ParakeetError(f"{path} is damaged ({error}). {REBUILD}") from None
    if array.dtype != dtype or array.shape != shape:
        raise ParakeetError(
            f"{path} holds {array.shape} {array.dtype}, expected {shape} {np.dtype(dtype)}: it was changed after it was made. {REBUILD}"
        )
    return array.view(np.ndarray)


def build_index(
    shards: "TokenShards",
    tokenizer: str,
    token_shards: str,
    folder: Path,
    progress: "Progress",
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Write an index of these documents into the empty `folder`. Returns its counts.

    `tokenizer` and `token_shards` are the hashes of what it is made from. Raises ParakeetError before anything is
    written if a document is too long.
    """
    lengths = shards.lengths()
    parts = list(_parts(shards, lengths, shard_tokens))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + 1)])
    ids = shards.doc_ids().astype(">u8").view(np.uint8).reshape(-1, 16)
    id_counts = np.zeros(shards.vocabulary_rows, np.int64)
    for name, array in {
        "document_starts": starts,
        "document_sources": shards.sources().astype(np.uint16),
        "document_ids": ids,
    }.items():
        np.save(folder / f"{name}.npy", array)
    with progress.task("indexing", float(lengths.sum()), "tokens") as task:
        for number, (first, last) in enumerate(parts):
            _write_shard(shards, lengths, first, last, folder, number, id_counts, task)
    np.save(folder / "id_counts.npy", id_counts)
    from importlib.metadata import version

    manifest = {
        "schema": SCHEMA,
        "tokenizer": tokenizer,
        "token_shards": token_shards,
        "rows": shards.vocabulary_rows,
        "tokens": int(lengths.sum()),
        "documents": len(shards),
        "sources": shards.names,
        "shards": [{"tokens": int(lengths[a:b].sum()), "documents": b - a} for a, b in parts],
        "builder": f"pydivsufsort {version('pydivsufsort')}",
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return {"tokens": manifest["tokens"], "documents": len(shards), "shards": len(parts)}


def _parts(shards: "TokenShards", lengths: np.ndarray, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """The first document of each index shard, and the one after its last."""
    if len(lengths) and lengths.max() + 1 > MOST_TOKENS:
        number = int(lengths.argmax())
        raise ParakeetError(
            f"{shards.directory}: document {shards.doc_id(number).hex()} has {lengths[number]:,} tokens. The trace index "
            f"takes at most {MOST_TOKENS - 1:,} in one document. Split the document, or set evaluation.trace_index to "
            "false."
        )
    ends = np.cumsum(lengths + 1)
    separators = _NOWHERE - shards.vocabulary_rows
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + shard_tokens, side="right"))
        last = min(max(last, first + 1), first + separators)
        yield first, last
        first = last


def _write_shard(
    shards: "TokenShards",
    lengths: np.ndarray,
    first: int,
    last: int,
    folder: Path,
    number: int,
    id_counts: np.ndarray,
    task: "Task",
) -> None:
    """Index the documents from `first` to before `last`, and add their ids to `id_counts`."""
    n_tokens = int(lengths[first:last].sum())
    entries = n_tokens + last - first
    text = np.zeros(TOKEN_BYTES * entries + _PADDING, np.uint8)
    rows = text[: TOKEN_BYTES * entries].reshape(-1, TOKEN_BYTES)
    ends = np.cumsum(lengths[first:last] + 1)  # entries up to and with each separator
    rows[ends - 1] = packed(shards.vocabulary_rows + np.arange(last - first))
    document = 0
    while document < last - first:
        begin = int(ends[document - 1]) if document else 0
        until = max(document + 1, int(np.searchsorted(ends, begin + _PIECE, side="right")))
        numbers = np.arange(document, until)
        taken = lengths[first:last][document:until]
        ids = shards.read(first + numbers, np.zeros_like(taken), taken)
        id_counts += np.bincount(ids, minlength=len(id_counts))
        is_token = np.ones(int(ends[until - 1]) - begin, np.bool_)
        is_token[ends[document:until] - 1 - begin] = False
        rows[begin : int(ends[until - 1])][is_token] = packed(ids)
        document = until
    np.save(folder / f"tokens-{number:05}.npy", text)
    # The separators are greater than all tokens: the suffixes that begin with one stand last.
    positions = suffix_array(text[: TOKEN_BYTES * entries])[:n_tokens]
    np.save(folder / f"positions-{number:05}.npy", positions)
    np.save(folder / f"keys-{number:05}.npy", _first_bytes(text, positions[::KEY_STEP].astype(np.int64)))
    task.advance(n_tokens)
