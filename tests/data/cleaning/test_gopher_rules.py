"""The quality and repetition rules: the same verdicts as datatrove's own filters, on made-up and on real text."""

import gzip
import json
from pathlib import Path

import pytest
from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from hypothesis import example, given
from hypothesis import strategies as st

from parakeet.data.cleaning.quality import QualityFilter
from parakeet.data.cleaning.repetition import RepetitionFilter
from parakeet.data.words import CachedWordTokenizer, RegexWordTokenizer
from parakeet.recipe import Quality, Repetition

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"


def verdicts(text: str, settings: Quality | Repetition) -> tuple[str | None, str | None]:
    """The rule that the text breaks here, and with datatrove."""
    words = CachedWordTokenizer()
    if isinstance(settings, Quality):
        ours = QualityFilter(settings, words).broken_rule(text)
        theirs = GopherQualityFilter(*dict(settings).values(), language=RegexWordTokenizer())
    else:
        ours = RepetitionFilter(settings, words).broken_rule(text)
        theirs = GopherRepetitionFilter(
            settings.duplicate_lines,
            settings.duplicate_paragraphs,
            settings.duplicate_line_characters,
            settings.duplicate_paragraph_characters,
            tuple(settings.top_phrases.items()),
            tuple(settings.duplicate_phrases.items()),
            language=RegexWordTokenizer(),
        )
    result = theirs.filter(Item(text, ""))
    return ours, None if result is True else result[1]


WORDS = ["the", "be", "of", "Of", "a", "12", "2nd", "_x_", "__", "１", "１a", "é", "日", "٣", "internationalisation"]
SIGNS = ["\n", "\n- ", "\n  • ", " - ", "#", "...", "...\n", "… \n", "\u2028", "\x1c-"]
PIECES = st.lists(st.sampled_from(WORDS) | st.sampled_from(SIGNS), max_size=80)
SHARE = st.none() | st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0])
QUALITY = st.builds(
    Quality,
    min_words=st.none() | st.integers(1, 30),
    max_words=st.none() | st.integers(1, 60),
    min_mean_word_length=st.none() | st.floats(0.0, 5.0),
    max_mean_word_length=st.none() | st.floats(0.5, 12.0),
    max_symbols=SHARE,
    max_bullet_lines=SHARE,
    max_ellipsis_lines=SHARE,
    min_alphabetic_words=SHARE,
    min_stop_words=st.none() | st.integers(0, 3),
)


@given(PIECES, QUALITY)
@example(["2nd", "2nd", "the", "of"], Quality(min_words=None, min_alphabetic_words=1.0))
def test_quality_is_judged_as_by_datatrove(pieces: list[str], settings: Quality) -> None:
    # The "a" is a word that datatrove does not take for a symbol: it needs the mean length of at least one.
    ours, theirs = verdicts(" ".join(["a", *pieces]), settings)
    assert ours == theirs


# Few and similar words, so that much repeats, and phrases of other words are the same when joined.
REPEATED = st.lists(st.sampled_from(["a", "aa", "ab", "b", "ba", "é", "日", "on the", "\n", "\n\n", ". "]), max_size=80)
SHARES = st.floats(0.01, 1.0)


@given(REPEATED, st.dictionaries(st.integers(2, 4), SHARES), st.dictionaries(st.integers(5, 10), SHARES))
def test_phrases_are_judged_as_by_datatrove(
    pieces: list[str], top: dict[int, float], duplicate: dict[int, float]
) -> None:
    settings = Repetition(
        duplicate_paragraphs=None,
        duplicate_line_characters=None,
        duplicate_paragraph_characters=None,
        top_phrases=dict(sorted(top.items())),
        duplicate_phrases=dict(sorted(duplicate.items())),
    )
    ours, theirs = verdicts(" ".join(pieces), settings)
    assert ours == theirs


@given(REPEATED)
def test_the_paper_s_thresholds_judge_as_by_datatrove(pieces: list[str]) -> None:
    ours, theirs = verdicts(" ".join(pieces), Repetition(duplicate_lines=0.3))
    assert ours == theirs


@pytest.mark.parametrize("name", ["peps.jsonl.gz", "books.jsonl.gz"])
def test_real_text_is_judged_as_by_datatrove(name: str) -> None:
    if not (CORPORA / name).exists():
        pytest.skip(f"{name} is not on this machine")
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(60), strict=False)]
    pieces = [piece for text in texts for piece in (text[:4000], text[20_000:24_000]) if piece]
    # Strict enough that some break a rule.
    quality = Quality(max_symbols=0.01, max_bullet_lines=0.1, min_alphabetic_words=0.96, min_mean_word_length=4.4)
    repetition = Repetition(top_phrases={2: 0.01, 3: 0.012}, duplicate_phrases={5: 0.05, 10: 0.01})
    for settings in (Quality(), quality, repetition):
        found = [verdicts(piece, settings) for piece in pieces]
        assert [ours for ours, _ in found] == [theirs for _, theirs in found]
        assert settings == Quality() or len({theirs for _, theirs in found}) >= 2
