"""Which pieces of a source's files each reading task gets: a pure function of the files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from parakeet.data.documents import part_groups
from parakeet.data.reading.kinds import file_kind
from parakeet.data.reading.readers import read_records, read_rows
from parakeet.data.reading.records import Record
from parakeet.errors import ParakeetError
from parakeet.hashes import FileState, file_state, refuse_changed

TASK_BYTES = 64 << 20
"""Bytes on disk: small files are read together, and a large Parquet file by several tasks."""


@dataclass(frozen=True)
class Piece:
    """A file, or the row groups `groups[0]` to `groups[1]` of a Parquet file, which follow `rows_before` rows.

    `name` is recorded in the metadata of its documents: relative to the source's folder, never a path of this machine.
    `n_bytes` is its share of the file. `state` is the file's state (`hashes.file_state`) when the tasks were planned.
    """

    path: str
    name: str
    n_bytes: int
    groups: tuple[int, int] | None = None
    rows_before: int = 0
    state: FileState | None = None

    def records(self, separator: str | None, unread: Counter[str] | None = None) -> Iterator[Record]:
        """Its records; `unread` counts members of archives that are left out.

        Raises ParakeetError, before or after the records, if the file is not in the state that it was planned in.
        """
        path = Path(self.path)
        planned = {} if self.state is None else {path: self.state}
        refuse_changed(planned)
        try:
            if self.groups is None:
                yield from read_records(path, separator, unread)
            else:
                first, last = self.groups
                yield from read_rows(path, range(first, last + 1), self.rows_before)
        except ParakeetError:
            refuse_changed(planned)  # then the file is not damaged
            raise
        refuse_changed(planned)


def divided(files: Sequence[Path], root: Path, task_bytes: int = TASK_BYTES) -> list[list[Piece]]:
    """The pieces of each task, in the order of the files. Names are relative to `root`."""
    pieces = [piece for path in files for piece in _pieces(path, path.relative_to(root).as_posix(), task_bytes)]
    groups = part_groups([piece.n_bytes for piece in pieces], task_bytes)
    return [_joined([pieces[number] for number in group]) for group in groups]


def _pieces(path: Path, name: str, task_bytes: int) -> list[Piece]:
    state = file_state(path)
    size = state[0]
    whole = [Piece(str(path), name, size, state=state)]
    if size <= task_bytes or file_kind(path.name) != ("parquet", ""):
        return whole
    try:
        with path.open("rb") as file:
            footer = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return whole  # the task that reads it reports what is wrong
    rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    return [
        Piece(str(path), name, size * count // max(1, sum(rows)), (group, group), sum(rows[:group]), state)
        for group, count in enumerate(rows)
    ] or whole


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring row groups of one file become one piece."""
    joined = pieces[:1]
    for piece in pieces[1:]:
        last = joined[-1]
        if piece.groups and last.groups and piece.path == last.path:
            groups = (last.groups[0], piece.groups[1])
            joined[-1] = replace(last, groups=groups, n_bytes=last.n_bytes + piece.n_bytes)
        else:
            joined.append(piece)
    return joined
