"""Figures of an artefact as Dagster's metadata: in units, rounded, small, and plotted for each recipe apart."""

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from parakeet.artifact import Artifact
from parakeet.formatting import markdown_table
from parakeet.home import home
from parakeet.page_server import page_address
from parakeet.stage import FigureTable, Markdown, PageLink, Picture

MOST_BYTES_WHEN_FOUND = 4000
"""Of one entry, if nothing was made: the materialization that made the artefact has all of it."""
COLOURS = 32
"""Of a picture in the history. A chart of 33 kB takes 8 kB then, and looks the same."""
DIGITS = 4
ALONE = {"row_count": "dagster/row_count"}
"""Names that Dagster knows."""


def metadata_of(figures: Mapping[str, Any], recipe: str, made: bool = True) -> dict[str, Any]:
    """Values to show, in their order. If nothing was `made`, pictures and long texts are left out.

    Dagster draws one line through all values of one name, so a number's name has the recipe's: `loss (demo)`.
    """
    shown: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            entry = _entry(value, made)
            if entry is not None:
                shown[name] = entry
        elif name in ALONE:
            shown[ALONE[name]] = value
        else:
            name, value = in_units(name, value)
            shown[f"{name} ({recipe})" if recipe else name] = value
    return shown


def record_of(artifact: Artifact, made: bool, recipe: str) -> dict[str, Any]:
    """What is shown of every artefact, after its figures."""
    return {
        "made": made,
        "made_at": dg.MetadataValue.text(str(artifact.manifest["made"])),
        "recipe": recipe,
        **metadata_of({"seconds_to_make": artifact.manifest["seconds"], "size_bytes": artifact.n_bytes}, recipe),
        "fingerprint": artifact.fingerprint,
        "path": dg.MetadataValue.path(str(artifact.path)),
    }


def in_units(name: str, value: float) -> tuple[str, float]:
    """A number with four digits; bytes as MiB, under a name that says so. Whole numbers stay as they are."""
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')}_mib", _rounded(value / 2**20)
    return name, value if isinstance(value, int) else _rounded(value)


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        return value
    return round(value) if abs(value) >= 10**DIGITS else float(f"{value:.{DIGITS}g}")


def _entry(value: Any, made: bool) -> Any:
    """A value as Dagster's; None if it is left out."""
    if isinstance(value, Picture):
        return dg.MetadataValue.md(_embedded(value.path)) if made else None
    if isinstance(value, FigureTable | Markdown):
        text = value.text if isinstance(value, Markdown) else markdown_table(value.columns, value.rows)
        return dg.MetadataValue.md(text) if made or len(text.encode()) <= MOST_BYTES_WHEN_FOUND else None
    if isinstance(value, PageLink):
        address = page_address(value.path, home())
        return dg.MetadataValue.md(f"[Open it]({address}) while `parakeet pages` runs.")
    return dg.MetadataValue.path(str(value)) if isinstance(value, Path) else value


def _embedded(path: Path) -> str:
    """A picture inside the text itself, so that it outlives the file."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS)
    written = io.BytesIO()
    small.save(written, "PNG", optimize=True)
    encoded = base64.b64encode(written.getvalue()).decode()
    return f"![{path.stem.replace('_', ' ')}](data:image/png;base64,{encoded})"
