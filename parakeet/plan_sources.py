"""The plan's table of sources: where the text comes from, how it is read, and how much of it there is."""

import glob
import math
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from parakeet.data.reading.stage import local_files
from parakeet.download.slices import WHOLE
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_count, format_percent
from parakeet.plan_files import text_bytes
from parakeet.recipe import Recipe
from parakeet.recipe_sources import (
    Columns,
    FileSource,
    RandomSource,
    RecordSource,
    RemoteSource,
    Source,
    SyntheticSource,
)

BYTES_PER_TOKEN = 4.3
"""For English text in cl100k_base."""
WIDTH = 110
NAME = 22
LICENCE = 25
COLUMNS = ("weight", "epochs", "rows", "download", "text", "tokens")
CELLS = (9, 8, 10, 11, 11, 10)
UNKNOWN = "-"

Section = tuple[str, list[tuple[str, str]]]


def bytes_per_token(recipe: Recipe) -> float:
    """About how many bytes of English text a token holds.

    Measured on books with vocabularies of 512 (2.1), 1,024 (2.7), 2,048 (3.1), 4,096 (3.5) and 8,192 (3.9) tokens.
    """
    if recipe.tokenizer.kind == "cl100k_base":
        return BYTES_PER_TOKEN
    return min(BYTES_PER_TOKEN, 2.15 + 0.46 * math.log2(max(1.0, recipe.tokenizer.vocabulary / 512)))


@dataclass(frozen=True)
class SourceForecast:
    """What is known about a share of a source before it is read; 0 where nothing is.

    `n_files` and `file_bytes` are of files on this machine, `fault` says why they cannot be counted.
    """

    source: Source
    rows: int = 0
    download_bytes: int = 0
    text_bytes: int = 0
    n_files: int = 0
    file_bytes: int = 0
    fault: str = ""


def forecast_sources(recipe: Recipe) -> list[SourceForecast]:
    """The forecasts of a recipe's sources, for its limit. Files on this machine are looked at, and not read whole."""
    return [_forecast(source, recipe.limit) for source in recipe.sources]


def tokens_of(forecasts: list[SourceForecast], recipe: Recipe) -> int | None:
    """About how many tokens all sources hold; None if the text of one is not known."""
    if any(not known.text_bytes for known in forecasts):
        return None
    return round(sum(known.text_bytes for known in forecasts) / bytes_per_token(recipe))


def sources_section(recipe: Recipe, forecasts: list[SourceForecast]) -> Section:
    """The section's title and its rows. If no source is remote or weighted, a row is a name, a path and its size."""
    title = "Sources" if recipe.limit == 1.0 else f"Sources, {100 * recipe.limit:.4g}% of each"
    per_token = bytes_per_token(recipe)
    if all(not isinstance(source, RemoteSource) and source.weight is None for source in recipe.sources):
        rows = []
        for known in forecasts:
            rows.append((known.source.name, known.source.place(recipe.limit)))
            rows += [("", line) for line in textwrap.wrap(_on_this_machine(known, per_token), WIDTH - 30)]
        return title, rows
    weights = sum(source.weight or 0.0 for source in recipe.sources)
    lines = [_cells("", COLUMNS)]
    totals = [0, 0, 0]
    for known in forecasts:
        source, sizes = known.source, [known.rows, known.download_bytes, known.text_bytes]
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        share = format_percent(source.weight / weights, 2) if source.weight else UNKNOWN
        if len(source.name) >= NAME:
            lines.append(source.name)
        name = source.name if len(source.name) < NAME else ""
        licence = textwrap.shorten(source.licence, LICENCE, placeholder=" …")
        lines.append(_cells(name, (share, f"{source.epochs:g}", *_amounts(sizes, per_token))) + f"  {licence}".rstrip())
        about = "; ".join(filter(None, (source.place(recipe.limit), _mapping(source), _whole(source, recipe.limit))))
        lines += textwrap.wrap(
            about, WIDTH - 2, initial_indent="  ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    lines.append(_cells("total", ("", "", *_amounts(totals, per_token))))
    return title, [(line, "") for line in lines]


def source_documents(recipe: Recipe, forecasts: list[SourceForecast]) -> list[dict[str, Any]]:
    """The same as JSON values. What is not known is null."""
    return [
        {
            "name": known.source.name,
            "kind": known.source.kind,
            "place": known.source.place(recipe.limit),
            "licence": known.source.licence,
            "weight": known.source.weight,
            "epochs": known.source.epochs,
            "rows": known.rows or None,
            "download_bytes": known.download_bytes or None,
            "text_bytes": known.text_bytes or None,
            "tokens": round(known.text_bytes / bytes_per_token(recipe)) or None,
            "files": known.n_files or None,
            "file_bytes": known.file_bytes or None,
            "problem": known.fault or None,
        }
        for known in forecasts
    ]


def _on_this_machine(known: SourceForecast, per_token: float) -> str:
    if known.fault or not known.n_files:
        return known.fault
    files = f"{known.n_files:,} file{'s' * (known.n_files != 1)} of {format_bytes(known.file_bytes)}"
    if not known.text_bytes:
        return files
    tokens = format_count(round(known.text_bytes / per_token))
    return f"{files}, at most {format_bytes(known.text_bytes)} of text, about {tokens} tokens"


def _cells(name: str, texts: tuple[str, ...]) -> str:
    return f"{name:<{NAME}}" + "".join(f"{text:>{width}}" for text, width in zip(texts, CELLS, strict=True))


def _forecast(source: Source, limit: float) -> SourceForecast:
    if isinstance(source, SyntheticSource | RandomSource):
        return SourceForecast(source, rows=source.count(Fraction(str(limit))))
    stated = source.forecast
    if isinstance(source, FileSource) and not stated.content_bytes:
        try:
            paths = list(local_files([source]).values())
            sizes, texts = [path.stat().st_size for path in paths], [text_bytes(path) for path in paths]
        except (ParakeetError, OSError) as error:
            return SourceForecast(source, rows=round(limit * stated.rows), fault=str(error))
        text = 0 if 0 in texts else round(limit * sum(texts))
        return SourceForecast(source, round(limit * stated.rows), 0, text, len(paths), sum(sizes))
    download = stated.download_bytes * (1.0 if _whole(source, limit) else limit)
    return SourceForecast(source, round(limit * stated.rows), round(download), round(limit * stated.content_bytes))


def _whole(source: Source, limit: float) -> str:
    """A note for a source whose files can only be fetched whole, going by their names. Empty for others."""
    if not isinstance(source, RemoteSource):
        return ""
    names = source.file_names()
    if limit == 1.0 or not any(name.lower().endswith(WHOLE) for name in names):
        return ""
    return (
        "fetched whole" if len(names) == 1 and not glob.has_magic(names[0]) else "fetched in whole files, at most all"
    )


def _amounts(sizes: list[int], per_token: float) -> tuple[str, ...]:
    rows, download, text = sizes
    tokens = round(text / per_token)
    counts = (format_count(rows), format_bytes(download), format_bytes(text), format_count(tokens))
    return tuple(shown if n else UNKNOWN for shown, n in zip(counts, (rows, download, text, tokens), strict=True))


def _mapping(source: Source) -> str:
    """Which column holds which role's text."""
    if not isinstance(source, RecordSource):
        return ""
    if source.columns is not None:
        return _named(source.columns)
    return f"documents parted by {source.separator.strip()}" if source.separator else "columns as recognised"


def _named(columns: Columns) -> str:
    if columns.text:
        return f"{columns.text} is the document"
    if columns.alternating:
        return f"Human and Assistant in turn in {columns.alternating}"
    if columns.messages:
        return f"turns in {columns.messages} ({columns.role}, {columns.content})"
    system = f"{columns.system} is System, " if columns.system else ""
    return f"{system}{columns.human} is Human, {columns.assistant} is Assistant"
