"""Kinds of files by name: what is read, what is left out, and under which ending it is counted.

This module is light: recipes, plans and Dagster's definitions import it. What a file is in fact is decided by its first
bytes (`contents`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".tar": "tar",
}
PAGES = (".html", ".htm", ".xhtml")
"""Web pages, which are read if trafilatura is installed."""
BOOK = ".epub"
"""A zip of web pages, one for each chapter."""
PAGES_REMEDY = "Web pages and EPUB are read after: pip install 'parakeet-lm[html]'"
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz", ".lz4")
ARCHIVES = ("zip", "tar")
TEXTS = ("text", "html")
COLUMNS = ("parquet", "csv", "tsv", "arrow")
"""Kinds whose records have columns. JSON may also hold settings, so its content decides."""
RECOGNISED = f"{', '.join(KINDS)} (each may be followed by {', '.join(COMPRESSIONS)}), .tgz and .zip"
NO_ENDING = "no ending"

_SHORT = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_ENDING = re.compile(r"(?<=[^.])(?:\.[^\W\d_]\w{0,11})?\.\w{1,12}$")
_DESCRIPTION = re.compile(
    r"dataset_infos?\.json|dataset_dict\.json|state\.json|(.+[._-])?metadata\.json|croissant.*\.json", re.I
)
_CARD = re.compile(r"(readme|licen[cs]e|copying|notice|citation|changelog|changes|contributing|authors)\b.*", re.I)


@cache
def reads_pages() -> bool:
    """Whether what extracts the text of web pages is installed."""
    return find_spec("trafilatura") is not None


def file_kind(name: str) -> tuple[str, str] | None:
    """(a value of `KINDS`, "zip" or "html", one of `COMPRESSIONS` or "") by the name; None if the ending is unknown."""
    name = name.lower()
    if name.endswith(".zip") or (name.endswith(BOOK) and reads_pages()):
        return "zip", ""
    short = next((suffix for suffix in _SHORT if name.endswith(suffix)), "")
    name = name.removesuffix(short) + _SHORT.get(short, "")
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    suffix = PurePosixPath(name.removesuffix(compression)).suffix
    kind = "html" if suffix in PAGES and reads_pages() else KINDS.get(suffix)
    return (kind, compression) if kind else None


def ending(name: str) -> str:
    """The ending that a file is counted under: ".pdf", ".xml.gz", or "no ending"."""
    name = name.lower()
    last = PurePosixPath(name).suffix
    match = _ENDING.search(name)
    if match is None:
        return NO_ENDING
    return match[0] if last in COMPRESSIONS else last


@dataclass
class Company:
    """The files that stand together in one folder or archive, and which of them are about the others.

    Beside records, a text file is a card or a licence, and a `dataset_infos.json` describes them: neither is trained
    on. Beside archives and single JSON values, which may be settings, only text with the name of a card is left out.
    """

    records: bool = False
    others: bool = False

    def add(self, name: str, kind: str, is_records: Callable[[], bool]) -> None:
        """Take one file into account. `is_records` looks into a JSON file."""
        if kind in TEXTS or self.records or _DESCRIPTION.fullmatch(PurePosixPath(name).name):
            return
        self.records = kind in COLUMNS or (kind in ("json", "jsonl") and is_records())
        self.others = True

    def leaves_out(self, name: str, kind: str) -> bool:
        name = PurePosixPath(name).name
        if kind in TEXTS:
            return self.records or (self.others and _CARD.match(name) is not None)
        return (self.records or self.others) and _DESCRIPTION.fullmatch(name) is not None
