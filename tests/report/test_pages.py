"""The report's pages: the same figures on both, every part that may be missing, and harmless whatever a model says."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from parakeet.evaluation.bits_per_byte import BitsPerByte
from parakeet.evaluation.by_position import BitsPerByteByPosition
from parakeet.formatting import WORD_JOINER
from parakeet.memorisation.sections import charts
from parakeet.memorisation.verdict import NOT_ENOUGH
from parakeet.pages.charts import NARROW, PRINTED
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
    expected += ["Learned or memorised?", "Samples"]
    expected += ["Since the previous release"] if "previous" in names else []
    assert titles(plain) == expected


def test_what_is_not_measured_is_said(prepared: Prepared) -> None:
    said = "this recipe sets evaluation.trace_index to false"
    assert said in Page(html_page(report(prepared))).text
    assert said not in Page(html_page(report(prepared, memorisation=memorisation()))).text


@pytest.mark.parametrize(
    ("network", "ngram", "about"),
    [
        (2.5, 2.25, "It needs 2.50 bits for a byte of text that it has not seen, where an n-gram model of its own "
         "training text needs 2.25."),
        (1.25, 2.25, "It needs 1.25 bits for a byte of text that it has not seen, where the compressor xz -9 needs "
         "2.50."),
        (None, None, "It needs 1.25 bits for a byte of text that it has not seen, where the compressor xz -9 needs "
         "2.50."),
    ],
)  # fmt: skip
def test_a_verdict_of_not_enough_data_comes_first(
    prepared: Prepared, network: float | None, ngram: float | None, about: str
) -> None:
    figures = memorisation()
    figures["verdict"] |= {"answer": NOT_ENOUGH, "opening": "Not enough data for an answer."}
    figures["margin"] = network and figures["margin"] | {"network": {"value": network}, "ngram": {"value": ngram}}
    said = verdict(report(prepared, memorisation=figures))
    assert said == f"Not enough data to say whether it learned or memorised. {about}"


@pytest.mark.parametrize(
    ("read", "skipped", "loss_on", "others"),
    [
        (5_120, 2, "assistant", None),
        (6_000, 0, "all", "padding"),
        (6_000, 1, "all", "padding and 1 skipped step"),
        (6_000, 0, "assistant", "what people say to the assistant and padding"),
        (6_000, 2, "assistant", "what people say to the assistant, padding and 2 skipped steps"),
    ],
)
def test_tokens_that_were_read_and_not_learned_are_named(
    prepared: Prepared, read: int, skipped: int, loss_on: str, others: str | None
) -> None:
    recipe = prepared.recipe.model_copy(
        update={"shards": prepared.recipe.shards.model_copy(update={"loss_on": loss_on})}
    )
    found = report(prepared, recipe=recipe, tokens_read=read)
    reasons = [{"skipped": "its loss is not finite"}] * skipped + [{}] * (20 - skipped)
    found = replace(
        found,
        training=found.training | {"skipped": 2, "rolled_back": 1},
        metrics=[record | reason for record, reason in zip(found.metrics, reasons, strict=True)],
    )
    markdown = re.sub(r"\\(.)", r"\1", markdown_page(found))
    undone = f" ({2 - skipped} of them undone by a rollback)" if skipped < 2 else ""
    assert f"- Steps that went wrong: 2 skipped{undone}, 1 rolled back" in markdown
    rows = re.findall("- (Tokens read|Trained on): (.*)", markdown)
    if others is None:
        assert rows == [("Trained on", "5,120 tokens in 20 steps")]
    else:
        learned = f"5,120 of them: it learns to predict these. The others are {others}"
        assert rows == [("Tokens read", "6,000 in 20 steps"), ("Trained on", learned)]


def test_the_control_stands_beside_what_is_extracted(prepared: Prepared) -> None:
    extracted = tiles(report(prepared, memorisation=memorisation()))[1]
    assert (extracted.name, extracted.number) == ("extracted_training", 0.5)
    assert extracted.beside == {"extracted_held_out": 0.25}
    assert "25.0%" in extracted.note


def test_a_column_of_intervals_that_no_source_has_is_left_out(prepared: Prepared) -> None:
    assert "95% interval | unigram" not in markdown_page(report(prepared))
    scores = evaluation()
    scores["bits_per_byte"]["talk"]["interval"] = [1.0, 1.5]
    assert "| 1.250 | 1.000 to 1.500 | 4.500 |" in markdown_page(report(prepared, evaluation=scores))


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


TASKS = ["piqa", "hellaswag", "arc_challenge", "a source with a long name"]


@pytest.mark.parametrize("names", [TASKS[:1], TASKS[:3], TASKS])
@pytest.mark.parametrize("inches", [6.4, NARROW])
def test_legends_cover_neither_the_chart_nor_the_title(names: list[str], inches: float) -> None:
    buckets = [{"first": n, "last": 2 * n, "bits_per_byte": 2.0, "standard_error": 0.5} for n in (16, 32, 64)]
    bits = {name: {"model": 2.0, "xz": 3.0, "unigram": 3.5} for name in names}
    positions = {"longest_trained_row_tokens": 64, "sources": {name: {"buckets": buckets} for name in names}}
    for figure in (BitsPerByte().plot(bits, PRINTED), BitsPerByteByPosition().plot(positions, PRINTED)):
        figure.set_figwidth(inches)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, chart = legend.get_window_extent(), figure.axes[0].get_tightbbox()
        assert chart is not None
        assert not box.overlaps(chart)
        title = figure.get_suptitle() and figure.texts[0].get_window_extent()
        assert not (title and box.overlaps(title))


@pytest.mark.parametrize(
    ("by_duplicates", "drawn"),
    [
        ({}, False),
        ({"16": {"1": 50}}, False),
        ({"16": {"1": 50}, "32": {"1": 50}}, False),
        ({"16": {"1": 50, "2-4": 9}}, False),
        ({"16": {"1": 50, "2-4": 10}}, True),
        ({"16": {"1": 50}, "32": {"2-4": 50}}, True),
    ],
)
def test_extraction_at_a_single_number_of_copies_is_no_chart(
    by_duplicates: dict[str, dict[str, int]], drawn: bool
) -> None:
    figures = memorisation()
    figures["extraction"]["by_duplicates"] = {
        k: {name: {"n": n, "share": 0.5, "interval": [0.25, 0.75]} for name, n in of.items()}
        for k, of in by_duplicates.items()
    }
    assert ("extraction" in charts(figures)) == drawn
