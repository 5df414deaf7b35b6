"""Which files of a source Parakeet read before 27 November 2026, so that what it made of them is found."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parakeet.data.reading.sources import walk
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import FileSource

_READ = re.compile(r".*(\.(jsonl|ndjson|json|parquet|txt|text|md|markdown|tar)(\.gz|\.zst)?|\.tgz|\.zip)", re.I | re.S)


def earlier_files(sources: Iterable[Any]) -> dict[str, Path]:
    """The files of local sources as `<source>/<name>`, by the rules before CSV, Arrow and web pages were read.

    Their names decided, a name with `[` or `*` was a pattern, and text beside files of records was read. Nothing is
    refused: what is missing is reported by the rules of today. Delete this when version 3 of documents is no longer
    valid.
    """
    files: dict[str, Path] = {}
    for source in sources:
        if not isinstance(source, FileSource):
            continue
        path = root = Path(os.path.expanduser(source.path))
        try:
            if os.path.isdir(path):
                found = [*walk(path, source.name)]
            elif os.path.lexists(path) or not glob.has_magic(str(path)):
                found, root = [path], path.parent
            else:
                found = [Path(each) for each in glob.glob(str(path), recursive=True)]
                while glob.has_magic(str(root)):
                    root = root.parent
        except ParakeetError:
            continue
        read = sorted(each for each in found if _READ.fullmatch(each.name) and each.is_file())
        files |= {f"{source.name}/{each.relative_to(root).as_posix()}": each for each in read}
    return files
