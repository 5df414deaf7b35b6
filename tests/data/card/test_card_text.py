"""Nothing that others wrote becomes markup: checked against parsers of HTML and of Markdown."""

import html
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from parakeet.data.card.text import (
    WORD_JOINER,
    beginning,
    html_text,
    markdown_block,
    markdown_text,
    share,
    size,
    visible_token,
)
from parakeet.sanitise import sanitise

MARKUP = st.lists(
    st.sampled_from(
        [
            *"\\`*_[]<>&|~$!#+-=.:()@/\"'{}^ \t\n\r1aé",
            *(
                "```",
                "~~~",
                "---",
                "***",
                "1. ",
                "2) ",
                "- ",
                "> ",
                "# ",
                "<b>",
                "</p>",
                "<!--",
                "&lt;",
                "&#60;",
                "www.",
            ),
            *(
                "http://a.b",
                "a@b.c",
                "![x](y)",
                "[x]: y",
                "](",
                "\u202e",
                "\x1b[31m",
                "\u2028",
                "\x00",
                "\ud800",
                "|---|",
            ),
        ]
    ),
    max_size=20,
).map("".join)
TEXTS = st.one_of(MARKUP, st.text(max_size=60))
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.other: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.other.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.other.append(tag)

    def handle_comment(self, data: str) -> None:
        self.other.append(data)


@given(TEXTS)
def test_html_is_text_and_nothing_else(text: str) -> None:
    collector = Collector()
    collector.feed(html_text(text))
    collector.close()
    assert collector.other == []
    assert collector.text == sanitise(text) == html.unescape(html_text(text))
    assert '"' not in html_text(text)


TABLE = "| a | b |\n|---|---|\n| "


@pytest.mark.parametrize(
    ("before", "after", "said_before", "said_after"),
    [("", "", "", ""), ("- ", "", "", ""), ("Of ", ", so", "Of ", ", so"), (TABLE, " | c |", "ab", "c")],
)
@given(text=TEXTS)
@example(text="1. one")
@example(text="| a \\| b |")
@example(text="=")
def test_a_line_of_markdown_is_text_and_nothing_else(
    before: str, after: str, said_before: str, said_after: str, text: str
) -> None:
    line = " ".join(sanitise(text).split())
    tokens = PARSER.parse(before + markdown_text(text) + after)
    blocks = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
    assert blocks <= {"paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "inline"}
    inline = [leaf for token in tokens for leaf in token.children or []]
    assert {leaf.type for leaf in inline} <= {"text"}
    said = "".join(leaf.content for leaf in inline)
    assert said.replace(WORD_JOINER, "") == (said_before + line + said_after).replace(WORD_JOINER, "")


@pytest.mark.parametrize("address", ["https://a.b/c", "HTTP://a.b", "www.a.b", "a@b.c", "ftp://a.b", "mailto:a@b.c"])
def test_addresses_do_not_link_themselves(address: str) -> None:
    """What links bare addresses looks for these signs with a letter behind them."""
    escaped = markdown_text(f"see {address} there")
    for sign in ("://", "www", "@"):
        at = escaped.lower().find(sign)
        assert at < 0 or escaped[at + len(sign)] == WORD_JOINER


@given(TEXTS)
@example("```\n![x](http://evil)\n```")
@example("````")
def test_a_block_of_markdown_holds_the_text_as_it_is(text: str) -> None:
    tokens = PARSER.parse(f"Before.\n\n{markdown_block(text)}\n\nAfter.")
    assert [token.type for token in tokens if token.type != "inline"] == [
        *("paragraph_open", "paragraph_close", "fence", "paragraph_open", "paragraph_close")
    ]
    [fence] = [token for token in tokens if token.type == "fence"]
    assert fence.content == sanitise(text) + "\n"


@given(st.binary(max_size=12))
def test_a_token_shows_every_byte(content: bytes) -> None:
    shown = visible_token(content)
    assert shown.isprintable()
    assert " " not in shown
    assert len(shown) >= len(content.decode("utf-8", "ignore"))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\n", "⏎⏎"),
        (b"\xe2\x80", "\\xe2\\x80"),
        (b"\x00", "\\x00"),
        ("\u202e".encode(), "\\u202e"),
    ],
)
def test_tokens_that_cannot_be_seen_are_spelt(content: bytes, shown: str) -> None:
    assert visible_token(content) == shown


@given(TEXTS, st.integers(1, 50))
def test_a_beginning_is_no_longer_than_it_may_be(text: str, characters: int) -> None:
    found = beginning(text, characters)
    assert len(found) <= max(characters + 2, 0)
    assert found == text or text.startswith(found.removesuffix(" …"))


def test_a_beginning_ends_with_a_word() -> None:
    assert beginning("one two three", 9) == "one two …"
    assert beginning("unbroken" * 9, 10) == "unbrokenun …"


def test_numbers_are_told_briefly_and_nothing_is_rounded_away() -> None:
    assert [size(n) for n in (0, 999, 12_345, 45_678_901, 50e9)] == ["0 B", "999 B", "12.3 kB", "45.7 MB", "50.0 GB"]
    shares = ["0.0 %", "< 0.1 %", "48.5 %", "> 99.9 %", "100.0 %"]
    assert [share(part) for part in (0, 0.0001, 0.485, 0.9999, 1)] == shares
