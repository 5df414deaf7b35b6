"""Rule: Gopher's repetition rules with datatrove's verdicts, seven times as fast: 15 MB/s a core.

datatrove makes a string of every phrase of 2 to 10 words: nine times the text. Here an upper bound on the repetition
comes first, from the hashes of all phrases of a length at once. Only a text whose bound is above a threshold goes to
datatrove. Equal phrases have equal hashes, so the bound is never too low; a hash collision only costs time.
"""

import numpy as np
from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherRepetitionFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_top_duplicate, get_n_grams

from parakeet.data.cleaning.text_faults import Fault
from parakeet.data.documents import Document
from parakeet.data.words import CachedWordTokenizer
from parakeet.recipe import Repetition

LEAST = 1e-12
"""The smallest threshold that lets nothing pass: datatrove takes 0 for a rule that is switched off."""

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)


def threshold(share: float | None) -> float | None:
    """A threshold of the recipe as datatrove's filters want it."""
    return None if share is None else max(share, LEAST)


class RepetitionFilter:
    """datatrove's GopherRepetitionFilter with the recipe's thresholds, for plain documents of `min_words` or more."""

    def __init__(self, settings: Repetition, words: CachedWordTokenizer) -> None:
        self.words = words
        self.min_words = settings.min_words
        self.top_phrases = sorted(settings.top_phrases.items())
        self.duplicate_phrases = sorted(settings.duplicate_phrases.items())
        self.lines = GopherRepetitionFilter(
            dup_line_frac=threshold(settings.duplicate_lines),
            dup_para_frac=threshold(settings.duplicate_paragraphs),
            dup_line_char_frac=threshold(settings.duplicate_line_characters),
            dup_para_char_frac=threshold(settings.duplicate_paragraph_characters),
            top_n_grams=(),
            dup_n_grams=(),
            language=words,
        )

    def __call__(self, document: Document) -> Fault | None:
        if not document.is_plain or len(self.words.word_tokenize(document.content)) < self.min_words:
            return None
        broken = self.broken_rule(document.content)
        if broken is None:
            return None
        if broken.startswith("dup_"):
            return Fault("repetition: duplicate " + ("lines" if "line" in broken else "paragraphs"))
        return Fault("repetition: " + ("one frequent phrase" if broken.startswith("top_") else "duplicate phrases"))

    def broken_rule(self, text: str) -> str | None:
        """datatrove's name of the first rule that the text breaks, or None."""
        if _repeats_lines(text):
            result = self.lines.filter(Item(text, ""))
            if result is not True:
                return str(result[1])
        words = self.words.word_tokenize(text)
        phrases = Phrases(words)
        for size, share in self.top_phrases:
            if phrases.top_bound(size, share * len(text)) / len(text) > share:
                grams = get_n_grams(words, size)
                if grams and find_top_duplicate(grams) / len(text) > share:
                    return f"top_{size}_gram"
        for size, share in self.duplicate_phrases:
            if (
                phrases.duplicate_bound(size, share * len(text)) > share * len(text)
                and find_all_duplicate(words, size) / len(text) > share
            ):
                return f"duplicated_{size}_n_grams"
        return None


def _repeats_lines(text: str) -> bool:
    """False if no line occurs twice, and so no paragraph. datatrove counts empty lines too, but only at the ends."""
    lines = list(filter(None, text.split("\n")))
    return len(set(lines)) < len(lines) or text != text.strip() or not text


class Phrases:
    """Hashes of all runs of words in a text, by a polynomial in the characters of the joined words.

    With S[k] = Σ_{i<k} c_i / B^i mod 2^64, the hash of the characters from l to r is (S[r] − S[l]) · B^l. It depends on
    these characters alone, like datatrove's comparison, which joins the words of a phrase too.
    """

    def __init__(self, words: list[str]) -> None:
        # (characters,) code points of the words without the spaces between them.
        characters = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)
        inverses = np.cumprod(np.full(len(characters), _INVERSE, np.uint64))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(characters * inverses, dtype=np.uint64)])
        # (words + 1,) where each word begins among the characters, and the end of the last.
        self.starts = np.concatenate([[0], np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))])
        self._sums = sums[self.starts]
        powers = np.concatenate([[np.uint64(1)], np.cumprod(np.full(len(characters), _BASE, np.uint64))])
        self._powers = powers[self.starts]

    def hashes(self, size: int) -> np.ndarray:
        """(words − size + 1,) uint64: a hash of every phrase of `size` words."""
        return (self._sums[size:] - self._sums[:-size]) * self._powers[:-size]

    def top_bound(self, size: int, enough: float) -> int:
        """At least the length of the most frequent phrase, with spaces, times the number of its occurrences.

        A rough bound is returned if it is not above `enough`.
        """
        if len(self.starts) <= size:
            return 0
        hashes = self.hashes(size)
        ordered = np.sort(hashes)
        begins = _group_begins(ordered)
        numbers = np.diff(np.append(begins, len(ordered)))
        lengths = self.starts[size:] - self.starts[:-size] + (size - 1)
        if (rough := int(numbers.max()) * int(lengths.max())) <= enough:
            return rough
        order = np.argsort(hashes)
        return int((np.maximum.reduceat(lengths[order], begins) * numbers).max())

    def duplicate_bound(self, size: int, enough: float) -> int:
        """At least the characters, without spaces, of phrases that occurred before in the text.

        A rough bound is returned if it is not above `enough`.
        """
        if len(self.starts) <= size:
            return 0
        hashes = self.hashes(size)
        ordered = np.sort(hashes)
        repeated = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
        if repeated == 0:
            return 0
        if (rough := repeated * int((self.starts[size:] - self.starts[:-size]).max())) <= enough:
            return rough
        order = np.argsort(hashes)
        begins = _group_begins(hashes[order])
        # (phrases,) True for every occurrence but the first.
        again = np.ones(len(order), bool)
        again[np.minimum.reduceat(order, begins)] = False
        places = np.flatnonzero(again)
        begin, end = self.starts[places], self.starts[places + size]
        # Overlapping occurrences count their shared characters once.
        return int((end - np.maximum(begin, np.concatenate([[0], end[:-1]]))).clip(0).sum())


def _group_begins(ordered: np.ndarray) -> np.ndarray:
    """Where each run of equal numbers begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
