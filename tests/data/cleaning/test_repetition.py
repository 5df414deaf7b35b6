"""The repetition rules: the same verdicts as datatrove's own filter, on made-up and on real text."""

import gzip
import json
from pathlib import Path

import pytest
from datatrove.data import Document as Item
from datatrove.pipeline.filters import GopherRepetitionFilter
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.cleaning.repetition import RepetitionFilter
from parakeet.data.words import CachedWordTokenizer, RegexWordTokenizer
from parakeet.recipe import Repetition

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"


def verdicts(text: str, settings: Repetition) -> tuple[str | None, str | None]:
    """The rule that the text breaks here, and with datatrove."""
    result = GopherRepetitionFilter(
        settings.duplicate_lines,
        settings.duplicate_paragraphs,
        settings.duplicate_line_characters,
        settings.duplicate_paragraph_characters,
        tuple(settings.top_phrases.items()),
        tuple(settings.duplicate_phrases.items()),
        language=RegexWordTokenizer(),
    ).filter(Item(text, ""))
    ours = RepetitionFilter(settings, CachedWordTokenizer()).broken_rule(text)
    return ours, None if result is True else result[1]


# Few and similar words, so that much repeats, and phrases of other words are the same when joined.
PIECES = st.lists(st.sampled_from(["a", "aa", "ab", "b", "ba", "é", "日", "on the", "\n", "\n\n", ". "]), max_size=80)
SHARES = st.floats(0.01, 1.0)


@given(PIECES, st.dictionaries(st.integers(2, 4), SHARES), st.dictionaries(st.integers(5, 10), SHARES))
def test_made_up_text_is_judged_as_by_datatrove(
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


@given(PIECES)
def test_the_paper_s_thresholds_judge_as_by_datatrove(pieces: list[str]) -> None:
    ours, theirs = verdicts(" ".join(pieces), Repetition(duplicate_lines=0.3))
    assert ours == theirs


@pytest.mark.parametrize("name", ["peps.jsonl.gz", "books.jsonl.gz"])
def test_real_text_is_judged_as_by_datatrove(name: str) -> None:
    if not (CORPORA / name).exists():
        pytest.skip(f"{name} is not on this machine")
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(60), strict=False)]
    # Strict enough that some break a rule.
    settings = Repetition(top_phrases={2: 0.01, 3: 0.012}, duplicate_phrases={5: 0.05, 10: 0.01})
    found = [verdicts(piece, settings) for text in texts for piece in (text[:4000], text[20_000:24_000]) if piece]
    assert [ours for ours, _ in found] == [theirs for _, theirs in found]
    assert len({theirs for _, theirs in found}) >= 2
