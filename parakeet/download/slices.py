"""A share of a source's files, for a trial of a large recipe: whole files first, then the beginning of one more."""

import io
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from parakeet.download.source_folder import SourceFolder
from parakeet.download.transfer import (
    PartialFile,
    PermanentError,
    Remote,
    RetryPolicy,
    TransientError,
    plain,
    retrying,
)
from parakeet.progress import Task

LINES = (".jsonl", ".ndjson", ".txt", ".text", ".md", ".markdown")
"""Files whose first lines are useful without the rest."""
PARQUET = ".parquet"
WHOLE = (".json", ".gz", ".zst", ".tgz", ".zip", ".tar")
"""Files that are useless without their end."""
LEAST_BYTES = 64 << 10
"""A shorter beginning is not worth a request."""
BUFFER_BYTES = 1 << 20
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Portion:
    """A file to fetch: all of it, or with `budget` only about so many bytes from its beginning."""

    remote: Remote
    budget: int | None = None

    @property
    def n_bytes(self) -> int | None:
        return self.remote.n_bytes if self.budget is None else self.budget


def portions(remotes: Sequence[Remote], limit: float) -> list[Portion]:
    """What makes up the share `limit` of the bytes of all files: at least a part of the first one.

    A compressed file, or one of unknown size, cannot be cut. It is fetched whole if nothing else would be fetched.
    """
    if limit >= 1.0:
        return [Portion(remote) for remote in remotes]
    left = round(limit * sum(remote.n_bytes or 0 for remote in remotes))
    chosen: list[Portion] = []
    for remote in remotes:
        if remote.n_bytes is not None and remote.n_bytes <= left:
            chosen.append(Portion(remote))
            left -= remote.n_bytes
            continue
        nothing = all(portion.remote.n_bytes == 0 for portion in chosen)
        cuttable = remote.ranges and remote.n_bytes is not None and remote.name.lower().endswith((*LINES, PARQUET))
        if cuttable and (left >= LEAST_BYTES or nothing):
            chosen.append(Portion(remote, max(left, LEAST_BYTES)))
        elif nothing:
            chosen.append(Portion(remote))
        break
    return chosen


def fetch_beginning(folder: SourceFolder, remote: Remote, budget: int, task: Task) -> dict[str, Any]:
    """Fetch about the first `budget` bytes: whole lines, or at least one whole row group of Parquet.

    Parquet is compressed again while it is written, so its entry also has `source_bytes`.
    """
    part = folder.part(remote)
    if not remote.name.lower().endswith(PARQUET):
        _fetch_first_lines(part, remote, budget, task)
        return folder.install(part, remote, budget)
    part.delete()
    return folder.install(part, remote, budget, _fetch_first_row_groups(part, remote, budget, task, folder))


def _fetch_first_lines(part: PartialFile, remote: Remote, budget: int, task: Task) -> None:
    """Twice as much is fetched as long as there is no end of a line."""
    assert remote.n_bytes is not None
    wanted = min(budget, remote.n_bytes)
    part.fill(wanted, task)
    while wanted < remote.n_bytes and (end := _end_of_last_line(part)) < wanted:
        if end:
            with part.path.open("r+b") as file:
                file.truncate(end)
            return
        wanted = min(2 * wanted, remote.n_bytes)
        part.fill(wanted, task)


def _end_of_last_line(part: PartialFile) -> int:
    """Bytes up to and including the last newline, 0 if there is none."""
    with part.path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        while end > 0:
            start = max(0, end - BUFFER_BYTES)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
    return 0


def _fetch_first_row_groups(part: PartialFile, remote: Remote, budget: int, task: Task, folder: SourceFolder) -> int:
    """Copy the groups; the bytes that they take up in the remote file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert remote.n_bytes is not None
    taken = 0
    try:
        with (
            io.BufferedReader(RangeFile(remote, folder.policy, folder.say), BUFFER_BYTES) as stream,
            # Buffered by column chunk: a row group can be as large as its file.
            pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as file,
            pq.ParquetWriter(part.path, file.schema_arrow, compression="zstd") as writer,
        ):
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            sizes = [sum(group.column(n).total_compressed_size for n in range(group.num_columns)) for group in groups]
            for number, n_bytes in enumerate(sizes):
                if number and taken + n_bytes > budget:
                    break
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[number]):
                    writer.write_batch(batch)
                taken += n_bytes
                task.advance(n_bytes)
    except pa.ArrowException as error:
        raise PermanentError(f"it is not a readable Parquet file ({plain(error)})") from None
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise PermanentError(f"it is a damaged Parquet file ({plain(error)})") from None
    return round(remote.n_bytes * taken / sum(sizes)) if sum(sizes) else remote.n_bytes


class RangeFile(io.RawIOBase):
    """A remote file as a seekable one, for readers that need only some of its bytes. Wrap it in a buffer."""

    def __init__(self, remote: Remote, policy: RetryPolicy, say: Callable[[str], None]) -> None:
        assert remote.n_bytes is not None
        self._remote = remote
        self._n_bytes = remote.n_bytes
        self._policy = policy
        self._say = say
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        stop = min(self._position + len(buffer), self._n_bytes)
        if stop <= self._position:
            return 0
        content = retrying(lambda: self._range(self._position, stop), self._policy, self._say)
        buffer[: len(content)] = content
        self._position = stop
        return len(content)

    def _range(self, start: int, stop: int) -> bytes:
        with closing(self._remote.open(start, stop)) as reading:
            if reading.start != start:
                raise PermanentError("reading cannot start in its middle")
            content = b"".join(reading.pieces)
        if len(content) != stop - start:
            raise TransientError("it did not send all that it had announced")
        return content
