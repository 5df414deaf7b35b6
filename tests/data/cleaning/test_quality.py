"""The quality rules: the same verdicts as datatrove's own filter, on made-up and on real text."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherQualityFilter
from hypothesis import example, given
from hypothesis import strategies as st

from parakeet.data.cleaning.quality import QualityFilter
from parakeet.data.words import CachedWordTokenizer, RegexWordTokenizer
from parakeet.recipe import Quality

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"


def verdicts(texts: Sequence[str], settings: Quality) -> list[tuple[str | None, str | None]]:
    """The rule that each text breaks here, and with datatrove."""
    theirs = GopherQualityFilter(*dict(settings).values(), language=RegexWordTokenizer())
    ours = QualityFilter(settings, CachedWordTokenizer())
    results = [theirs.filter(Item(text, "")) for text in texts]
    return [
        (ours.broken_rule(text), None if result is True else result[1])
        for text, result in zip(texts, results, strict=True)
    ]


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
def test_made_up_text_is_judged_as_by_datatrove(pieces: list[str], settings: Quality) -> None:
    # A word that it does not take for a sign: datatrove takes the mean of the others.
    ((ours, theirs),) = verdicts([" ".join(["a", *pieces])], settings)
    assert ours == theirs


@pytest.mark.parametrize("name", ["peps.jsonl.gz", "books.jsonl.gz"])
def test_real_text_is_judged_as_by_datatrove(name: str) -> None:
    if not (CORPORA / name).exists():
        pytest.skip(f"{name} is not on this machine")
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(60), strict=False)]
    pieces = [piece for text in texts for piece in (text[:4000], text[20_000:24_000]) if piece]
    # The second so strict that most of them break a rule.
    strict = Quality(max_symbols=0.01, max_bullet_lines=0.1, min_alphabetic_words=0.96, min_mean_word_length=4.4)
    for settings in (Quality(), strict):
        found = verdicts(pieces, settings)
        assert [ours for ours, _ in found] == [theirs for _, theirs in found]
    assert len({theirs for _, theirs in found}) >= 2
