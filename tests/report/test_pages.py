"""The report's pages: the same figures on both, every part that may be missing, and harmless whatever a model says."""

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from parakeet.formatting import WORD_JOINER
from parakeet.report.make import html_page, markdown_page
from parakeet.report.summary import tiles, verdict

from ..conftest import Prepared
from ..foreign_text import PARSER
from .reports import benchmarks, evaluation, memorisation, report

HOSTILE = (
    '</p></main><script>alert(1)</script><img src="http://evil/x.png" onerror="alert(1)"> ![x](http://evil/y.png) '
    "[click](javascript:alert(1)) ``` ~~~\n```\n# heading\n| a | b |\n|---|---|\n"
    "\u202etxt \x1b[31m &lt;b&gt; {{x}} $x$ <!-- "
)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """Checks that every tag is closed in its order, and gathers tags, text and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta" and tag != "br":
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "svg" not in self.open and "style" not in self.open:
            self.text += f" {data}"

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")


def figures_in(text: str) -> set[str]:
    """Every number with a point, a comma or a percent sign."""
    return set(re.findall(r"\d[\d,]*\.\d+%?|\d[\d,]*%|\d{1,3}(?:,\d{3})+", text))


def titles(markdown: str) -> list[str]:
    return re.findall(r"^## (.*)$", markdown, re.MULTILINE)


def everything(prepared: Prepared) -> dict[str, Any]:
    measured = report(prepared).measured()
    return {
        "evaluation": evaluation() | {"benchmarks": benchmarks()},
        "memorisation": memorisation(),
        "samples": [{"step": 5, "tokens": 1_280, "replies": ["A parrot.", ""]}],
        "previous": measured.__class__(**{**measured.__dict__, "name": "older", "release": "0123-0", "tokens": 2_560}),
    }


CHANGES: dict[str, tuple[str, ...]] = {
    "as little as possible": (),
    "benchmarks and earlier checkpoints": ("evaluation", "samples"),
    "memorisation and a previous release": ("memorisation", "previous"),
    "everything": ("evaluation", "memorisation", "samples", "previous"),
}


@pytest.mark.parametrize("names", CHANGES.values(), ids=CHANGES.keys())
def test_both_pages_show_the_same_figures_with_and_without_each_part(
    prepared: Prepared, names: tuple[str, ...]
) -> None:
    whole = everything(prepared)
    found = report(prepared, **{name: whole[name] for name in names})
    shown, markdown = Page(html_page(found)), markdown_page(found)
    plain = html.unescape(re.sub(r"\\(.)", r"\1", markdown)).replace(WORD_JOINER, "")
    assert figures_in(shown.text) == figures_in(plain)
    assert [title for title in titles(markdown) if title not in shown.text] == []
    inside = {link.removeprefix("#") for link in shown.links if link.startswith(("#", "#m", "#p"))}
    assert inside <= set(shown.ids)
    assert [link for link in shown.links if not link.startswith("#")] == []
    assert "The data card" in shown.text
    assert "The data card" in plain
    expected = ["Training text", "Training", "Scores", "Held-out bits per byte"]
    expected += ["Learned or memorised?"] if "memorisation" in names else []
    expected += ["Samples"]
    expected += ["Since the previous release"] if "previous" in names else []
    assert titles(plain) == expected


def test_the_network_stands_beside_the_ngram_model_on_the_same_text(prepared: Prepared) -> None:
    figures = memorisation()
    opening = "Learned: it predicts. Whether it memorised cannot be told."
    figures["verdict"] |= {"opening": opening, "text": f"{opening} On 30 documents."}
    first, given = (report(prepared, memorisation=found) for found in (None, figures))
    assert tiles(first)[0].value == "1.250"
    tile = tiles(given)[0]
    assert (tile.value, tile.number) == ("1.375", 1.375)
    assert "1.750" in tile.note
    assert verdict(given) == opening


def test_a_model_without_any_score_has_a_report(prepared: Prepared) -> None:
    """An evaluation of a recipe with too little held-out text, no questions and no prompts."""
    nothing = {"bits_per_byte": {"talk": None}, "exact_match": "not applicable", "replies": []}
    found = report(prepared, evaluation=nothing)
    assert "Too little text was held out" in Page(html_page(found)).text
    assert "Samples" not in titles(markdown_page(found))


def test_nothing_that_a_model_or_a_person_wrote_becomes_markup(prepared: Prepared) -> None:
    plain = Page(html_page(report(prepared, **everything(prepared))))
    whole = everything(prepared)
    hostile = report(
        prepared,
        **whole
        | {
            "evaluation": evaluation(HOSTILE, HOSTILE) | {"benchmarks": benchmarks()},
            "samples": [{"step": 5, "tokens": 1_280, "replies": [HOSTILE, HOSTILE]}],
            "recipe": prepared.recipe.model_copy(update={"description": HOSTILE}),
        },
    )
    for source in hostile.text["sources"]:
        source["licence"] = HOSTILE
    page, markdown = html_page(hostile), markdown_page(hostile)
    shown = Page(page)
    assert shown.tags <= plain.tags
    assert shown.links == plain.links
    assert "default-src 'none'" in page
    assert "<script>alert(1)</script>" in shown.text
    tokens = PARSER.parse(markdown)
    leaves = [leaf for token in tokens for leaf in (token.children or [token])]
    assert not {leaf.type for leaf in leaves} & {"link_open", "image", "html_inline", "html_block", "code_block"}
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert len([title for title in headings if "heading" in title]) == 0
    for text in (page, markdown):
        assert STEERING.search(text) is None


def test_published_models_stand_beside_the_tasks_that_were_measured(prepared: Prepared) -> None:
    markdown = markdown_page(report(prepared, evaluation=evaluation() | {"benchmarks": benchmarks()}))
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {"| Model | piqa |", "| Pythia-160M | 62.7% |", "| this model, normalised | 62.5% |"} < set(rows)
    assert "Pythia-160M, OPT-350M: EleutherAI/pythia" in markdown.replace("\\", "")
    assert "lambada" not in markdown  # was not measured
    assert "published" not in markdown_page(report(prepared))


@pytest.mark.parametrize(
    ("replies", "last", "labels"),
    [
        (["a", "b"], "c", ["after 100 tokens", "after 200 tokens", "the finished model"]),
        (["a", "a"], "a", ["from 100 tokens to the end"]),
        (["a", "c"], "c", ["after 100 tokens", "from 200 tokens to the end"]),
        (["a", "a"], "b", ["after 100 and 200 tokens", "the finished model"]),
        (["a", "b"], "a", ["after 100 tokens", "after 200 tokens", "the finished model"]),
        ([], "a", ["The model"]),
    ],
)
def test_the_same_reply_of_checkpoints_in_a_row_is_shown_once(
    prepared: Prepared, replies: list[str], last: str, labels: list[str]
) -> None:
    samples = [{"step": n, "tokens": 100 * n, "replies": [reply]} for n, reply in enumerate(replies, start=1)]
    scores = evaluation() | {"replies": [{"prompt": "?", "reply": last}]}
    markdown = markdown_page(report(prepared, evaluation=scores, samples=samples))
    assert re.findall(r"^(.*):\n\n```", markdown, re.MULTILINE) == labels
