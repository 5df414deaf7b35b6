"""Spans of a text against brute force over the same documents."""

import itertools
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from parakeet.errors import ParakeetError
from parakeet.intervals import FEWEST_TEXTS
from parakeet.sanitise import sanitise
from parakeet.tokenizer import Tokenizer, train_tokenizer
from parakeet.trace.page import as_document, trace_page
from parakeet.trace.spans import BOILERPLATE, COMMON, COPIED, MANY, Trace, trace_text
from parakeet.trace.terminal import summary

from ..scripted import byte_tokenizer
from .small_texts import Corpus, longest_match, stands_in, write_corpus

PROVERB = "Many hands make light work, said the fox to the crane."
RARE = "Zephyr quartz glyphs vex Józef’s 🦜🦜 jumbled wyvern!"
ONCE = f"A line that stands once. {RARE} And it goes on."
EVIL = "Before \x1b[31mred\x1b]0;title\x07 and <script>alert('x')</script> & [bold]after[/bold] \u202e."
TALK = (("Human", "Who are you?"), ("Assistant", "I am a small parrot, and I only repeat what I have read."))
TRAIN = [
    *[f"{PROVERB} Number {number}." for number in range(MANY + 20)],
    ONCE,
    "日本語の文章です。鳥は空を飛ぶ。" * 2,
    *[f"It was said {number} times: slow and steady wins." for number in range(30)],
    EVIL,
    TALK,
]
HELD_OUT = [*[f"{PROVERB} Number {number}, and a new end." for number in range(60)], TALK]
PIECES = [PROVERB, RARE, EVIL, TALK[1][1], "Who are you?", "slow and steady wins", "日本語の文章", "🦜", " and ", "xyz"]


@pytest.fixture(scope="module", params=["bytes", "pairs"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    tokenizer = byte_tokenizer()
    if request.param == "pairs":
        tokenizer = train_tokenizer([text if isinstance(text, str) else text[1][1] for text in TRAIN], 420)
    return write_corpus(tmp_path_factory.mktemp("corpus"), tokenizer, TRAIN, HELD_OUT)


def texts() -> st.SearchStrategy[str]:
    """Pieces of the documents and of other text, cut anywhere and put together."""
    cut = st.tuples(st.sampled_from(PIECES), st.integers(0, 20), st.integers(8, 60)).map(lambda t: t[0][t[1] : t[2]])
    return st.lists(st.one_of(cut, st.text(max_size=6)), min_size=1, max_size=4).map("".join)


def traced(corpus: Corpus, text: str, min_tokens: int = 4) -> Trace | None:
    text = text.encode("utf-8", "replace").decode()
    if not text.strip() or len(corpus.tokenizer.encode(text)) < min_tokens:
        return None
    return trace_text(corpus.index, corpus.tokenizer, text, min_tokens)


def byte_ranges(tokenizer: Tokenizer, text: str, prefix: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a spelling of a text, and the bytes of the text that each stands for."""
    ids, begin = tokenizer.encode(prefix + text), -len(prefix)
    ranges = []
    for token_id in ids:
        end = begin + len(tokenizer.token_bytes(token_id))
        ranges.append((max(begin, 0), end))
        begin = end
    return ids, ranges


def brute(corpus: Corpus, text: str, min_tokens: int) -> tuple[set[int], int, int]:
    """The bytes of the text in spans, how many of its tokens are covered, and the longest match."""
    covered: set[int] = set()
    longest = 0
    for prefix in ("", " "):
        ids, ranges = byte_ranges(corpus.tokenizer, text, prefix)
        for place in range(len(ids)):
            length = longest_match(ids[place:], corpus.train_text)
            longest = max(longest, length)
            if length >= min_tokens:
                start, end = ranges[place][0], ranges[place + length - 1][1]
                if text.encode()[start:end].decode("utf-8", "ignore"):
                    covered |= set(range(start, end))
    _, ranges = byte_ranges(corpus.tokenizer, text, "")
    return covered, sum(set(range(*one)) <= covered for one in ranges), longest


@settings(max_examples=25)
@given(text=texts())
def test_coverage_and_spans_are_those_of_brute_force(corpus: Corpus, text: str) -> None:
    trace = traced(corpus, text)
    if trace is None:
        return
    covered, tokens, longest = brute(corpus, trace.text, 4)
    assert (trace.covered, trace.longest) == (tokens, longest)
    assert 0 <= trace.absent <= trace.tokens - trace.covered
    ends = [len(trace.text[: span.end].encode()) for span in trace.spans]
    starts = [len(trace.text[: span.start].encode()) for span in trace.spans]
    shown = {byte for start, end in zip(starts, ends, strict=True) for byte in range(start, end)}
    # Bytes of characters that are only in part in a span are not shown as its text.
    assert shown <= covered
    assert all(len(trace.text.encode()[b : b + 1]) for b in covered)
    assert starts == sorted(starts)
    assert ends == sorted(ends)


@settings(max_examples=25)
@given(text=texts())
def test_a_span_stands_where_it_is_said_to(corpus: Corpus, text: str) -> None:
    trace = traced(corpus, text)
    for span in trace.spans if trace else []:
        assert span.text == trace.text[span.start : span.end] != ""
        spellings = set()
        for place in span.places:
            ids = corpus.index.read(place.document, place.start, place.tokens).tolist()
            assert ids == corpus.train[place.document][place.start : place.start + place.tokens]
            assert len(ids) >= 4
            assert not set(ids) & corpus.tokenizer.control_ids
            assert span.text in corpus.tokenizer.decode(ids)
            assert span.text.strip() in place.match or span.text == place.match
            assert place.doc_id == corpus.index.document(place.document).doc_id
            spellings.add(tuple(ids))
        assert 1 <= len(span.places) <= 3
        assert len({place.document for place in span.places}) == len(span.places)
        assert span.count >= sum(stands_in(ids, corpus.train_text) for ids in spellings) > 0
        assert span.documents is None if span.count > MANY else 1 <= span.documents <= span.count


@settings(max_examples=15)
@given(text=texts())
def test_no_span_is_part_of_another_and_none_could_be_longer(corpus: Corpus, text: str) -> None:
    trace = traced(corpus, text)
    ranges = [(span.start, span.end) for span in trace.spans] if trace else []
    # A span may begin or end within a character, which is not shown; with whole characters ranges may be equal.
    for one, other in itertools.pairwise(ranges):
        assert one[0] <= other[0]
        assert one[1] <= other[1]
    if trace and corpus.tokenizer.name == "bytes":
        data = trace.text.encode()
        for span in trace.spans:
            start, end = len(trace.text[: span.start].encode()), len(trace.text[: span.end].encode())
            # In bytes a token is a byte, and the longest match is the longest text.
            for place in span.places:
                document = corpus.train[place.document]
                before, after = document[place.start - 1], document[place.start + place.tokens :][:1]
                if place.tokens == end - start:
                    assert start == 0 or place.start == 0 or before != data[start - 1] or data[start - 1] & 0x80
                    assert end == len(data) or after != [data[end]] or data[end] & 0x80


def test_tiers(corpus: Corpus) -> None:
    text = f"{PROVERB} {RARE} slow and steady wins"
    tiers = {span.text.strip(): (span.tier, span.count, span.documents) for span in traced(corpus, text, 4).spans}
    assert any(PROVERB in name and found == (BOILERPLATE, MANY + 20, None) for name, found in tiers.items())
    assert any("wyvern" in name and found == (COPIED, 1, 1) for name, found in tiers.items())
    assert any("steady" in name and found == (COMMON, 30, 30) for name, found in tiers.items())


def test_both_spellings_are_joined(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A sentence that stands once at the beginning of a document and once after a word is found twice."""
    first, later = "Hedgehogs rarely argue about parsnips.", "They say: Hedgehogs rarely argue about parsnips."
    tokenizer = train_tokenizer([first, later] * 5, 350)
    assert tokenizer.encode(first)[0] not in tokenizer.encode(later)
    corpus = write_corpus(tmp_path_factory.mktemp("spellings"), tokenizer, [first, later, "Nothing."], [])
    trace = trace_text(corpus.index, tokenizer, first, min_tokens=2)
    (span,) = trace.spans
    assert (span.text, span.count, span.documents) == (first, 2, 2)
    assert [place.document for place in span.places] == [0, 1]
    assert (trace.coverage, trace.absent) == (1.0, 0)


def test_a_span_stops_at_a_control_token(corpus: Corpus) -> None:
    """A text that looks like two turns does not match the turns, whose roles are no text."""
    text = "Who are you?\n\nAssistant: I am a small parrot, and I only repeat what I have read."
    spans = traced(corpus, text, 8).spans
    assert spans
    assert all("\n\nAssistant" not in span.text for span in spans)


def test_held_out_text_is_measured_by_the_same_rule(corpus: Corpus) -> None:
    text = PROVERB[:30] + " and other words, of which the corpus knows nothing at all"
    trace, again = (trace_text(corpus.index, corpus.tokenizer, text, 4, held_out=corpus.held_out) for _ in range(2))
    held_out = trace.held_out
    assert 50 <= held_out.windows <= 61
    assert held_out.tokens <= trace.tokens
    assert 0 < held_out.interval[0] <= held_out.coverage <= held_out.interval[1] <= 1
    assert held_out == again.held_out  # the same windows at each call


@pytest.mark.parametrize(("windows", "has_interval"), [(1, False), (FEWEST_TEXTS - 1, False), (FEWEST_TEXTS, True)])
def test_the_coverage_of_few_held_out_texts_has_no_interval(
    corpus: Corpus, tmp_path: Path, windows: int, has_interval: bool
) -> None:
    other = write_corpus(tmp_path, corpus.tokenizer, ["Some text."], [f"{n} of {PROVERB}" for n in range(windows)])
    trace = trace_text(corpus.index, corpus.tokenizer, PROVERB, held_out=other.held_out)
    assert trace.held_out.windows == windows
    assert (trace.held_out.interval is not None) == has_interval
    assert as_document(trace, {})["held_out"]["coverage"]["interval"] == trace.held_out.interval
    (line,) = (line for line in summary(trace) if line.startswith("Held-out text"))
    assert (" to " in line) == has_interval
    index = {"tokens": 1, "documents": 1, "token_shards": "", "folder": "", "tokenizer_sha256": ""}
    about = {"what": "a text", "model": "small", "index": index}
    assert ("95% interval" in trace_page(trace, about)) == has_interval


@pytest.mark.parametrize("documents", [[], [""], ["Ab"], [(("Human", "Only a question, however long it may be."),)]])
def test_held_out_text_that_is_too_short_is_not_compared(
    corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, documents: list
) -> None:
    other = write_corpus(tmp_path_factory.mktemp("short"), corpus.tokenizer, ["Some text."], documents)
    assert trace_text(corpus.index, corpus.tokenizer, PROVERB, held_out=other.held_out).held_out is None


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_an_empty_text_is_refused(corpus: Corpus, text: str) -> None:
    with pytest.raises(ParakeetError, match="empty"):
        trace_text(corpus.index, corpus.tokenizer, text)


def test_a_text_that_repeats_itself_is_looked_up_once_for_each_wording(corpus: Corpus) -> None:
    once, often = (traced(corpus, f"{PROVERB} 0 " * times, 4) for times in (3, 300))
    found = {(span.text, span.count, span.documents, len(span.places)) for span in once.spans}
    assert {(span.text, span.count, span.documents, len(span.places)) for span in often.spans} == found
    assert len({id(span.places) for span in often.spans}) <= len(once.spans) < len(often.spans)
    assert all(often.text[span.start : span.end] == span.text for span in often.spans)


def test_a_text_that_is_too_large_is_refused(corpus: Corpus) -> None:
    with pytest.raises(
        ParakeetError, match=r"has 2,097,153 bytes, but a trace takes 2,097,152 at most: trace it in parts"
    ):
        trace_text(corpus.index, corpus.tokenizer, "é" * (1 << 20) + "a")


def test_a_text_shorter_than_a_span_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ParakeetError, match=r"has 1 token, and a span has at least 8"):
        trace_text(corpus.index, corpus.tokenizer, "x")


@settings(max_examples=20)
@given(text=texts())
def test_segments_are_the_whole_text(corpus: Corpus, text: str) -> None:
    trace = traced(corpus, text)
    if trace is None:
        return
    assert "".join(segment.text for segment in trace.segments) == sanitise(trace.text)
    for name, edge in (("begins", "start"), ("ends", "end")):
        numbers = [number for segment in trace.segments for number in getattr(segment, name)]
        assert numbers == sorted(
            range(len(trace.spans)), key=lambda number: (getattr(trace.spans[number], edge), number)
        )


def test_a_long_text_is_traced(corpus: Corpus) -> None:
    trace = traced(corpus, (PROVERB + " Something else. ") * 500, 8)
    assert len(trace.spans) >= 500
    assert trace.coverage > 0.4
    assert np.isfinite([span.expected_log10 for span in trace.spans]).all()
