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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.trace.mapped import DAMAGED, Mapped, rows
from parakeet.trace.suffix_array import TOKEN_BYTES, packed

MANIFEST_FILE = "index.json"
SCHEMA = 1
KEY_STEP = 64
_KEY_BYTES = 8
_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(_KEY_BYTES + 1)], np.uint64)
"""Integers whose last n bytes are ones."""
NOWHERE = 0xFFFFFF
"""In a query: an id that is no token. No separator has this value."""
_FIRST = 8
"""Tokens of a suffix that are compared at first. Most matches are short; what matches goes on with twice as many."""
_MOST = 1 << 20
"""Tokens of all suffixes together that are compared at once, unless there are very many suffixes."""
PADDING = 192
"""Zero bytes after the last separator, since a comparison reads `_FIRST` tokens at least."""
_STRIDES = (64, 4, 1)
"""How far apart the positions are that are looked up first, second and third. Each spares some of the next."""
_MANY = 2048
"""So many positions are worth the first."""


_SAMPLE = 32
"""Documents, keys and neighbours of each shard that are looked at when it is opened."""


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
class IndexShard:
    """Some of the documents, in files of their own, mapped."""

    tokens: Mapped
    """(3 entries + padding,) uint8; an entry is a token or a separator."""
    positions: Mapped
    """(tokens,) uint32 entries."""
    keys: Mapped
    """(ceil(tokens / KEY_STEP),) uint64."""
    first_entry: int
    """Entries in the shards before this one."""
    first_document: int
    entries: int

    def ids(self, begin: int, end: int) -> np.ndarray:
        """(end - begin,) uint32: the entries from `begin`."""
        four = np.zeros((end - begin, 4), np.uint8)
        four[:, 1:] = self.tokens.array[TOKEN_BYTES * begin : TOKEN_BYTES * end].reshape(-1, TOKEN_BYTES)
        return four.reshape(-1).view(">u4").astype(np.uint32)


class TraceIndex:
    """Looks up sequences of tokens in the training text. Nothing is held in memory: the files are mapped."""

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, Mapped], shards: list[IndexShard]):
        """Use `open`."""
        self.folder = folder
        self.tokenizer_hash = str(manifest["tokenizer"])
        self.shards_content = str(manifest["token_shards"])
        self.rows = int(manifest["rows"])
        self.tokens = int(manifest["tokens"])
        self.documents = int(manifest["documents"])
        self.sources = tuple(str(name) for name in manifest["sources"])
        self.builder = str(manifest["builder"])
        self._starts = arrays["document_starts"].array
        self._sources = arrays["document_sources"]
        self._ids = arrays["document_ids"]
        self._id_counts = arrays["id_counts"].array
        self.shards = shards

    @classmethod
    def open(cls, folder: Path) -> "TraceIndex":
        """Map an index. ParakeetError if a file is missing, incomplete, or not of the size that it should have, or if a
        sample of its values contradict each other."""
        path = folder / MANIFEST_FILE
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise ParakeetError(f"{path} has schema {manifest['schema']}; this Parakeet reads {SCHEMA}. {DAMAGED}")
            documents, rows = int(manifest["documents"]), int(manifest["rows"])
            shapes = {
                "document_starts": (np.int64, (documents + 1,)),
                "document_sources": (np.uint16, (documents,)),
                "document_ids": (np.uint8, (documents, 16)),
                "id_counts": (np.int64, (rows,)),
            }
            arrays = {
                name: Mapped(folder / f"{name}.npy", *shape, whole=name == "document_starts")
                for name, shape in shapes.items()
            }
            shards: list[IndexShard] = []
            entry = document = 0
            for number, counts in enumerate(manifest["shards"]):
                n, d = int(counts["tokens"]), int(counts["documents"])
                tokens = Mapped(folder / f"tokens-{number:05}.npy", np.uint8, (TOKEN_BYTES * (n + d) + PADDING,))
                positions = Mapped(folder / f"positions-{number:05}.npy", np.uint32, (n,))
                keys = Mapped(folder / f"keys-{number:05}.npy", np.uint64, (-(-n // KEY_STEP),), whole=True)
                shards.append(IndexShard(tokens, positions, keys, entry, document, n + d))
                entry, document = entry + n + d, document + d
            index = cls(folder, manifest, arrays, shards)
            index._check_sample()
            return index
        except FileNotFoundError as error:
            raise ParakeetError(f"{folder} is not a trace index: it has no {Path(error.filename).name}.") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ParakeetError(f"{path} cannot be read ({error}). {DAMAGED}") from None

    def _check_sample(self) -> None:
        """Raise ParakeetError if some values of each shard (`_SAMPLE` of each kind) show that the index is damaged.
        Answers from a damaged one would look like any others. `verify_index` looks at everything."""
        fault = "id_counts.npy does not count its tokens" if int(self._id_counts.sum()) != self.tokens else None
        for number, shard in enumerate(self.shards):
            if fault := fault or _fault_in_sample(shard, self._starts, self.rows):
                raise ParakeetError(f"{self.folder}, shard {number}, is damaged: {fault}. {DAMAGED}")

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
        before = n + 1
        for stride in _STRIDES[n <= _MANY :]:
            wanted = np.arange(0, n, stride)
            wanted = wanted[ends[wanted] < 0]
            left = wanted // before * before
            right = np.minimum(left + before, n)
            same = (ends[left] == ends[right]) & (ends[left] >= 0)
            ends[wanted[same]] = ends[left[same]]
            ends[wanted[~same]] = wanted[~same] + self._longest(query, wanted[~same])
            before = stride
        return ends[:n] - np.arange(n)

    def counts(self, ids: Any, starts: Any, lengths: Any) -> np.ndarray:
        """(m,) int64: how often each ids[start : start + length] occurs. An empty one occurs at each token."""
        query = _Query(ids, self.rows)
        found = np.zeros(len(np.atleast_1d(starts)), np.int64)
        for shard in self.shards:
            begins, ends = _ranges(shard, query, *_pieces(query, starts, lengths))
            found += ends - begins
        return found

    def continued(self, ids: Any, starts: Any, lengths: Any) -> np.ndarray:
        """(m,) int64: how often each ids[start : start + length] occurs with a token after it in its document.

        An empty one occurs before each token.
        """
        query = _Query(ids, self.rows)
        begins, counts = _pieces(query, starts, lengths)
        found = np.zeros(len(begins), np.int64)
        for shard in self.shards:
            first, high = _ranges(shard, query, begins, counts)
            low = first.copy()
            # At the end of a document a separator follows, which is above all ids: these suffixes stand last.
            while len(active := np.flatnonzero(low < high)):
                middle = (low[active] + high[active]) // 2
                places = shard.positions.items(middle).astype(np.int64) + counts[active]
                followed = shard.tokens.rows(TOKEN_BYTES * places, TOKEN_BYTES).astype(np.int64)
                at_end = followed @ (1 << 16, 1 << 8, 1) >= self.rows
                high[active[at_end]], low[active[~at_end]] = middle[at_end], middle[~at_end] + 1
            found += low - first
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
        # (shards, m): the suffixes of each shard that begin with a piece.
        begins, counts = np.zeros((2, len(self.shards), len(pieces[0])), np.int64)
        for number, shard in enumerate(self.shards):
            begins[number], ends = _ranges(shard, query, *pieces)
            counts[number] = ends - begins[number]
        totals = counts.sum(axis=0)
        taken = np.minimum(totals, limit)
        # Flat, (Σ taken,): the piece of each place, and its number among all of that piece, through the shards.
        piece = np.repeat(np.arange(len(totals)), taken)
        number_taken = np.arange(len(piece)) - np.repeat(np.cumsum(taken) - taken, taken)
        number = number_taken * totals[piece] // taken[piece]
        entries = np.zeros(len(piece), np.int64)
        before = np.zeros(len(totals), np.int64)
        for shard, first, count in zip(self.shards, begins, counts, strict=True):
            rank = number - before[piece]
            here = (rank >= 0) & (rank < count[piece])
            entries[here] = shard.first_entry + shard.positions.items((first[piece] + rank)[here]).astype(np.int64)
            before += count
        documents = np.searchsorted(self._starts, entries, side="right") - 1
        if ((documents < 0) | (documents >= self.documents)).any():
            raise ParakeetError(f"{self.folder} is damaged: a position is in no document. {DAMAGED}")
        offsets = entries - self._starts[documents]
        self._sources.ask(documents)
        self._ids.ask(documents)
        found: list[list[Occurrence]] = [[] for _ in range(len(totals))]
        order = np.lexsort((offsets, documents, piece))
        for at, *place in np.stack([piece, documents, offsets], axis=1)[order].tolist():
            found[at].append(Occurrence(*place))
        return found

    def document_lengths(self) -> np.ndarray:
        """(documents,) int64 tokens of each document."""
        return np.diff(self._starts) - 1

    def document_starts(self, first: int, number: int) -> np.ndarray:
        """(number + 1,) int64: the first entry of each of so many documents from `first`, and the one after them."""
        return np.array(self._starts[first : first + number + 1])

    def document(self, number: int) -> Document:
        """IndexError if there is no such document."""
        n_tokens, source = self._length(number), int(self._sources.array[number])
        if source >= len(self.sources):
            raise ParakeetError(f"{self.folder} is damaged: document {number:,} is of no source. {DAMAGED}")
        return Document(self.sources[source], bytes(self._ids.array[number]).hex(), n_tokens)

    def read(self, number: int, start: int, length: int) -> np.ndarray:
        """Ids (at most length,) uint32 of a document from `start`; fewer where the document begins or ends.

        A negative `start` counts from before the document: read(number, -5, 8) gives its first 3 tokens.
        """
        n_tokens = self._length(number)
        begin, end = max(start, 0), min(start + length, n_tokens)
        shard = self._shard_of(number)
        first = int(self._starts[number]) - shard.first_entry
        return shard.ids(first + begin, first + max(begin, end))

    def id_counts(self) -> np.ndarray:
        """(rows,) int64: how often each id occurs."""
        return np.array(self._id_counts)

    def _length(self, number: int) -> int:
        if not 0 <= number < self.documents:
            raise IndexError(number)
        return int(self._starts[number + 1] - self._starts[number]) - 1

    @cached_property
    def _first_documents(self) -> np.ndarray:
        return np.array([shard.first_document for shard in self.shards])

    def _shard_of(self, number: int) -> IndexShard:
        return self.shards[int(np.searchsorted(self._first_documents, number, side="right")) - 1]

    def _longest(self, query: "_Query", starts: np.ndarray) -> np.ndarray:
        longest = np.zeros(len(starts), np.int64)
        after = np.zeros(len(starts), np.bool_)
        for shard in self.shards:
            _, left, right = _insertion(shard, query, starts, query.length - starts, after)
            longest = np.maximum(longest, np.maximum(left, right))
        return longest


class _Query:
    """Ids that are looked for, as in the index; what is no token becomes `NOWHERE`."""

    def __init__(self, ids: Any, rows: int) -> None:
        asked = np.asarray(ids, np.int64).reshape(-1)
        self.length = len(asked)
        known = np.where((asked >= 0) & (asked < rows), asked, NOWHERE)
        self.bytes = np.full(TOKEN_BYTES * self.length + PADDING, 0xFF, np.uint8)
        self.bytes[: TOKEN_BYTES * self.length] = packed(known).reshape(-1)


def _pieces(query: _Query, starts: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    begins, counts = np.atleast_1d(np.asarray(starts, np.int64)), np.atleast_1d(np.asarray(lengths, np.int64))
    if ((begins < 0) | (counts < 0) | (begins + counts > query.length)).any():
        raise IndexError(f"a piece is not within the {query.length} tokens")
    return begins, counts


def _ranges(shard: IndexShard, query: _Query, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) begin and end, in the suffix array, of the suffixes that begin with each piece of the query."""
    m = len(starts)
    after = np.arange(2 * m) >= m
    places, _, _ = _insertion(shard, query, np.tile(starts, 2), np.tile(lengths, 2), after)
    return places[:m], places[m:]


def _insertion(
    shard: IndexShard, query: _Query, starts: np.ndarray, lengths: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each piece of the query, (m,) of them, would stand in the suffix array. All are searched at once.

    `after` puts a piece behind the suffixes that begin with it, otherwise before them. Returns the place, and how many
    tokens the piece shares with the suffix before the place and with the one at it.
    """
    low, high = _between_keys(shard, query, starts, lengths, after)
    # Tokens that the piece shares with the suffixes at `low` and `high`: (2, m), at least so many. They are `exact`
    # once that suffix was compared, or if there is none.
    shared = np.zeros((2, len(starts)), np.int64)
    exact = np.stack([low < 0, high == len(shard.positions)])
    while len(active := np.flatnonzero(high - low > 1)):
        middle = (low[active] + high[active]) // 2
        known = shared[:, active].min(axis=0)  # suffixes between two that share so much share it too
        same, less = _compare(shard, query, shard.positions.items(middle), starts[active], lengths[active], known)
        less |= (same == lengths[active]) & after[active]
        side = np.where(less, 0, 1)
        shared[side, active], exact[side, active] = same, True
        low[active[less]], high[active[~less]] = middle[less], middle[~less]
    for number, places in enumerate((low, high)):
        left = np.flatnonzero(~exact[number])
        suffixes = shard.positions.items(places[left])
        shared[number, left], _ = _compare(shard, query, suffixes, starts[left], lengths[left], shared[number, left])
    return high, shared[0], shared[1]


def _between_keys(
    shard: IndexShard, query: _Query, starts: np.ndarray, lengths: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """low, high, (m,) each: the place of a piece in the suffix array is above `low` and at most `high`.

    The keys alone tell this, without a look at the suffixes.
    """
    first = first_bytes(query.bytes, starts)
    # Bytes of the first eight that are not of the piece: any byte may stand there.
    free = np.clip(_KEY_BYTES - TOKEN_BYTES * lengths, 0, _KEY_BYTES)
    any_bytes = _LOW_BYTES[free]
    below = np.searchsorted(shard.keys.array, first & ~any_bytes, "left")
    above = np.searchsorted(shard.keys.array, first | any_bytes, "right")
    # A short piece is all within the key, so the keys tell also where those that begin with it begin and end.
    whole = free > 0
    low = (np.where(whole & after, above, below) - 1) * KEY_STEP
    high = np.where(whole & ~after, below, above) * KEY_STEP
    return np.maximum(low, -1), np.minimum(high, len(shard.positions))


def _compare(
    shard: IndexShard, query: _Query, positions: np.ndarray, starts: np.ndarray, lengths: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare suffixes with pieces of the query, (m,) of each, which share at least `shared` tokens.

    Returns how many tokens they share (m,), at most all of the piece, and whether the suffix is less (m,); for a whole
    piece the latter says nothing.
    """
    same, less = shared.astype(np.int64), np.zeros(len(starts), np.bool_)
    active, width = np.arange(len(starts)), _FIRST
    while len(active):
        my_places = TOKEN_BYTES * (positions[active] + same[active])
        their_places = TOKEN_BYTES * (starts[active] + same[active])
        room = min(len(shard.tokens) - my_places.max(), len(query.bytes) - their_places.max()) // TOKEN_BYTES
        width = min(width, max(room, _FIRST), max(_MOST // len(active), _FIRST))
        mine = shard.tokens.rows(my_places, TOKEN_BYTES * width)
        theirs = rows(query.bytes, their_places, TOKEN_BYTES * width)
        differs = mine != theirs
        at = differs.argmax(axis=1)
        row = np.arange(len(active))
        unequal = differs[row, at]
        less[active] = unequal & (mine[row, at] < theirs[row, at])
        same[active] += np.where(unequal, at // TOKEN_BYTES, width)
        active = active[~unequal & (same[active] < lengths[active])]
        width *= 2
    whole = same >= lengths
    return np.minimum(same, lengths), less & ~whole


def _fault_in_sample(shard: IndexShard, starts: np.ndarray, rows: int) -> str | None:
    """What is wrong with a shard, as far as a sample of its neighbours, keys and documents tells."""
    n, documents = len(shard.positions), shard.entries - len(shard.positions)
    chosen = np.linspace(0, documents - 1, min(documents, _SAMPLE)).astype(np.int64)
    ends = starts[shard.first_document + chosen + 1] - shard.first_entry - 1
    if ((ends < 0) | (ends >= shard.entries)).any():
        return "its documents do not fill it"
    separators = packed(rows + chosen)
    if (shard.tokens.rows(TOKEN_BYTES * ends, TOKEN_BYTES) != separators).any():
        return "a document does not end with its separator"
    if not n:
        return None
    keys = np.unique(np.linspace(0, len(shard.keys) - 1, min(len(shard.keys), _SAMPLE)).astype(np.int64))
    # Where the shard is small, neighbours between the keys too.
    ranks = np.unique(np.concatenate([KEY_STEP * keys, np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)]))
    one, other = (
        shard.tokens.rows(TOKEN_BYTES * shard.positions.items(at).astype(np.int64), PADDING)
        for at in (ranks, np.minimum(ranks + 1, n - 1))
    )
    differs = one != other
    at = (np.arange(len(ranks)), differs.argmax(axis=1))
    if (one[at] > other[at]).any():  # those that are alike for so long are not compared further
        return "its positions are in the wrong order"
    of_keys = one[np.searchsorted(ranks, KEY_STEP * keys), :_KEY_BYTES]
    if (np.ascontiguousarray(of_keys).view(">u8").reshape(-1) != shard.keys.array[keys]).any():
        return "its keys are not those of its suffixes"
    return None


def first_bytes(text: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(m,) uint64: the first eight bytes from each place, in tokens, so that the order is that of the tokens."""
    return rows(text, TOKEN_BYTES * places, _KEY_BYTES).reshape(-1).view(">u8").astype(np.uint64)
