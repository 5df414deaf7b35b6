"""The templates' environment: whatever a value holds, it is only text on the page."""

import html
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

import parakeet.pages
from parakeet.formatting import WORD_JOINER
from parakeet.pages import Cell, Table, environment
from parakeet.sanitise import sanitise

from .foreign_text import PARSER, TEXTS

FOLDER = Path(parakeet.pages.__file__).parent


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


def filled(source: str, markdown: bool = False, **values: object) -> str:
    return environment(markdown).from_string(source).render(values)


@given(TEXTS)
def test_a_value_in_html_is_only_text(text: str) -> None:
    page = filled("{% macro bold(text) %}{{ text }}{% endmacro %}{{ bold(text) }}", text=text)
    collector = Collector()
    collector.feed(page)
    collector.close()
    assert collector.other == []
    assert collector.text == sanitise(text) == html.unescape(page)
    assert '"' not in page


@given(TEXTS)
def test_a_value_in_markdown_is_only_text(text: str) -> None:
    page = filled("{% macro bold(text) %}**{{ text }}**{% endmacro %}Of {{ bold('x') }}: {{ text }}", True, text=text)
    inline = [leaf for token in PARSER.parse(page) for leaf in token.children or []]
    assert [leaf.type for leaf in inline if leaf.type != "text"] == ["strong_open", "strong_close"]


@given(st.lists(st.tuples(TEXTS, st.integers(0, 10**9)), min_size=1, max_size=4))
def test_both_pages_show_the_same_table(rows: list[tuple[str, int]]) -> None:
    table = Table(("Name", "Count"), [[Cell(name, "pill"), number] for name, number in rows])
    marked = filled("{{ table | table }}", True, table=table)
    shown = filled('{% from "macros.html" import table %}{{ table(data) }}', data=table)
    tokens = PARSER.parse(marked)
    markdown = [
        "".join(leaf.content for leaf in inline.children or []).replace(WORD_JOINER, "")
        for opened, inline in pairwise(tokens)
        if opened.type in ("th_open", "td_open")
    ]
    cells = re.findall(r"<t[hd](?: class=\"n\")?>(.*?)</t[hd]>", shown, re.DOTALL)
    text = [" ".join(html.unescape(re.sub(r"<[^>]*>", "", cell)).split()) for cell in cells]
    assert [cell.replace(WORD_JOINER, "") for cell in text] == markdown


def test_what_is_not_given_is_an_error() -> None:
    for source in ("{{ nothing }}", "{{ found.nothing }}", "{% if nothing %}x{% endif %}"):
        for markdown in (False, True):
            with pytest.raises(UndefinedError):
                filled(source, markdown, found={})


def test_units_in_a_template() -> None:
    source = "{{ 12345 | count }} {{ 2048 | bytes }} {{ 0.5 | percent }} {{ 1.005 | fixed(2) }}"
    assert filled(source) == filled(source, True) == "12,345 2.0 KiB 50.0% 1.00"
    assert filled("{{ 1 | count('cat') }}, {{ 2000 | count('cat') }}") == "1 cat, 2,000 cats"
    assert filled("{{ text | block }}", True, text="a\n```\nb") == "````text\na\n```\nb\n````"


def test_every_template_can_be_loaded() -> None:
    """Each compiles; none asks a browser for anything outside its own folder."""
    for path in FOLDER.iterdir():
        if path.is_file() and path.suffix != ".py":
            environment(markdown=path.suffix == ".md").get_template(path.name)
            assert re.search(r"https?://|@import|url\(|<script", path.read_text(encoding="utf-8")) is None
