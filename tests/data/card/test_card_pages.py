"""The card's pages: whole, and harmless whatever the corpus holds."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from parakeet.conversation import Turn
from parakeet.data.documents import Document

from .card_corpus import make_corpus, plain_corpus

HOSTILE = (
    '</p></main><script>alert(1)</script><img src="http://evil/x.png" onerror="alert(1)">'
    " ![x](http://evil/y.png) [click](javascript:alert(1)) <http://evil/z> `` ``` ~~~\n```\n# heading\n"
    "| a | b |\n|---|---|\n"
    "\u202etxt.exe\u2066 \x1b]8;;http://evil\x07link\x1b]8;;\x07 \u2028 &lt;b&gt; --> ]]> {{x}} $x$ <!-- "
)
VOID = {"meta", "br", "link", "img", "hr"}
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """Checks that every tag is closed in its order, and gathers what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            elif name in {"href", "src"}:
                self.links.append(value or "")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """HTML and Markdown of a corpus whose every document and whose description are hostile."""
    root = tmp_path_factory.mktemp("hostile")
    hostile = [
        Document(
            document.source,
            document.licence,
            tuple(Turn(turn.role, f"{HOSTILE} {turn.content}") for turn in document.turns),
            document.metadata,
        )
        for document in plain_corpus()
    ]
    corpus = make_corpus(root, hostile, description=HOSTILE)
    corpus.edit(
        "documents",
        lambda c: c["sources"]["talk"].update(
            bad_reasons={HOSTILE: 1}, notes={HOSTILE: 2}, unused_columns={HOSTILE: 1}
        ),
    )
    corpus.edit("documents", lambda c: c["sources"]["text"].update(licence=HOSTILE))
    corpus.edit("clean_documents", lambda c: c["sources"]["talk"].update(found={HOSTILE: 3}))
    corpus.edit("clean_documents", lambda c: c.update(evaluation_sets={HOSTILE: {"records": 1, "found": 1}}))
    card = corpus.card(root / "out")
    return card.html, card.markdown


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_page_is_balanced_and_refers_to_itself_alone(tmp_path: Path) -> None:
    page = parsed(make_corpus(tmp_path, plain_corpus()).card(tmp_path / "out").html)
    assert len(page.ids) == len(set(page.ids))
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"data_card.json", "data_card.md"}
    assert {"svg", "table", "h1", "h2"} <= page.tags


def test_a_hostile_corpus_adds_no_tag_and_no_address(pages: tuple[str, str], tmp_path: Path) -> None:
    plain = parsed(make_corpus(tmp_path, plain_corpus()).card(tmp_path / "out").html)
    page = parsed(pages[0])
    assert page.tags <= plain.tags | {"br"}
    assert page.attributes == plain.attributes
    assert not page.tags & {"script", "img", "iframe", "object", "link"}
    assert all(link.startswith(("#", "data_card.")) for link in page.links)
    assert "default-src 'none'" in pages[0]
    assert "<script>alert(1)</script>" in "".join(page.text)


def test_no_character_steers_what_shows_the_files(pages: tuple[str, str]) -> None:
    for text in pages:
        assert STEERING.search(text) is None


def test_a_hostile_corpus_adds_no_markup_to_the_markdown(pages: tuple[str, str]) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(pages[1])
    leaves = [leaf for token in tokens for leaf in (token.children or [token])]
    assert not {leaf.type for leaf in leaves} & {"link_open", "image", "html_inline", "html_block", "code_block"}
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == [
        "Data card of small",
        *("Sources", "Licences", "From records to documents", "Duplicates", "Lengths", "Vocabulary"),
        *("Found while cleaning", "Evaluation sets", "Examples", "talk", "text", "gone", "Provenance"),
    ]
    assert any("<script>alert(1)</script>" in token.content for token in tokens if token.type == "fence")
    outside = "".join(leaf.content for leaf in leaves if leaf.type == "text")
    assert re.search(r"://[\w.-]|www\.|@\w", outside) is None


def test_every_row_of_a_table_has_as_many_cells_as_its_head(pages: tuple[str, str]) -> None:
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", pages[1], flags=re.MULTILINE | re.DOTALL)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    heads = [n for n, line in enumerate(rows) if set(line) <= set("|-:")]
    assert heads
    for head, following in zip(heads, [*heads[1:], len(rows) + 1], strict=True):
        assert len(set(cells[head - 1 : following - 1])) == 1
