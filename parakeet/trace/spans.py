"""Where the wording of a text stands in the training text: its maximal verbatim spans, and where each was read.

A match is evidence of wording, not proof of cause: two people may write the same sentence. So each span has a tier by
how likely it is to be met by chance, and the text's coverage stands beside that of text nobody trained on.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.intervals import FEWEST_TEXTS, ratio_interval
from parakeet.sanitise import Sanitiser
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer
from parakeet.trace.index import Occurrence, TraceIndex
from parakeet.trace.lookup import Lookup, Spelling

CAVEAT = "A match is evidence of wording, not proof of cause."

MIN_TOKENS = 8
DOCUMENTS = 3
"""Documents that are shown of each span."""
MOST_BYTES = 2 << 20
"""Of a text. If a span begins at each byte, a text of so many takes 3 GB until it is printed."""
CONTEXT_TOKENS = 32
"""About how many tokens are shown on each side of a match."""

COPIED, COMMON, BOILERPLATE = "copied", "common phrase", "boilerplate"
TIERS = (COPIED, COMMON, BOILERPLATE)
"""The most telling first."""
RARE = -6.0
"""log10 of how often a span is expected by chance, below which it may count as copied."""
FEW, MANY = 10, 100
"""A copied span stands in at most FEW places, boilerplate in more than MANY."""

WINDOWS, FEWEST_WINDOWS = 300, 50
"""Windows of held-out text, and how many there must be before they are made shorter than the text."""
WINDOW_TOKENS = 2048
"""The longest window: the coverage of a longer text hardly depends on its length."""
HELD_OUT_TOKENS = 32_768
"""About how many tokens of held-out text are looked up."""
_CUT_START, _CUT_END = re.compile(r"^\ufffd+|^\S{1,20}(?=\s)"), re.compile(r"\ufffd+$|(?<=\s)\S{1,20}$")
AT_ONCE = 256
"""Spans whose places are in memory together."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place where a span stands, with the text around it."""

    document: int
    """Its number in the train split of the token shards."""
    source: str
    doc_id: str
    start: int
    tokens: int
    """It is tokens [start, start + tokens) of the document."""
    before: str
    match: str
    after: str
    begins: bool
    ends: bool
    """Whether `before` begins with the document, and `after` ends with it."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What helps to find the document: its file and row, an id. Empty if that is not known."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the text that stands in the training text, and is not part of a longer one."""

    start: int
    end: int
    """Characters [start, end) of the text."""
    tokens: int
    text: str
    tier: str
    count: int
    """How often it stands in the training text."""
    documents: int | None
    """In how many documents; None if it stands in more than MANY places, which are not all visited."""
    expected_log10: float
    """log10 of how often tokens drawn independently by their frequency would give it in a corpus of this size."""
    places: list[Place]
    """In different documents. Spans of the same wording share one list: a text may repeat itself a million times."""


@dataclass(frozen=True)
class HeldOut:
    """The coverage of held-out text by the same rule: what a text has that nobody copied from the training text."""

    windows: int
    """Each from another document."""
    tokens: int
    """Of each window: as many as the text has, or what enough documents have."""
    coverage: float
    interval: tuple[float, float] | None
    """95 %, over the documents; None for too few of them."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the text, sanitised, in which the same spans stand."""

    text: str
    spans: tuple[int, ...]
    """Numbers of the spans that cover it, from 0."""
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    """Those that begin with it, and those that end with it."""


@dataclass(frozen=True)
class Trace:
    """What was found. A span has at least `min_tokens` tokens; coverage is the share of the text's tokens in spans."""

    text: str
    min_tokens: int
    tokens: int
    covered: int
    """Tokens in spans."""
    absent: int
    """Tokens that stand nowhere in the training text, in no context."""
    longest: int
    """Tokens of the longest match, which may be shorter than a span."""
    spans: list[Span]
    held_out: HeldOut | None
    """None if no held-out text is long enough, or is there."""

    @property
    def coverage(self) -> float:
        return self.covered / self.tokens

    def count(self, tier: str) -> int:
        return sum(span.tier == tier for span in self.spans)

    @cached_property
    def segments(self) -> list[Segment]:
        """The whole text in pieces between the beginnings and ends of spans."""
        return _segments(self.text, self.spans)


def trace_text(
    index: TraceIndex,
    tokenizer: Tokenizer,
    text: str,
    min_tokens: int = MIN_TOKENS,
    documents: int = DOCUMENTS,
    held_out: TokenShards | None = None,
) -> Trace:
    """Look up a text (without lone surrogates). At most `documents` documents are shown of each span.

    Raises ParakeetError if the text is blank, has fewer tokens than a span, or more than MOST_BYTES.
    """
    if (n_bytes := len(text.encode())) > MOST_BYTES:
        raise ParakeetError(
            f"The text has {n_bytes:,} bytes, but a trace takes {MOST_BYTES:,} at most: trace it in parts."
        )
    if not text.strip():
        raise ParakeetError("The text is empty: there is nothing to trace.")
    n_tokens = len(tokenizer.encode_array(text))
    if n_tokens < min_tokens:
        raise ParakeetError(
            f"The text has {n_tokens:,} {'token' if n_tokens == 1 else 'tokens'}, and a span has at least "
            f"{min_tokens:,}: so short a text stands in any corpus by chance. Give a longer one, or --min-tokens N."
        )
    reader = _Reader(index, tokenizer, min_tokens)
    found = reader.look_up([text])[0]
    windows = None if held_out is None else _held_out(reader, held_out, n_tokens)
    return Trace(
        text, min_tokens, n_tokens, found.covered, found.absent, found.longest,
        reader.describe(text, found.ranges, documents), windows,
    )  # fmt: skip


def maximal(lengths: np.ndarray) -> np.ndarray:
    """(n,) bool: where a match begins that no other one contains. `lengths` (n,): the longest match at each place."""
    ends = np.arange(len(lengths)) + lengths
    # The ends never go back: without its first token, a match still is one.
    return (lengths > 0) & (np.diff(ends, prepend=-1) > 0)


@dataclass
class _Range:
    """Bytes [start, end) of a text that stand in the training text."""

    start: int
    end: int
    written: list[np.ndarray]
    """The ids that they are written in: one or two spellings."""


@dataclass(frozen=True)
class _Ranges:
    """The maximal ranges of a text, in order, as arrays: a text may have one at each of a million tokens."""

    spellings: Sequence["Spelling"]
    starts: np.ndarray
    ends: np.ndarray
    """(n,) int64 bytes each."""
    first: np.ndarray
    """(n + 1,) int64: where the writings of each range begin in `written`."""
    written: np.ndarray
    """(writings, 3) int64: spelling, first token, tokens."""

    def __len__(self) -> int:
        return len(self.starts)

    def some(self, begin: int, end: int) -> Iterator[_Range]:
        """Those with numbers from `begin` to `end`, or to the last one."""
        for number in range(begin, min(end, len(self))):
            writings = self.written[self.first[number] : self.first[number + 1]].tolist()
            ids = [self.spellings[spelling].ids[at : at + length] for spelling, at, length in writings]
            if len(ids) == 2 and np.array_equal(*ids):
                del ids[1]
            yield _Range(int(self.starts[number]), int(self.ends[number]), ids)


class _Found(NamedTuple):
    covered: int
    absent: int
    longest: int
    ranges: _Ranges


class _Reader:
    """Looks texts up in an index, all by the same rule."""

    def __init__(self, index: TraceIndex, tokenizer: Tokenizer, min_tokens: int) -> None:
        self.index = index
        self.tokenizer = tokenizer
        self.min_tokens = min_tokens
        self._lookup = Lookup(index, tokenizer)
        self._places: dict[tuple[int, ...], Place] = {}
        """What was read: a text may repeat itself ten thousand times."""

    def look_up(self, texts: Sequence[str]) -> list[_Found]:
        spelled = self._lookup.spellings(texts)
        return [self._found(text.encode(), spellings) for text, spellings in zip(texts, spelled, strict=True)]

    def _found(self, text: bytes, spellings: Sequence[Spelling]) -> _Found:
        # Coverage counts the tokens of the first spelling, the text's own.
        ranges = _maximal_ranges(spellings, self.min_tokens, text)
        known = [each.lengths > 0 for each in spellings]
        known_starts = np.concatenate([each.starts[there] for each, there in zip(spellings, known, strict=True)])
        known_ends = np.concatenate([each.ends[there] for each, there in zip(spellings, known, strict=True)])
        return _Found(
            covered=_tokens_inside(spellings[0], ranges.starts, ranges.ends),
            absent=len(spellings[0].ids) - _tokens_inside(spellings[0], known_starts, known_ends),
            longest=max(int(each.lengths.max()) for each in spellings),
            ranges=ranges,
        )

    def describe(self, text: str, ranges: _Ranges, documents: int) -> list[Span]:
        """The spans of a text in its order, each counted, and up to `documents` places read."""
        data = text.encode()
        # (bytes + 1,): how many characters begin before each byte.
        characters = np.concatenate([[0], np.cumsum(np.frombuffer(data, np.uint8) & 0xC0 != 0x80)])
        frequency = self._log10_frequency()
        spans: list[Span] = []
        # Of each wording, its first span: all but the place in the text is the same.
        known: dict[tuple[bytes, ...], Span] = {}
        for begin in range(0, len(ranges), AT_ONCE):
            some = list(ranges.some(begin, begin + AT_ONCE))
            keys = [(data[one.start : one.end], *(ids.tobytes() for ids in one.written)) for one in some]
            new = {key: one for key, one in zip(keys, some, strict=True) if key not in known}
            for (key, one), (count, found) in zip(
                new.items(), self._occurrences(list(new.values()), documents), strict=True
            ):
                start, end = characters[list(_whole_characters(data, one.start, one.end))].tolist()
                expected = max(float(frequency[ids].sum()) for ids in one.written) + float(np.log10(self.index.tokens))
                first: dict[int, tuple[int, int]] = {}
                for ids, occurrences in zip(one.written, found, strict=True):
                    for occurrence in occurrences:
                        first.setdefault(occurrence.document, (occurrence.start, len(ids)))
                places = [self._place(number, *where) for number, where in list(first.items())[:documents]]
                known[key] = Span(
                    start, end, max(map(len, one.written)), text[start:end], _tier(count, expected), count,
                    len(first) if count <= MANY else None, expected, places,
                )  # fmt: skip
            for key, one in zip(keys, some, strict=True):
                start, end = characters[list(_whole_characters(data, one.start, one.end))].tolist()
                spans.append(replace(known[key], start=start, end=end))
        return spans

    def _occurrences(self, ranges: Sequence[_Range], documents: int) -> Iterator[tuple[int, list[list[Occurrence]]]]:
        """How often each range stands in the training text, and for each of its spellings where: all places, or if
        there are more than MANY, enough for `documents` documents.
        """
        if not ranges:
            return
        written = [ids for one in ranges for ids in one.written]
        sizes = np.array([len(ids) for ids in written], np.int64)
        starts = np.cumsum(sizes) - sizes
        ids = np.concatenate(written)
        counts = self.index.counts(ids, starts, sizes)
        of_range = np.repeat(np.arange(len(ranges)), [len(one.written) for one in ranges])
        totals = np.bincount(of_range, weights=counts, minlength=len(ranges)).astype(np.int64)
        found: list[list[Occurrence]] = [[] for _ in written]
        # Several of the places may be in one document.
        for limit, chosen in ((MANY, totals <= MANY), (4 * documents, totals > MANY)):
            numbers = np.flatnonzero(chosen[of_range])
            places = self.index.occurrences_of(ids, starts[numbers], sizes[numbers], limit) if len(numbers) else []
            for number, each in zip(numbers.tolist(), places, strict=True):
                found[number] = each
        begin = 0
        for one, total in zip(ranges, totals.tolist(), strict=True):
            yield total, found[begin : begin + len(one.written)]
            begin += len(one.written)

    def _log10_frequency(self) -> np.ndarray:
        """(vocabulary rows,) log10 of the share of each id in the training text. All ids of a match occur there."""
        counts = np.maximum(self.index.id_counts(), 1)
        return np.log10(counts / self.index.tokens)

    def _place(self, *where: int) -> Place:
        if where not in self._places:
            self._places[where] = self._read(*where)
        return self._places[where]

    def _read(self, number: int, start: int, length: int) -> Place:
        document = self.index.document(number)
        begin = max(0, start - CONTEXT_TOKENS)
        end = min(document.n_tokens, start + length + CONTEXT_TOKENS)
        ids = self.index.read(number, begin, end - begin)
        first, last = start - begin, start - begin + length
        parts = [self._content(part) for part in (ids[:first], ids[first:last], ids[last:])]
        data = b"".join(parts)
        left, right = _whole_characters(data, len(parts[0]), len(parts[0]) + len(parts[1]))
        cut = (data[:left], data[left:right], data[right:])
        before, match, after = (part.decode("utf-8", "replace") for part in cut)
        # A context that is cut may begin or end within a character or a word.
        before = _CUT_START.sub("", before) if begin else before
        after = _CUT_END.sub("", after) if end < document.n_tokens else after
        return Place(
            number, document.source, document.doc_id, start, length, before.lstrip(), match, after.rstrip(),
            begins=begin == 0, ends=end == document.n_tokens,
        )  # fmt: skip

    def _content(self, ids: np.ndarray) -> bytes:
        """The bytes of some ids of a document, with the names of roles where they stand."""
        roles = {self.tokenizer.controls[name]: name.encode() for name in ROLE_TOKENS.values()}
        return b"".join(roles.get(token_id) or self.tokenizer.token_bytes(token_id) for token_id in ids.tolist())


def _maximal_ranges(spellings: Sequence[Spelling], min_tokens: int, text: bytes) -> _Ranges:
    """The ranges of all spellings that no other one contains. Two of the same bytes become one."""
    found = []
    for number, one in enumerate(spellings):
        begins = np.flatnonzero(maximal(one.lengths) & (one.lengths >= min_tokens))
        lengths = one.lengths[begins]
        bytes_of = (one.starts[begins], one.ends[begins + lengths - 1])
        found.append(np.stack([*bytes_of, np.full(len(begins), number), begins, lengths], axis=1))
    # (writings, 5): start, end, spelling, first token, tokens; the earliest first, then the longest.
    writings = np.concatenate(found)
    # Not only a part of a character, which nobody could be shown.
    whole = np.append(np.frombuffer(text, np.uint8) & 0xC0 != 0x80, True)
    before = np.concatenate([[0], np.cumsum(whole)])  # whole characters that begin before each byte
    writings = writings[before[writings[:, 1] + 1] - before[writings[:, 0]] > 1]
    writings = writings[np.lexsort((writings[:, 2], -writings[:, 1], writings[:, 0]))]
    starts, ends = writings[:, 0], writings[:, 1]
    furthest = np.maximum.accumulate(ends)
    kept = ends > np.concatenate([[-1], furthest])[: len(ends)]
    firsts = np.flatnonzero(kept)
    of = np.maximum.accumulate(np.where(kept, np.arange(len(ends)), 0))  # the last one kept
    same = (starts == starts[of]) & (ends == ends[of])
    first = np.append(np.concatenate([[0], np.cumsum(same)])[firsts], same.sum())
    return _Ranges(spellings, starts[firsts], ends[firsts], first, writings[same][:, 2:])


def _tokens_inside(spelling: Spelling, starts: np.ndarray, ends: np.ndarray) -> int:
    """How many tokens have all their bytes within the ranges [start, end), which may overlap."""
    edges = np.zeros(int(spelling.ends[-1]) + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    # (bytes + 1,): how many bytes before each are covered.
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    return int((covered[spelling.ends] - covered[spelling.starts] == spelling.ends - spelling.starts).sum())


def _whole_characters(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The bytes [start, end) without a character that is cut off at either end."""
    while start < end and data[start] & 0xC0 == 0x80:
        start += 1
    if end < len(data):
        while start < end and data[end] & 0xC0 == 0x80:
            end -= 1
    return start, end


def _tier(count: int, expected_log10: float) -> str:
    if count > MANY:
        return BOILERPLATE
    return COPIED if count <= FEW and expected_log10 < RARE else COMMON


def _segments(text: str, spans: Sequence[Span]) -> list[Segment]:
    cuts = sorted({0, len(text), *(span.start for span in spans), *(span.end for span in spans)})
    sanitiser = Sanitiser()  # of the whole text: an escape sequence may go on in the next segment
    segments, first = [], 0
    for start, end in pairwise(cuts):
        while first < len(spans) and spans[first].end <= start:
            first += 1
        inside = []
        for number in range(first, len(spans)):
            if spans[number].start >= end:
                break
            inside.append(number)
        shown = sanitiser.feed(text[start:end]) + (sanitiser.finish() if end == len(text) else "")
        begins = tuple(number for number in inside if spans[number].start == start)
        ends = tuple(number for number in inside if spans[number].end == end)
        segments.append(Segment(shown, tuple(inside), begins, ends))
    return segments


def _held_out(reader: _Reader, shards: TokenShards, tokens: int) -> HeldOut | None:
    """The coverage of windows of `tokens` tokens of held-out text, at most one a document; None if there is none."""
    windows = _windows(reader.tokenizer, shards, min(tokens, WINDOW_TOKENS))
    if not windows:
        return None
    length = len(windows[0])
    texts = [reader.tokenizer.decode(ids).strip("\ufffd \n") for ids in windows]
    texts = [text for text in texts if text]
    if length < reader.min_tokens or not texts:
        return None
    found = reader.look_up(texts)
    covered = [one.covered for one in found]
    n_tokens = [len(reader.tokenizer.encode_array(text)) for text in texts]
    interval = ratio_interval(covered, n_tokens) if len(texts) >= FEWEST_TEXTS else None
    return HeldOut(len(texts), length, sum(covered) / sum(n_tokens), interval)


def _windows(tokenizer: Tokenizer, shards: TokenShards, tokens: int) -> list[np.ndarray]:
    """Windows of equal length from different documents: `tokens` long, or as long as enough documents allow."""
    random = np.random.default_rng(0)
    some = random.permutation(len(shards))
    longest_first = np.argsort(-np.minimum(shards.lengths()[some], tokens + 2), kind="stable")
    runs = [_longest_run(tokenizer, shards, int(number)) for number in some[longest_first][: 2 * WINDOWS]]
    runs = sorted((run for run in runs if len(run)), key=len, reverse=True)
    if not runs:
        return []
    length = min(tokens, len(runs[min(FEWEST_WINDOWS, (len(runs) + 1) // 2) - 1]))
    most = min(WINDOWS, max(8, HELD_OUT_TOKENS // length))
    enough = [run for run in runs if len(run) >= length]
    chosen = [enough[number] for number in random.permutation(len(enough))[:most]]
    begins = [int(random.integers(len(run) - length + 1)) for run in chosen]
    return [run[begin : begin + length] for run, begin in zip(chosen, begins, strict=True)]


def _longest_run(tokenizer: Tokenizer, shards: TokenShards, number: int) -> np.ndarray:
    """The longest stretch of content that a document is trained on: of a conversation, the longest such turn."""
    ids = shards.tokens(number).astype(np.int64)
    learned = np.zeros(len(ids), np.bool_)
    chosen = np.array([number])
    spans = [(0, len(ids))] if shards.all_targets(chosen)[0] else shards.spans(chosen)[1].tolist()
    for start, end in spans:
        learned[start:end] = True
    content = learned & ~np.isin(ids, list(tokenizer.control_ids))
    edges = np.flatnonzero(np.diff(content, prepend=False, append=False)).reshape(-1, 2)
    if not len(edges):
        return ids[:0]
    start, end = edges[np.argmax(edges[:, 1] - edges[:, 0])].tolist()
    return ids[start:end]
