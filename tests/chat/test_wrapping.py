"""Replies broken between words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from parakeet.chat.wrapping import Wrapper


def wrap(text: str, width: int = 21, column: int = 0, pieces: int = 1) -> str:
    wrapper = Wrapper(width, column)
    return "".join(wrapper.feed(text[i : i + pieces]) for i in range(0, len(text), pieces)) + wrapper.finish()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five six", "one two three four\nfive six"),
        ("12345678901234567890", "12345678901234567890"),
        ("1234567890 123456789 x", "1234567890 123456789\nx"),
        ("short\nlines\n\nstay", "short\nlines\n\nstay"),
        ("a  b   c", "a  b   c"),
        ("- an item of a list that is long", "- an item of a list\nthat is long"),
        ("see http://example.org/a/long/address there", "see\nhttp://example.org/a/long/address there"),
        ("日本語の文章は空白なしで書かれます。", "日本語の文章は空白な\nしで書かれます。"),
        ("日本語の文章は空白な。x", "日本語の文章は空白\nな。x"),  # no line begins with a full stop
        ("ผมรักภาษาไทยมากที่สุดในโลกนี้เลยครับผม", "ผมรักภาษาไทยมากที่สุดในโลกนี้เลยครับผม"),
        ("e\u0301" * 20 + " x", "e\u0301" * 20 + "\nx"),
        ("word word word 👩\u200d👩\u200d👧 family", "word word word 👩\u200d👩\u200d👧\nfamily"),
        ("a\tb\tc\td", "a\tb\tc\nd"),
        ("```\nx = a_long_line_of_code + 1 + 2\n```\nthen words wrap again here",
         "```\nx = a_long_line_of_code + 1 + 2\n```\nthen words wrap\nagain here"),
        ("    indented code that is long enough", "    indented code that is long enough"),
        ("~~~ py\nx = a_long_line_of_code + 1\n~~~", "~~~ py\nx = a_long_line_of_code + 1\n~~~"),
        ("", ""),
        ("\n", "\n"),
        ("trailing  ", "trailing  "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_lines_break_between_words(text: str, expected: str, pieces: int) -> None:
    assert wrap(text, pieces=pieces) == expected


def test_a_label_takes_room_on_the_first_line() -> None:
    assert wrap("one two three", column=10) == "one two\nthree"


@pytest.mark.parametrize("width", [0, 1, 19])
def test_a_pipe_and_a_narrow_terminal_get_the_text_as_it_is(width: int) -> None:
    assert wrap("one two three four five six " * 9, width) == "one two three four five six " * 9


WORDS = st.text(st.sampled_from("abc  \n\t日本。é`~-👍\u0301\u200d"), max_size=120)


@given(WORDS, st.integers(20, 60), st.integers(1, 9), st.integers(0, 15))
def test_nothing_but_blanks_changes_and_lines_fit(text: str, width: int, pieces: int, column: int) -> None:
    wrapped = wrap(text, width, column, pieces)
    assert wrapped == wrap(text, width, column, len(text) + 1)
    assert re.sub(r"\s", "", wrapped) == re.sub(r"\s", "", text)
    assert wrapped.count("\n") >= text.count("\n")
    if not re.search(r"```|~~~|    |\t", text):
        for number, line in enumerate(wrapped.split("\n")):
            fits = wcswidth(line.rstrip()) + (column if number == 0 else 0) <= width - 1
            assert fits or any(wcswidth(word) >= width for word in line.split()), line
