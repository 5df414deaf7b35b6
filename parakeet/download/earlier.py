"""Files of earlier artefacts of a source: an edited glob or limit does not fetch them again."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact
from parakeet.download.source_folder import SourceFolder
from parakeet.download.streams import Remote
from parakeet.errors import ParakeetError


def take_over(folder: SourceFolder, remotes: list[Remote]) -> int:
    """Put what the finished artefacts beside the folder hold of the whole files into it; the number of files.

    `SourceFolder.arrived` compares their content with what it was, and with what is expected of it.
    """
    entries = list(_entries(folder.folder))
    taken = 0
    for remote in remotes:
        found = next(((path, entry) for path, entry in entries if _is_same(remote, entry) and path.is_file()), None)
        taken += found is not None and folder.take_over(remote, *found)
    return taken


def _entries(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for manifest in sorted(folder.parent.glob(f"[!.]*-*/{MANIFEST_FILE}")):
        with suppress(ParakeetError):
            artifact = Artifact.open(manifest.parent)
            yield from ((artifact.path / entry["name"], entry) for entry in artifact.counts.get("entries", []))


def _is_same(remote: Remote, entry: dict[str, Any]) -> bool:
    """Whether an entry tells of the very file, whole: by its hash, or by its place and what the server calls it."""
    if "source_bytes" in entry or remote.n_bytes not in (None, entry["bytes"]):
        return False
    if remote.sha256 is not None:
        return bool(remote.sha256 == entry["sha256"])
    offered = (remote.origin, remote.n_bytes, remote.validator)
    return None not in offered and offered == (entry["origin"], entry["bytes"], entry.get("etag"))
