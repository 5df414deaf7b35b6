"""The files of a source, and which records are taken where a recipe has a limit.

This module is light: recipes, plans and Dagster's definitions import it.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER
from parakeet.data.reading.contents import holds_json_records
from parakeet.data.reading.kinds import COLUMNS, RECOGNISED, TEXTS, Company, ending, file_kind
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import DownloadSource, FileSource, RemoteSource
from parakeet.sanitise import sanitise

FOLDER = "folder"
ENDINGS_SHOWN = 8


@dataclass(frozen=True)
class FoundFiles:
    """The files of a source that are read, sorted, and those that are left out.

    `root` is the folder that names are relative to. `unread` counts what is left out by ending, with "no ending" and
    "folder" (one that a pattern matches, and whose files it does not). `beside` names those of them that are text or a
    description beside files of records.
    """

    files: list[Path]
    root: Path
    unread: Counter[str] = field(default_factory=Counter)
    beside: list[str] = field(default_factory=list)


def find_files(source: FileSource) -> FoundFiles:
    """The files of a local source: its file, or what is read of its folder (with subfolders) or glob.

    A path that exists is never a pattern, and neither is the part of a pattern that exists. Hidden files and folders
    are left out of folders and globs. Raises ParakeetError if nothing is there, no file is read, a link is broken, or a
    folder cannot be listed.
    """
    path = Path(os.path.expanduser(source.path))  # unlike Path.expanduser, never raises
    where = f"Source {source.name}: {path}"
    if os.path.isdir(path):
        found = _sorted_out(walk(path, where), path, ())
        nothing = f"{where} holds no file that Parakeet reads"
    elif os.path.lexists(path):
        found = FoundFiles([path], path.parent)  # its content decides what it is
        nothing = ""
    elif (parts := _split(path))[1]:
        found = _sorted_out(_matches(*parts), parts[0], (parts[1],))
        nothing = f"{where} does not exist, and as a pattern it matches no file that Parakeet reads"
    else:
        message = f"{where} does not exist or cannot be reached. Correct the path"
        raise ParakeetError(sanitise(f"{message}. In a recipe it is relative to the recipe's own file."))
    if not found.files:
        there = f" ({endings(found.unread)})" if found.unread else ""
        raise ParakeetError(sanitise(f"{nothing}{there}. It reads {RECOGNISED}."))
    for file in found.files:
        if not os.path.isfile(file):
            message = f"Source {source.name}: {file} is not a file, or a broken link. Correct or remove it."
            raise ParakeetError(sanitise(message))
    return found


def source_files(source: FileSource) -> list[Path]:
    """The files of `find_files` that are read."""
    return find_files(source).files


def source_root(source: FileSource) -> Path:
    """The folder that the names of a source's files are relative to."""
    path = Path(os.path.expanduser(source.path))
    if os.path.isdir(path):
        return path
    return path.parent if os.path.lexists(path) else _split(path)[0]


def find_fetched(folder: Path, source: RemoteSource) -> FoundFiles:
    """The files of a downloaded source; ParakeetError if none of them is read."""
    own = {folder / MANIFEST_FILE}
    fetched = [
        path
        for path in walk(folder, f"Source {source.name}")
        if path not in own and path.relative_to(folder).parts[0] != WORK_FOLDER
    ]
    patterns = [path.name for path in fetched] if isinstance(source, DownloadSource) else source.file_names()
    found = _sorted_out(fetched, folder, patterns)
    if not found.files:
        raise ParakeetError(
            f"Source {source.name}: Parakeet reads none of the downloaded files. It reads {RECOGNISED}. "
            "Correct the files of the source in the recipe."
        )
    return found


def endings(unread: Counter[str]) -> str:
    """Counts by ending for a person: ".pdf 3, .html 1, no ending 1"."""
    most = sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(number for _, number in most[ENDINGS_SHOWN:])
    shown = ", ".join(f"{sanitise(name)} {number:,}" for name, number in most[:ENDINGS_SHOWN])
    return f"{shown}, others {rest:,}" if rest else shown


def _split(path: Path) -> tuple[Path, str]:
    """The part of a path that exists or is no pattern, and the pattern in it; "" if there is none.

    For a path without a pattern the first part is its folder.
    """
    fixed, pattern = path.parent, path.name
    while glob.has_magic(str(fixed)) and not os.path.isdir(fixed):
        pattern = f"{fixed.name}/{pattern}"
        fixed = fixed.parent
    return fixed, pattern if glob.has_magic(pattern) else ""


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    """What a pattern matches in a folder, each thing once, although links can lead to it on several ways."""
    seen = set()
    parents: dict[Path, Path] = {}
    for path in sorted(_expanded(folder, pattern)):
        if path.parent not in parents:
            parents[path.parent] = path.parent.resolve()
        if (key := (parents[path.parent], path.name)) not in seen:
            seen.add(key)
            yield path


def _expanded(folder: Path, pattern: str) -> Iterator[Path]:
    """Part by part: a name that is there is not a pattern."""
    first, _, rest = pattern.partition("/")
    if first == "**":
        yield from (folder / name for name in glob.glob(pattern, root_dir=folder, recursive=True))
        return
    names = [first] if os.path.lexists(folder / first) else glob.glob(first, root_dir=folder)
    for name in names:
        if not rest:
            yield folder / name
        elif (folder / name).is_dir():
            yield from _expanded(folder / name, rest)


def _sorted_out(paths: Iterable[Path], root: Path, patterns: Sequence[str]) -> FoundFiles:
    """What of these is read. A pattern that ends in `.md` asks for Markdown, whatever stands beside it."""
    asked = [PurePosixPath(pattern).name.lower() for pattern in patterns]
    suffixes = tuple(suffix for name in asked if (suffix := PurePosixPath(name).suffix) and not glob.has_magic(suffix))
    recursive = any("**" in pattern for pattern in patterns)
    known: list[tuple[Path, str]] = []
    unread: Counter[str] = Counter()
    for path in sorted(paths):
        if os.path.isdir(path):
            unread[FOLDER] += not recursive
        elif named := file_kind(path.name):
            known.append((path, named[0]))
        else:
            unread[ending(path.name)] += 1
    company = Company()
    # JSON is looked into only where text stands beside it: a listing of many files has to stay fast.
    text = any(kind in TEXTS for _, kind in known)
    for path, kind in sorted(known, key=lambda one: one[1] not in COLUMNS):
        company.add(path.name, kind, lambda path=path: not text or holds_json_records(path))  # type: ignore[misc]
    files, beside = [], []
    for path, kind in known:
        name = path.name.lower()
        chosen = name in asked or (kind in TEXTS and name.endswith(suffixes))
        if not chosen and (company.leaves_out(name, kind) or _is_cache(path)):
            beside.append(path.relative_to(root).as_posix())
            unread[ending(name)] += 1
        else:
            files.append(path)
    return FoundFiles(files, root, +unread, beside)


def _is_cache(path: Path) -> bool:
    """Whether a file was left by a computation on a data set that Hugging Face's `datasets` saved."""
    return path.name.startswith("cache-") and path.suffix == ".arrow" and (path.parent / "state.json").is_file()


def walk(folder: Path, where: str) -> Iterator[Path]:
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
        base = Path(here)
        yield from (base / name for name in names if not name.startswith("."))


def is_sampled(index: int, share: Fraction) -> bool:
    """Whether a record is in a systematic sample: of the first n records, floor(n · share) are.

    The same records are taken whoever reads them, spread evenly over the files.
    """
    taken = (index + 1) * share.numerator // share.denominator
    return taken > index * share.numerator // share.denominator
