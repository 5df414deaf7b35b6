"""The article: what Parakeet is, how it is made, and the answer of each study. One page in HTML and in Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_count, format_percent, listed
from parakeet.model.config import ModelConfig
from parakeet.model.original import VOCABULARY_ROWS
from parakeet.pages import render
from parakeet.pages.charts import png_pair, svg
from parakeet.recipe_file import load_recipe
from parakeet.report.parts import Commands, Drawing, Items, Part
from parakeet.studies.chapter import Chapter, chapter_of, command_of, in_days
from parakeet.studies.pipe_chart import draw_pipe
from parakeet.studies.records import Record
from parakeet.studies.results import Results

TITLE = "Three questions about a tiny language model"
ASKED = (
    "How small can a language model be and still be useful?",
    "What happens if we over-saturate a tiny model with a massive amount of data?",
    "Do language models actually generate responses by learning, or do they just memorise and regurgitate?",
)
"""As the original's page asks."""
ORIGINAL = "parakeet-378m"
OPTIMIZERS = {"muon": "Muon", "adamw": "AdamW", "adamw_8bit": "8-bit AdamW"}
DOCS = "../"
"""From the article to docs/."""
HTML_FILE, MARKDOWN_FILE, RECORDS_FOLDER = "index.html", "README.md", "records"
STUDY_HTML_FILE, STUDY_MARKDOWN_FILE = "report.html", "report.md"


@dataclass(frozen=True)
class Pages:
    html: str
    markdown: str
    pictures: Mapping[str, bytes]
    """PNG files by name, which the Markdown page shows."""


def write_article(results: Sequence[Results], output: Path) -> list[Path]:
    """Write HTML_FILE, MARKDOWN_FILE, its pictures and RECORDS_FOLDER into a folder. Returns the two pages.

    Pictures of an earlier article that this one has no place for are removed.
    """
    pages = article_pages(results)
    files: dict[str, str | bytes] = {HTML_FILE: pages.html, MARKDOWN_FILE: pages.markdown, **pages.pictures}
    for one in results:
        files[f"{RECORDS_FOLDER}/{one.name}.json"] = one.to_json()
    names = "|".join(re.escape(one.name) for one in results)
    _write(files, output, re.compile(rf"(?:pipe|(?:{names})-\d+)(?:-dark)?\.png"))
    return [output / HTML_FILE, output / MARKDOWN_FILE]


def write_study_page(chapter: Chapter, output: Path) -> list[Path]:
    """Write STUDY_HTML_FILE, STUDY_MARKDOWN_FILE and the pictures of one study into a folder. Returns both pages."""
    files: dict[str, str | bytes] = {
        STUDY_HTML_FILE: render("study.html", svg=svg, chapter=chapter),
        STUDY_MARKDOWN_FILE: render("study.md", chapter=chapter),
        **_pictures(chapter.parts, chapter.digest),
    }
    _write(files, output, re.compile(rf"{re.escape(chapter.name)}-\d+(?:-dark)?\.png"))
    return [output / STUDY_HTML_FILE, output / STUDY_MARKDOWN_FILE]


def article_pages(results: Sequence[Results]) -> Pages:
    """Both pages and the pictures of the second. ParakeetError if no study has a record."""
    if not any(one.records for one in results):
        raise ParakeetError("No run of any study has finished. Begin with: parakeet study run size --scale cpu")
    chapters = [chapter_of(one) for one in results]
    facts = facts_of(results)
    pipe = _pipe(facts)
    pictures = _pictures([pipe], listed([chapter.digest for chapter in chapters]))
    for chapter in chapters:
        pictures |= _pictures(chapter.parts, chapter.digest)
    values = {
        "title": TITLE,
        "facts": facts,
        "docs": DOCS,
        "chapters": chapters,
        "asked": Items(ASKED),
        "pipe": pipe,
        "commands": Commands([*(command_of(one) for one in results), "parakeet study report --all"]),
    }
    return Pages(
        html=render("article.html", svg=svg, **values),
        markdown=render("article.md", **values),
        pictures=pictures,
    )


def facts_of(results: Sequence[Results]) -> dict[str, Any]:
    """What the text around the answers tells: all from records, and from the original's recipe."""
    records = [record for one in results for record in one.records]
    run = [one for one in results if one.records]
    trained = [record.training for record in records]
    original = load_recipe(ORIGINAL)
    config = ModelConfig.from_recipe(original.model, VOCABULARY_ROWS)
    n_original = config.parameter_count
    parameters = _ends([one["parameters"] for one in trained])
    dates = sorted(day for one in results for day in one.dates)
    setup = run[0].setup
    sources = list(dict.fromkeys(source["name"] for one in run for text in one.texts for source in text["sources"]))
    machines = sorted({machine for one in run for machine in one.machines})
    on_gpu = any(one.get("device") == "cuda" for one in trained)
    return {
        "runs": len(records),
        "models": len({_model_of(record) for record in records}),
        "missing": sum(len(one.missing) for one in results),
        "original": {"layers": config.layers, "heads": config.heads, "parameters": n_original},
        "parameters": parameters,
        "share_of_original": format_percent(parameters[1] / n_original),
        "times_larger": round(n_original / parameters[1]),
        "tokens": _ends([one["tokens"] for one in trained]),
        "run_seconds": _ends([one["seconds"] for one in trained]),
        "device": listed(machines) if machines and on_gpu else f"a CPU{f' ({listed(machines)})' if machines else ''}",
        "dates": in_days(dates) if dates else "",
        "setup": setup,
        "optimizer": OPTIMIZERS.get(setup["optimizer"], setup["optimizer"]),
        "sources": f"{counted(len(sources), 'source')} ({listed(sources)})",
        "source_names": sources,
        "text_tokens": max(one["text_tokens"] for one in trained),
        "yardsticks": {kind: run[0].records[0].bits_per_byte_of(kind) for kind in ("xz", "unigram")},
    }


def _model_of(record: Record) -> tuple[object, ...]:
    """The same of two records of one model, which two arms may share."""
    training = record.training
    return record.seed, training["parameters"], training["tokens"], training["final_loss"]


def _ends(numbers: Sequence[float]) -> tuple[float, float]:
    return min(numbers), max(numbers)


def _pipe(facts: Mapping[str, Any]) -> Drawing:
    sizes = " to ".join(map(format_count, facts["parameters"]))
    steps = [
        ("text", listed(facts["source_names"])),
        ("clean", "no copies, a part held out"),
        ("tokens", f"up to {format_count(facts['text_tokens'])}"),
        ("training", f"{facts['optimizer']}, {facts['setup']['batch_tokens']:,} tokens a step"),
        (counted(facts["models"], "model"), f"{sizes} parameters"),
        ("records", "what was measured"),
    ]
    label = "From text to figures: " + "; ".join(f"{name} ({note})" for name, note in steps)
    return Drawing(partial(draw_pipe, steps), label, file="pipe")


def _pictures(parts: Sequence[Part], digest: str) -> dict[str, bytes]:
    """The PNG files of the drawings, by name. They keep the digest of the records that they show."""
    files: dict[str, bytes] = {}
    for part in parts:
        if isinstance(part, Drawing) and part.file:
            light, dark = png_pair(part.chart, f"{part.label} (records {digest})")
            files |= {f"{part.file}.png": light, f"{part.file}-dark.png": dark}
    return files


def _write(files: Mapping[str, str | bytes], output: Path, pictures: re.Pattern[str]) -> None:
    """Write the files, and remove pictures of earlier pages that are not among them."""
    for name, content in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(output / name, content)
    for path in output.glob("*.png"):
        if pictures.fullmatch(path.name) and path.name not in files:
            path.unlink()
