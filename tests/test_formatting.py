"""Units, and tables in which foreign text is only text."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from parakeet.formatting import (
    ROUNDING,
    WORD_JOINER,
    format_bytes,
    format_count,
    format_duration,
    format_percent,
    markdown_block,
    markdown_table,
    markdown_text,
    render_table,
)
from parakeet.sanitise import sanitise

from .foreign_text import PARSER, TEXTS


def test_units() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", (1 << 20) - 1: "1.0 MiB", 7.2 * 2**30: "7.2 GiB"}
    assert {n: format_bytes(n) for n in sizes} == sizes
    assert format_bytes(3 << 70) == "3,145,728.0 PiB"
    assert format_bytes(1.5 * 2**30, decimals=2) == "1.50 GiB"
    counts = {0: "0", 0.254: "0.254", 7: "7", 99.96: "100", 850.6: "851", 12_345: "12,345", 999_999: "999,999"}
    counts |= {999_999.6: "1 M", 1_250_304: "1.25 M", 999.6e6: "1 B", 50e9: "50 B", 3.2e15: "3,200 T"}
    assert {n: format_count(n) for n in counts} == counts
    durations = {-1: "0 s", 0: "0 s", 0.0131: "13 ms", 0.9996: "1.0 s", 9.96: "10 s", 59.6: "1 min"}
    durations |= {252: "4 min 12 s", 3599.7: "1 h", 11_100: "3 h 5 min", 86_399: "1 d", 1_047_600: "12 d 3 h"}
    assert {n: format_duration(n) for n in durations} == durations
    percents = {0: "0.0%", 0.0001: "< 0.1%", 0.485: "48.5%", 0.9999: "> 99.9%", 1: "100.0%", 1.5: "150.0%"}
    percents |= {1 - 1e-15: "100.0%", 1 + 1e-15: "100.0%", 1e-17: "0.0%"}  # ends of intervals
    assert {n: format_percent(n) for n in percents} == percents
    assert [format_percent(n, decimals=0) for n in (0.004, 0.4, 0.996)] == ["< 1%", "40%", "> 99%"]


BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


@given(st.integers(0, 2**59), st.integers(0, 3))
def test_a_printed_size_is_the_size_to_its_last_digit(n_bytes: int, decimals: int) -> None:
    number, unit = format_bytes(n_bytes, decimals).split(" ")
    value = float(number.replace(",", ""))
    assert value < 1024
    assert abs(value * BYTES[unit] - n_bytes) <= 0.5001 * BYTES[unit] / 10 ** (decimals if unit != "B" else 0)


@given(st.integers(0, 10**14))
def test_a_printed_count_has_three_digits_and_a_small_one_all(number: int) -> None:
    shown, _, unit = format_count(number).partition(" ")
    value = float(shown.replace(",", "")) * {"": 1, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    assert value == number if number < 1_000_000 else value == pytest.approx(number, rel=0.005)
    assert len(format_count(number)) <= 7


@given(st.floats(0, 1e9))
def test_a_printed_duration_is_never_carried_past_its_unit(seconds: float) -> None:
    parts = re.findall(r"([\d.,]+) (ms|s|min|h|d)", format_duration(seconds))
    values = [(float(number.replace(",", "")), unit) for number, unit in parts]
    worth = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400}
    assert sum(number * worth[unit] for number, unit in values) == pytest.approx(seconds, rel=0.06, abs=0.0006)
    most = {"ms": 1000, "s": 60, "min": 60, "h": 24, "d": 1e9}
    assert all(number < most[unit] for number, unit in values)


@given(st.floats(0, 1))
def test_only_nothing_is_none_and_only_everything_is_all(share: float) -> None:
    assert (format_percent(share) == "0.0%") == (share < ROUNDING)
    assert (format_percent(share) == "100.0%") == (1 - share < ROUNDING)


def test_a_table_is_aligned() -> None:
    rows = [("one", 1234, "7 B", None), ("and another", 5, "12.3 KiB", "x")]
    assert render_table(("name", "count", "size", ""), rows, right=(2,)).splitlines() == [
        "name         count      size",
        "one          1,234       7 B",
        "and another      5  12.3 KiB  x",
    ]
    assert render_table(("", ""), [("a", 1)]) == "a  1"
    assert markdown_table(("name", "count", "size"), [("a|b", 1234, "7 B")], right=(2,)).splitlines() == [
        "| name | count | size |",
        "|---|---:|---:|",
        "| a\\|b | 1,234 | 7 B |",
    ]


def test_a_narrow_table_wraps_and_loses_nothing() -> None:
    text = render_table(("name", "about"), [("a", "some words and more of them " + "x" * 50)], width=30)
    assert max(map(len, text.splitlines())) <= 30
    assert text.count("x") == 50


@given(st.lists(st.tuples(TEXTS, st.integers()), min_size=1, max_size=4))
def test_foreign_text_in_a_table_is_only_text(rows: list[tuple[str, int]]) -> None:
    lines = render_table(("name", "count"), rows).split("\n")
    assert len(lines) == 1 + len(rows)
    for line, (name, number) in zip(lines[1:], rows, strict=True):
        assert line.split() == [*sanitise(name).split(), f"{number:,}"]
    assert len({cell_len(line) for line in lines[1:]}) == 1


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_foreign_text_in_a_markdown_table_is_only_text(rows: list[tuple[str, str]]) -> None:
    tokens = PARSER.parse(markdown_table(("a", "b"), rows))
    cells = [token for before, token in itertools.pairwise(tokens) if before.type == "td_open"]
    assert len(cells) == 2 * len(rows)
    assert {leaf.type for cell in cells for leaf in cell.children or []} <= {"text"}


TABLE = "| a | b |\n|---|---|\n| "


@pytest.mark.parametrize(
    ("before", "after", "text_before", "text_after"),
    [("", "", "", ""), ("- ", "", "", ""), ("Of ", ", so", "Of ", ", so"), (TABLE, " | c |", "ab", "c")],
)
@given(text=TEXTS)
@example(text="1. one")
@example(text="| a \\| b |")
@example(text="=")
def test_a_line_of_markdown_is_only_text(before: str, after: str, text_before: str, text_after: str, text: str) -> None:
    line = " ".join(sanitise(text).split())
    tokens = PARSER.parse(before + markdown_text(text) + after)
    blocks = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
    assert blocks <= {"paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "inline"}
    inline = [leaf for token in tokens for leaf in token.children or []]
    assert {leaf.type for leaf in inline} <= {"text"}
    shown = "".join(leaf.content for leaf in inline)
    assert shown.replace(WORD_JOINER, "") == (text_before + line + text_after).replace(WORD_JOINER, "")


@pytest.mark.parametrize("address", ["https://a.b/c", "HTTP://a.b", "www.a.b", "a@b.c", "ftp://a.b", "mailto:a@b.c"])
def test_addresses_do_not_become_links(address: str) -> None:
    """A page links an address by these signs with a letter behind them."""
    escaped = markdown_text(f"see {address} there")
    for sign in ("://", "www", "@"):
        at = escaped.lower().find(sign)
        assert at < 0 or escaped[at + len(sign)] == WORD_JOINER


@given(TEXTS)
@example("```\n![x](http://evil)\n```")
@example("````")
def test_a_markdown_block_holds_the_text_unchanged(text: str) -> None:
    tokens = PARSER.parse(f"Before.\n\n{markdown_block(text)}\n\nAfter.")
    assert [token.type for token in tokens if token.type != "inline"] == [
        *("paragraph_open", "paragraph_close", "fence", "paragraph_open", "paragraph_close")
    ]
    [fence] = [token for token in tokens if token.type == "fence"]
    assert fence.content == sanitise(text) + "\n"
