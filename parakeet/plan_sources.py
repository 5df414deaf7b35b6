"""The plan's table of sources: where the text comes from, how it is read, and how much of it there is."""

import glob
import textwrap
from fractions import Fraction

from parakeet.download.slices import WHOLE
from parakeet.formatting import format_bytes, format_count, format_percent
from parakeet.recipe import Recipe
from parakeet.recipe_sources import Columns, RecordSource, RemoteSource, Source, SyntheticSource

BYTES_PER_TOKEN = 4.3
"""For English text in cl100k_base. A vocabulary of 4,096 needs nearly twice as many tokens."""
WIDTH = 110
NAME = 22
LICENCE = 25
COLUMNS = ("weight", "epochs", "rows", "download", "text", "tokens")
CELLS = (9, 8, 10, 11, 11, 10)
UNKNOWN = "-"

Section = tuple[str, list[tuple[str, str]]]


def sources_section(recipe: Recipe) -> Section:
    """The section's title and its rows. If no source is remote or weighted, a row is only a name and a path."""
    title = "Sources" if recipe.limit == 1.0 else f"Sources, {100 * recipe.limit:.4g}% of each"
    if all(not isinstance(source, RemoteSource) and source.weight is None for source in recipe.sources):
        return title, [(source.name, source.place(recipe.limit)) for source in recipe.sources]
    weights = sum(source.weight or 0.0 for source in recipe.sources)
    lines = [_cells("", COLUMNS)]
    totals = [0.0, 0.0, 0.0]
    for source in recipe.sources:
        sizes = _forecast(source, recipe.limit)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        share = format_percent(source.weight / weights, 2) if source.weight else UNKNOWN
        if len(source.name) >= NAME:
            lines.append(source.name)
        name = source.name if len(source.name) < NAME else ""
        licence = textwrap.shorten(source.licence, LICENCE, placeholder=" …")
        lines.append(_cells(name, (share, f"{source.epochs:g}", *_amounts(sizes))) + f"  {licence}".rstrip())
        about = "; ".join(filter(None, (source.place(recipe.limit), _mapping(source), _whole(source, recipe.limit))))
        lines += textwrap.wrap(
            about, WIDTH - 2, initial_indent="  ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    lines.append(_cells("in all", ("", "", *_amounts(totals))))
    return title, [(line, "") for line in lines]


def _cells(name: str, texts: tuple[str, ...]) -> str:
    return f"{name:<{NAME}}" + "".join(f"{text:>{width}}" for text, width in zip(texts, CELLS, strict=True))


def _forecast(source: Source, limit: float) -> list[float]:
    """Rows, bytes to download (at most) and bytes of text of a share of a source; 0 where the recipe does not say."""
    if isinstance(source, SyntheticSource):
        return [source.count(Fraction(str(limit))), 0, 0]
    forecast = source.forecast
    download = forecast.download_bytes * (1.0 if _whole(source, limit) else limit)
    return [limit * forecast.rows, download, limit * forecast.content_bytes]


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


def _amounts(sizes: list[float]) -> tuple[str, ...]:
    rows, download, text = map(round, sizes)
    tokens = round(text / BYTES_PER_TOKEN)
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
