"""The files of a source, what kind each is, and which records are taken where a recipe has a limit.

This module is light: recipes, plans and Dagster's definitions import it.
"""

import glob
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import FileSource
from parakeet.sanitise import sanitise

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".tar": "tar",
}
COMPRESSIONS = (".gz", ".zst")
ARCHIVES = ("zip", "tar")
RECOGNISED = f"{', '.join(KINDS)} (each may be followed by {' or '.join(COMPRESSIONS)}), .tgz and .zip"


def file_kind(name: str) -> tuple[str, str] | None:
    """("jsonl" | "json" | "parquet" | "text" | "tar" | "zip", "" | ".gz" | ".zst") by the name; None if unknown."""
    name = name.lower()
    if name.endswith(".tgz"):
        return "tar", ".gz"
    if name.endswith(".zip"):
        return "zip", ""
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    kind = KINDS.get(PurePosixPath(name.removesuffix(compression)).suffix)
    return (kind, compression) if kind else None


def source_files(source: FileSource) -> list[Path]:
    """The files of a source, sorted: its file, or the recognised files of its folder (with subfolders) or glob.

    Hidden files and folders are left out of folders. Raises ParakeetError if nothing is there, no file is recognised, a
    link is broken, or a folder cannot be listed.
    """
    path = Path(os.path.expanduser(source.path))  # unlike Path.expanduser, never raises
    where = f"Source {source.name}: {path}"
    if os.path.isdir(path):
        found = sorted(_walk(path, where))
        nothing = f"{where} holds no file that Parakeet reads. It reads {RECOGNISED}."
    elif os.path.lexists(path):
        found = [path]
        nothing = f"{where} is of a kind that Parakeet does not read. It reads {RECOGNISED}."
    elif glob.has_magic(str(path)):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if not p.is_dir())
        nothing = f"{where} matches no file that Parakeet reads. It reads {RECOGNISED}."
    else:
        message = f"{where} does not exist or cannot be reached. Correct the path"
        raise ParakeetError(sanitise(f"{message}. In a recipe it is relative to the recipe's own file."))
    files = [file for file in found if file_kind(file.name)]
    if not files:
        raise ParakeetError(sanitise(nothing))
    for file in files:
        if not file.is_file():
            message = f"Source {source.name}: {file} is not a file, or a broken link. Correct or remove it."
            raise ParakeetError(sanitise(message))
    return files


def _walk(folder: Path, where: str) -> Iterator[Path]:
    """Follows links, but visits each folder once, so a link to a parent does not loop."""

    def refuse(error: OSError) -> None:
        message = f"{where}: {error.filename} cannot be listed ({error.strerror}). Make it readable, or name files."
        raise ParakeetError(sanitise(message))

    seen = {folder.resolve()}
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        candidates = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in candidates:
            target = (Path(here) / name).resolve()
            if target not in seen:
                seen.add(target)
                folders.append(name)
        yield from (Path(here) / name for name in names if not name.startswith("."))


def source_root(source: FileSource) -> Path:
    """The folder that the names of a source's files are relative to."""
    path = Path(os.path.expanduser(source.path))
    if os.path.isdir(path):
        return path
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return path.parent
    fixed = path
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def fetched_files(folder: Path, name: str) -> list[Path]:
    """The recognised files of a downloaded source, sorted; ParakeetError if there are none."""
    own = {folder / MANIFEST_FILE}
    found = sorted(
        path
        for path in _walk(folder, f"Source {name}")
        if path not in own and path.relative_to(folder).parts[0] != WORK_FOLDER and file_kind(path.name)
    )
    if not found:
        raise ParakeetError(
            f"Source {name}: Parakeet reads none of the downloaded files. It reads {RECOGNISED}. "
            "Correct the files of the source in the recipe."
        )
    return found


def is_sampled(index: int, share: Fraction) -> bool:
    """Whether a record is in a systematic sample: of the first n records, floor(n · share) are.

    The same records are taken whoever reads them, spread evenly over the files.
    """
    taken = (index + 1) * share.numerator // share.denominator
    return taken > index * share.numerator // share.denominator
