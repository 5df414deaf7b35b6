"""From a source to its files, and from a file to its records.

Everything streams. Trouble in one record is a `Problem` that travels with it; trouble with a file is a ParakeetError.
"""

import errno
import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from parakeet.artifact import MANIFEST_FILE, WORK_FOLDER
from parakeet.data.reading.archives import DAMAGE, decompressed, members, opened
from parakeet.data.reading.file_kinds import ARCHIVES, RECOGNISED, file_kind
from parakeet.data.reading.readers import read_row_groups, read_stream
from parakeet.data.reading.records import Record
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import FileSource
from parakeet.sanitise import sanitise

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def source_files(source: FileSource) -> list[Path]:
    """The files of a source: its file, or those of its folder (with subfolders) or glob that are recognised, sorted.

    Hidden files and folders are left out of folders. Raises ParakeetError where nothing is there, nothing of
    it is recognised, a link leads nowhere, or a folder cannot be listed.
    """
    path = Path(os.path.expanduser(source.path))  # unlike Path's own, never raises
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
        raise ParakeetError(sanitise(f"{message}; in a recipe it is relative to the recipe's own file."))
    files = [file for file in found if file_kind(file.name)]
    if not files:
        raise ParakeetError(sanitise(nothing))
    for file in files:
        if not file.is_file():
            message = f"Source {source.name}: {file} is not a file, or a link to none. Mend it or take it away."
            raise ParakeetError(sanitise(message))
    return files


def _walk(folder: Path, where: str) -> Iterator[Path]:
    """Links are followed, each folder once, so that a link to a parent does not go round for ever."""

    def refuse(error: OSError) -> None:
        message = f"{where}: {error.filename} cannot be listed ({error.strerror}). Make it readable, or give files."
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
    """The folder that the names of a source's files are told relative to."""
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
    """The files of a fetched source that are recognised, sorted; ParakeetError if there are none."""
    own = {folder / MANIFEST_FILE}
    found = sorted(
        path
        for path in _walk(folder, f"Source {name}")
        if path not in own and path.relative_to(folder).parts[0] != WORK_FOLDER and file_kind(path.name)
    )
    if not found:
        raise ParakeetError(
            f"Source {name}: among the files that were fetched is none that Parakeet reads. It reads {RECOGNISED}. "
            "Correct the files of the source in the recipe."
        )
    return found


def read_records(path: Path, separator: str | None = None) -> Iterator[Record]:
    """All records of a file in order, the unusable ones with their `problem`; blank lines are no records.

    A text file is cut at lines that are the `separator`, or without one at blank lines. Archives give the records of
    their members, each with the member's name. Raises ParakeetError if the file is of no recognised kind, cannot be
    opened, is damaged, breaks off or unpacks beyond reason (with the number of records before), or is UTF-16.
    """
    kind_and_compression = file_kind(path.name)
    if kind_and_compression is None:
        raise ParakeetError(sanitise(f"{path} is of a kind that Parakeet does not read. It reads {RECOGNISED}."))
    yield from _undamaged(_file_records(path, *kind_and_compression, separator), path)


def read_rows(path: Path, groups: range, rows_before: int) -> Iterator[Record]:
    """The same for some row groups of a Parquet file that have `rows_before` rows before them."""
    with opened(path) as file:
        yield from _undamaged(read_row_groups(file, groups, rows_before), path)


def _file_records(path: Path, kind: str, compression: str, separator: str | None) -> Iterator[Record]:
    where = str(path)
    with opened(path) as packed, decompressed(packed, compression, where) as stream:
        if kind not in ARCHIVES:
            yield from read_stream(kind, stream, where, separator)
            return
        for member in members(kind, stream, where):
            if member.problem is not None:
                yield Record(0, problem=member.problem, excerpt=member.name, member=member.name)
                continue
            inside = f"{where}/{member.name}"
            with decompressed(member.stream, member.kind[1], inside) as content:
                for record in read_stream(member.kind[0], content, inside, separator):
                    yield replace(record, member=member.name)


def _undamaged(records: Iterator[Record], path: Path) -> Iterator[Record]:
    count = 0
    try:
        for record in records:
            yield record
            count += 1
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # of the temporary file, not of this one
            raise
        message = f"{path} cannot be read beyond record {count:,}: {error or type(error).__name__}. "
        raise ParakeetError(sanitise(message) + "Copy or download the file again, or take it away.") from None
