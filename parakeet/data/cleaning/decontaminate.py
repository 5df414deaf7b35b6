"""Rule: text that the training documents share with evaluation sets.

A document is contaminated if it shares `words` words in a row with a field of a record, or contains the whole of a
shorter record. Words are compared after NFKC and case folding, so case, white space and punctuation hide no copy.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from parakeet.artifact import sync_file
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.data.reading.source_readers import reader_of
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

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def folded_words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    if text.isascii():
        return words_of(text.lower())
    return words_of(unicodedata.normalize("NFKC", text).casefold())


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
    """What is searched for: 12 bytes a window, and the vocabulary of the sets."""

    sets: list[SetCounts]
    vocabulary: Mapping[str, int]
    word_hashes: np.ndarray
    """uint64 (words of the vocabulary,)."""
    windows: Mapping[int, Windows]
    """By their number of words."""
    set_starts: np.ndarray = field(repr=False)
    """int64 (sets,): number of each set's first record."""

    def find(self, text: str) -> Hits | None:
        """What a text shares with the records, or None.

        Only runs whose words are all in the vocabulary are hashed, and most text has no long one.
        """
        words = folded_words(text)
        # (words,) number of each word in the vocabulary, −1 for unknown ones.
        ids = np.fromiter(map(self.vocabulary.get, words, repeat(-1)), np.int64, len(words))
        # (words + 1,) unknown words before each position: a run has none if both its ends have the same number.
        unknown_before = np.concatenate([[0], np.cumsum(ids < 0)])
        found: set[int] = set()
        first: tuple[int, int] | None = None
        for size, windows in self.windows.items():
            starts = np.flatnonzero(unknown_before[size:] == unknown_before[:-size]) if size <= len(words) else ids[:0]
            if not len(starts):
                continue
            hashes = window_hashes(self.word_hashes, ids, starts, size)
            # Where each hash would be inserted among the sorted ones. It is shared if that place holds the same hash.
            begins = np.searchsorted(windows.hashes, hashes)
            shared = windows.hashes[np.minimum(begins, len(windows.hashes) - 1)] == hashes
            if not shared.any():
                continue
            start = int(starts[shared][0])
            first = min(first or (start, size), (start, size))
            ends = np.searchsorted(windows.hashes, hashes[shared], side="right")
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
            "word_hashes": self.word_hashes,
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
            vocabulary = arrays["vocabulary"].tobytes().decode()
            return cls(
                sets=[SetCounts(**counts) for counts in json.loads(arrays["sets"].tobytes())],
                vocabulary={word: number for number, word in enumerate(vocabulary.split("\n"))},
                word_hashes=arrays["word_hashes"],
                windows={size: Windows(arrays[f"hashes_{size}"], arrays[f"records_{size}"]) for size in sizes},
                set_starts=arrays["set_starts"],
            )


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def window_hashes(word_hashes: np.ndarray, ids: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """uint64 (starts,): hashes of the runs of `size` words from `starts`, a polynomial in the words' hashes."""
    total = np.zeros(len(starts), np.uint64)
    for offset in range(size):
        total = total * _MULTIPLIER + word_hashes[ids[starts + offset]]
    return total


class IndexBuilder:
    """Takes records, and keeps 12 bytes of each run of words that is searched for."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.records = 0
        self._vocabulary: dict[str, int] = {}
        self._windows: dict[int, list[tuple[int, np.ndarray]]] = {}

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
            if sequences:
                hashes = np.unique(np.concatenate([self._hashes(words, size) for words in sequences]))
                self._windows.setdefault(size, []).append((self.records, hashes))
        found = any(runs.values())
        self.records += found
        return found

    def _hashes(self, words: list[str], size: int) -> np.ndarray:
        for word in words:
            if word not in self._vocabulary:
                self._vocabulary[word] = xxhash.xxh3_64_intdigest(word.encode())
        numbers = np.fromiter(map(self._vocabulary.__getitem__, words), np.uint64, len(words))
        return window_hashes(numbers, np.arange(len(words)), np.arange(len(words) - size + 1), size)

    def index(self, sets: list[SetCounts]) -> EvaluationIndex:
        """The index of all records taken, those of `sets` in their order."""
        windows = {}
        for size in sorted(self._windows):
            taken = self._windows[size]
            hashes = np.concatenate([one for _, one in taken])
            records = np.repeat(np.array([number for number, _ in taken], np.uint32), [len(one) for _, one in taken])
            order = np.lexsort((records, hashes))
            windows[size] = Windows(hashes[order], records[order])
        return EvaluationIndex(
            sets=sets,
            vocabulary={word: number for number, word in enumerate(self._vocabulary)},
            word_hashes=np.fromiter(self._vocabulary.values(), np.uint64, len(self._vocabulary)),
            windows=windows,
            set_starts=np.cumsum([0, *(counts.records for counts in sets[:-1])]),
        )


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
            files, _ = reader_of(chosen).files(inputs)
            for path, record in ((file, record) for file in files for record in read_records(file, chosen.separator)):
                task.advance()
                if record.value is None:
                    counts.bad += 1
                    where = f"{path}/{record.member}" if record.member else str(path)
                    first_bad = first_bad or sanitise(f"{where}:{record.row}: {record.problem}")
                elif builder.add(*searched_texts(record.value, chosen)):
                    counts.records += 1
                else:
                    counts.short += 1
            _refuse_useless(counts, chosen.bad_records, first_bad)
            sets.append(counts)
    for counts in sets:
        if counts.bad or counts.short:
            progress.say(
                f"Evaluation set {counts.name}: {counts.records:,} records are searched for, {counts.short:,} are too "
                f"short, {counts.bad:,} cannot be read."
            )
    return builder.index(sets)


def _refuse_useless(counts: SetCounts, most_bad: float, first_bad: str) -> None:
    """A record that cannot be read cannot be searched for, and a copy of it would be trained on unnoticed."""
    if counts.bad > most_bad * (counts.records + counts.short + counts.bad):
        raise ParakeetError(
            f"Evaluation set {counts.name}: {counts.bad:,} of its records cannot be read, and at most "
            f"{format_percent(most_bad, 0)} may be bad (its bad_records). Correct the file, or the set in "
            f"decontamination.sets. The first:\n  {first_bad}"
        )
    if counts.records == 0:
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
