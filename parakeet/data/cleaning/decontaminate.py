"""Rule: text that the training documents share with evaluation sets.

A document is contaminated if it shares `words` words in a row with a field of a record, or contains the whole of a
shorter record. Words are compared after NFKC and case folding, so case, white space and punctuation hide no copy.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from parakeet.artifact import sync_file
from parakeet.benchmark_files import BenchmarkSet
from parakeet.data.marks import stream_safe
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.data.reading.source_readers import reader_of
from parakeet.data.reading.sources import endings
from parakeet.data.reading.turns import ROLE_NAMES, speaker_name
from parakeet.data.words import words_of
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent
from parakeet.progress import Progress
from parakeet.recipe import Decontamination
from parakeet.recipe_sources import RecordSource
from parakeet.sanitise import sanitise

MIN_WORDS = 5
"""Records of fewer words occur by chance in other text: "What is 2 + 2? 4"."""
ANSWER_LABELS = ((), ("answer",), ("a",), ("assistant",))
"""Words that may separate a short question from its answer in a text."""
SYSTEM_COLUMNS = ("system", "system_prompt")
QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "input")
"""Columns with the question of a record that has no known shape, such as multiple choice."""
ROLE_KEYS = ("role", "from")

WORDS_AT_ONCE = 1 << 18
"""Words of evaluation sets that are hashed together."""

_PAIR = np.dtype([("hash", np.uint64), ("record", np.uint32)])
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def folded_words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    if text.isascii():
        return words_of(text.lower())
    return words_of(unicodedata.normalize("NFKC", stream_safe(text)).casefold())


@dataclass
class SetCounts:
    """One evaluation set: `records` are searched for, `short` ones have too few words, `bad` ones cannot be read."""

    name: str
    records: int = 0
    short: int = 0
    bad: int = 0


@dataclass(frozen=True)
class Windows:
    """All runs of one number of words, sorted by hash; w runs."""

    hashes: np.ndarray
    """uint64 (w)."""
    records: np.ndarray
    """uint32 (w): number of the record that each run is from."""


@dataclass(frozen=True)
class Hits:
    """What a document shares with the sets."""

    sets: Mapping[str, list[int]]
    """Numbers of the records found, by the name of their set, in the order of the sets."""
    words: str
    """The first shared words."""


@dataclass(frozen=True)
class EvaluationIndex:
    """What is searched for: 12 bytes a window, the vocabulary of the sets, and 2 MB for how windows begin."""

    sets: list[SetCounts]
    vocabulary: Mapping[str, int]
    """Hash of each word; never 0, which stands for all other words."""
    openings: np.ndarray
    """uint8 (2^21,): a bit for the hash of the first `MIN_WORDS` words of each window."""
    windows: Mapping[int, Windows]
    """By their number of words, at least `MIN_WORDS`."""
    set_starts: np.ndarray = field(repr=False)
    """int64 (sets,): number of each set's first record."""

    def find(self, text: str) -> Hits | None:
        """What a text shares with the records, or None.

        Only runs that begin as a window does, and whose words are all in the vocabulary, are looked up.
        """
        words = folded_words(text)
        if len(words) < MIN_WORDS or not self.windows:
            return None
        largest = max(self.windows)
        # (words + largest,) hash of each word, and unknown ones after the end.
        hashes = np.zeros(len(words) + largest, np.uint64)
        hashes[: len(words)] = np.fromiter(map(self.vocabulary.get, words, repeat(0)), np.uint64, len(words))
        # (starts,) where a run may begin, and the hash of its first `size` words. A longer run's hash is made from that
        # of a shorter one.
        runs = window_hashes(hashes[: len(words)], MIN_WORDS)
        starts = np.flatnonzero(_has_bit(self.openings, runs))
        runs = runs[starts]
        found: set[int] = set()
        first: tuple[int, int] | None = None
        for size in range(MIN_WORDS, largest + 1):
            if size > MIN_WORDS:
                added = hashes[starts + (size - 1)]
                known = added != 0
                starts, runs = starts[known], runs[known] * _MULTIPLIER + added[known]
            if not len(starts):
                break
            windows = self.windows.get(size)
            if windows is None:
                continue
            # Where each hash would be inserted among the sorted ones. It is shared if that place holds the same hash.
            begins = np.searchsorted(windows.hashes, runs)
            shared = windows.hashes[np.minimum(begins, len(windows.hashes) - 1)] == runs
            if not shared.any():
                continue
            start = int(starts[shared][0])
            first = min(first or (start, size), (start, size))
            ends = np.searchsorted(windows.hashes, runs[shared], side="right")
            for begin, end in zip(begins[shared].tolist(), ends.tolist(), strict=True):
                found.update(windows.records[begin:end].tolist())
        if first is None:
            return None
        return Hits(self._by_set(found), " ".join(words[first[0] : first[0] + first[1]]))

    def _by_set(self, records: set[int]) -> dict[str, list[int]]:
        by_set: dict[str, list[int]] = {}
        for record in sorted(records):
            number = int(np.searchsorted(self.set_starts, record, side="right")) - 1
            by_set.setdefault(self.sets[number].name, []).append(record - int(self.set_starts[number]))
        return by_set

    def save(self, path: Path) -> None:
        """Write an .npz without pickled objects, atomically."""
        arrays: dict[str, np.ndarray] = {
            "sets": _bytes(json.dumps([asdict(counts) for counts in self.sets])),
            "vocabulary": _bytes("\n".join(self.vocabulary)),
            "word_hashes": np.fromiter(self.vocabulary.values(), np.uint64, len(self.vocabulary)),
            "openings": self.openings,
            "set_starts": self.set_starts,
        }
        for size, windows in self.windows.items():
            arrays |= {f"hashes_{size}": windows.hashes, f"records_{size}": windows.records}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial.npz")
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        sync_file(temporary)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "EvaluationIndex":
        with np.load(path, allow_pickle=False) as arrays:
            sizes = sorted(int(name.removeprefix("hashes_")) for name in arrays.files if name.startswith("hashes_"))
            words = arrays["vocabulary"].tobytes().decode().split("\n")
            return cls(
                sets=[SetCounts(**counts) for counts in json.loads(arrays["sets"].tobytes())],
                vocabulary=dict(zip(words, arrays["word_hashes"].tolist(), strict=True)),
                openings=arrays["openings"],
                windows={size: Windows(arrays[f"hashes_{size}"], arrays[f"records_{size}"]) for size in sizes},
                set_starts=arrays["set_starts"],
            )


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def window_hashes(hashes: np.ndarray, size: int) -> np.ndarray:
    """uint64 (n − size + 1,): hashes of all runs of `size` words among n, a polynomial in the words' hashes (n,)."""
    count = max(0, len(hashes) - size + 1)
    total = np.zeros(count, np.uint64)
    for offset in range(size):
        total = total * _MULTIPLIER + hashes[offset : offset + count]
    return total


def _bit_of(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Byte and bit of each hash among the 2^24 bits of `EvaluationIndex.openings`, from its upper bits."""
    places = (hashes >> np.uint64(40)).astype(np.int64)
    return places >> 3, (1 << (places & 7)).astype(np.uint8)


def _has_bit(openings: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    byte, bit = _bit_of(hashes)
    return (openings[byte] & bit) != 0


class WordHashes(dict[str, int]):
    """Hash of each word that was asked for; never 0."""

    def __missing__(self, word: str) -> int:
        self[word] = number = xxhash.xxh3_64_intdigest(word.encode()) or 1
        return number


class IndexBuilder:
    """Takes records, and keeps 12 bytes of each run of words that is searched for."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.records = 0
        self._hashes = WordHashes()
        self._openings = np.zeros(1 << 21, np.uint8)
        self._taken: dict[int, list[tuple[int, list[str]]]] = {}
        """By the size of their windows: records with a sequence of words, not hashed yet."""
        self._taken_words = 0
        self._windows: dict[int, list[np.ndarray]] = {}
        """By size: windows hashed together, as sorted `_PAIR`s without repetition."""

    def add(self, fields: Sequence[str], wholes: Sequence[tuple[str, ...]]) -> bool:
        """Take a record: its fields, and the texts that are searched for whole if they are short.

        A whole is a text, or a question and its answer. False if nothing is long enough to search for.
        """
        runs = {self.words: [split for text in dict.fromkeys(fields) if len(split := folded_words(text)) >= self.words]}
        for whole in dict.fromkeys(wholes):
            parts = [folded_words(text) for text in whole]
            if not all(0 < len(part) < self.words for part in parts):
                continue
            for label in ANSWER_LABELS if len(parts) > 1 else ANSWER_LABELS[:1]:
                words = [*parts[0], *label, *(word for part in parts[1:] for word in part)]
                if len(words) - len(label) >= MIN_WORDS:
                    runs.setdefault(len(words), []).append(words)
        for size, sequences in runs.items():
            self._taken.setdefault(size, []).extend((self.records, words) for words in sequences)
            self._taken_words += sum(map(len, sequences))
        if self._taken_words >= WORDS_AT_ONCE:
            self._hash()
        found = any(runs.values())
        self.records += found
        return found

    def _hash(self) -> None:
        """Hash the windows of what was taken: record by record it would take four times as long."""
        for size, taken in self._taken.items():
            words = chain.from_iterable(words for _, words in taken)
            lengths = np.array([len(words) for _, words in taken], np.int64)
            hashes = np.fromiter(map(self._hashes.__getitem__, words), np.uint64, int(lengths.sum()))
            # (n − size + 1,) windows over all sequences joined; those that run over the end of one are left out.
            within = np.arange(len(hashes)) + size <= np.repeat(np.cumsum(lengths), lengths)
            starts = np.flatnonzero(within)
            byte, bit = _bit_of(window_hashes(hashes, MIN_WORDS)[starts])
            np.bitwise_or.at(self._openings, byte, bit)
            pairs = np.empty(len(starts), _PAIR)
            pairs["hash"] = window_hashes(hashes, size)[starts]
            pairs["record"] = np.repeat(np.array([record for record, _ in taken], np.uint32), lengths)[starts]
            self._windows.setdefault(size, []).append(_sorted_pairs(pairs))
        self._taken, self._taken_words = {}, 0

    def index(self, sets: list[SetCounts]) -> EvaluationIndex:
        """The index of all records taken, those of `sets` in their order."""
        self._hash()
        windows = {}
        for size in sorted(self._windows):
            pairs = _sorted_pairs(np.concatenate(self._windows[size]))
            windows[size] = Windows(pairs["hash"].copy(), pairs["record"].copy())
        return EvaluationIndex(
            sets=sets,
            vocabulary=self._hashes,
            openings=self._openings,
            windows=windows,
            set_starts=np.cumsum([0, *(counts.records for counts in sets[:-1])]),
        )


def _sorted_pairs(pairs: np.ndarray) -> np.ndarray:
    """`_PAIR`s (n,) sorted by hash, then record, each once."""
    pairs = pairs[np.lexsort((pairs["record"], pairs["hash"]))]
    return pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])] if len(pairs) else pairs


def build_index(settings: Decontamination, inputs: Mapping[str, Path], progress: Progress) -> EvaluationIndex:
    """Read all evaluation sets; `inputs` holds the folders of downloaded ones, as `source_files/<name>`.

    Raises ParakeetError if a set's file cannot be read, more than its `bad_records` cannot be read, or there is
    nothing to search for.
    """
    builder = IndexBuilder(settings.words)
    sets = []
    with progress.task("evaluation sets", None, "records") as task:
        for chosen in settings.sets:
            counts, first_bad = SetCounts(chosen.name), ""
            found = reader_of(chosen).files(inputs)
            unread = Counter(found.unread)
            for path, record in (
                (file, record) for file in found.files for record in read_records(file, chosen.separator, unread)
            ):
                task.advance()
                if record.value is None:
                    counts.bad += 1
                    where = f"{path}/{record.member}" if record.member else str(path)
                    first_bad = first_bad or sanitise(f"{where}:{record.row}: {record.problem}")
                elif builder.add(*searched_texts(record.value, chosen)):
                    counts.records += 1
                else:
                    counts.short += 1
            _refuse_useless(counts, chosen, first_bad)
            if unread:
                progress.say(f"Evaluation set {chosen.name}: left out, because they are not read: {endings(unread)}")
            sets.append(counts)
    for counts in sets:
        if counts.bad or counts.short:
            progress.say(
                f"Evaluation set {counts.name}: {counts.records:,} records are searched for, {counts.short:,} are too "
                f"short, {counts.bad:,} cannot be read."
            )
    return builder.index(sets)


def _refuse_useless(counts: SetCounts, chosen: RecordSource, first_bad: str) -> None:
    """A record that cannot be read cannot be searched for, and a copy of it would be trained on unnoticed."""
    if counts.bad > chosen.bad_records * (counts.records + counts.short + counts.bad):
        raise ParakeetError(
            f"Evaluation set {counts.name}: {counts.bad:,} of its records cannot be read, and at most "
            f"{format_percent(chosen.bad_records, 0)} may be bad (its bad_records). Correct the file, or the set in "
            f"decontamination.sets. The first:\n  {first_bad}"
        )
    if counts.records == 0 and not isinstance(chosen, BenchmarkSet):
        raise ParakeetError(
            f"Evaluation set {counts.name} holds nothing to search for: {counts.bad:,} of its records "
            f"cannot be read, {counts.short:,} are too short. Correct it in decontamination.sets."
        )


def searched_texts(
    value: dict[str, Any] | list[Any] | str, chosen: RecordSource
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The fields of a record, and the texts that are searched for whole if they are short.

    Fields are the texts in the file and the turns made of them. System messages are left out, because other sets have
    the same instructions.
    """
    if isinstance(value, str):
        return [value], [(value,)]
    columns = chosen.columns
    raw = list(_texts(value, {*SYSTEM_COLUMNS, columns.system if columns else None}))
    try:
        turns = shape(value, chosen).document.turns
    except BadRecord:
        turns = ()
    spoken = [turn.content for turn in turns if turn.role != "System"]
    if len(spoken) == 1:
        return [*raw, *spoken], [(spoken[0],)]
    columns_of = value if isinstance(value, dict) else {}
    question = spoken[0] if spoken else next((v for k in QUESTIONS if isinstance(v := columns_of.get(k), str)), None)
    answers = [*spoken[1:2], *raw]
    return [*raw, *spoken], [(question, answer) for answer in answers if question and answer != question]


def _texts(value: Any, left_out: set[str | None]) -> Iterator[str]:
    """The strings of a record at any depth, without the names of roles and without system messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, left_out)
    elif isinstance(value, dict):
        roles = [value[key] for key in ROLE_KEYS if isinstance(value.get(key), str)]
        if not any(ROLE_NAMES.get(speaker_name(role)) == "System" for role in roles):
            for key, item in value.items():
                if key not in left_out and key not in ROLE_KEYS:
                    yield from _texts(item, left_out)
