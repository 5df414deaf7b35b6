"""The work of stage `report`: one page in HTML, the same in Markdown, a picture, and what was measured for them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.formatting import format_date
from parakeet.pages import render
from parakeet.pages.charts import Chart, save_png, svg
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.report_files import HTML_FILE, MARKDOWN_FILE, PICTURE_FILE, RECORD_FILE
from parakeet.report.gather import Gathered, gather
from parakeet.report.parts import Tile
from parakeet.report.sections import scores_drawing, sections_of, shares_of
from parakeet.report.summary import tiles, verdict
from parakeet.training.curve import draw_loss_curve


def make_report(
    recipe: Recipe, root: Path, inputs: Mapping[str, Artifact], output: Path, progress: Progress
) -> dict[str, Any]:
    """Write HTML_FILE, MARKDOWN_FILE, PICTURE_FILE and RECORD_FILE. Returns the counts that the manifest keeps."""
    report = gather(recipe, root, inputs, progress)
    (output / HTML_FILE).write_text(html_page(report), encoding="utf-8")
    (output / MARKDOWN_FILE).write_text(markdown_page(report), encoding="utf-8")
    save_png(_picture(report), output / PICTURE_FILE)
    record = {
        "verdict": verdict(report),
        "figures": _figures(report),
        "samples": report.samples,
        "previous": asdict(report.previous) if report.previous else None,
    }
    (output / RECORD_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {
        "name": recipe.name,
        "figures": {name: round(number, 3) for name, number in _figures(report).items()},
        "in_words": ", ".join(_in_words(tile) for tile in tiles(report)),
        "checkpoints": len(report.samples) + 1,
        "compared_with": report.previous.release if report.previous else None,
    }


def _figures(report: Gathered) -> dict[str, float]:
    return {name: number for tile in tiles(report) for name, number in {tile.name: tile.number, **tile.beside}.items()}


def _in_words(tile: Tile) -> str:
    return f"{tile.value} {tile.label}" + (f" ({tile.note})" if tile.beside else "")


def html_page(report: Gathered) -> str:
    """The same report gives the same page."""
    return render("report.html", svg=svg, **_values(report))


def markdown_page(report: Gathered) -> str:
    return render("report.md", **_values(report))


def _values(report: Gathered) -> dict[str, Any]:
    """What both templates show."""
    return {
        "name": report.recipe.name,
        "description": report.recipe.description,
        "verdict": verdict(report),
        "tiles": tiles(report),
        "facts": {
            "parameters": report.training["parameters"],
            "layers": report.config.layers,
            "width": report.config.width,
            "context": report.config.context,
            "made": format_date(report.made),
        },
        "sections": sections_of(report),
        "licences": sorted({source["licence"] for source in report.text["sources"]}),
        "contents": report.contents,
    }


def _picture(report: Gathered) -> Chart:
    """The scores, or the loss curve of a model without any."""
    shares = shares_of(report)
    return scores_drawing(report, shares).chart if shares else partial(draw_loss_curve, report.metrics)
