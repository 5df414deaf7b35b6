"""A share of a source's files, for a trial of a large recipe: whole files first, then the beginning of one more."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parakeet.download.source_folder import Advance, SourceFolder
from parakeet.download.streams import RangeFile, Remote
from parakeet.download.transfer import Patience, Unfit, plain

LINES = (".jsonl", ".ndjson", ".txt", ".text", ".md", ".markdown")
"""Files whose beginning is worth something by itself, up to the end of a line."""
PARQUET = ".parquet"
WHOLE = (".json", ".gz", ".zst", ".tgz", ".zip", ".tar")
"""Files that are worth nothing before their end."""
LEAST_BYTES = 64 << 10
"""A shorter beginning is not worth a request."""
BUFFER_BYTES = 1 << 20
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Portion:
    """A file to fetch, whole or, with `budget`, only about so many bytes from its beginning."""

    remote: Remote
    budget: int | None = None

    @property
    def n_bytes(self) -> int:
        return self.budget if self.budget is not None else self.remote.n_bytes or 0


def portions(remotes: Sequence[Remote], limit: float) -> list[Portion]:
    """What makes up the share `limit` of all the files' bytes: at least something of the first one.

    A compressed file, or one of unknown size, can only be had whole, and is where nothing else would be.
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
        if _divisible(remote) and (left >= LEAST_BYTES or nothing):
            chosen.append(Portion(remote, max(left, LEAST_BYTES)))
        elif nothing:
            chosen.append(Portion(remote))
        break
    return chosen


def _divisible(remote: Remote) -> bool:
    known = remote.read is not None and remote.n_bytes is not None
    return known and remote.name.lower().endswith((*LINES, PARQUET))


def fetch_beginning(
    folder: SourceFolder,
    remote: Remote,
    budget: int,
    advance: Advance,
    patience: Patience,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Fetch about the first `budget` bytes: whole lines, or whole row groups of Parquet, at least one of them.

    What is written of Parquet is compressed anew: its entry has `source_bytes`.
    """
    folder.begin(remote)
    source_bytes = None
    if remote.name.lower().endswith(PARQUET):
        source_bytes = _first_row_groups(remote, budget, folder.fill(remote, 0, advance), advance, patience, say)
    else:
        _first_lines(folder, remote, budget, advance)
    return folder.install(remote, budget, source_bytes)


def _first_lines(folder: SourceFolder, remote: Remote, budget: int, advance: Advance) -> None:
    assert remote.n_bytes is not None
    wanted = min(budget, remote.n_bytes)
    part = folder.fill(remote, wanted, advance)
    while wanted < remote.n_bytes and (end := _end_of_last_line(part)) < wanted:
        if end:
            with part.open("r+b") as file:
                file.truncate(end)
            return
        wanted = min(2 * wanted, remote.n_bytes)
        folder.fill(remote, wanted, advance)


def _end_of_last_line(path: Path) -> int:
    """Bytes up to and with the file's last newline, 0 where it has none."""
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        while end > 0:
            start = max(0, end - BUFFER_BYTES)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
    return 0


def _first_row_groups(
    remote: Remote, budget: int, part: Path, advance: Advance, patience: Patience, say: Callable[[str], None]
) -> int:
    """Copy the groups; the bytes of the remote file that they make up."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert remote.n_bytes is not None
    taken = 0
    try:
        with (
            io.BufferedReader(RangeFile(remote, patience, say), BUFFER_BYTES) as stream,
            # Buffered by column chunk: a row group can be as large as its file.
            pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as file,
            pq.ParquetWriter(part, file.schema_arrow, compression="zstd") as writer,
        ):
            for group in range(file.num_row_groups):
                n_bytes = _compressed_bytes(file.metadata.row_group(group))
                if group and taken + n_bytes > budget:
                    break
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                    writer.write_batch(batch)
                taken += n_bytes
                advance(n_bytes)
            total = sum(_compressed_bytes(file.metadata.row_group(group)) for group in range(file.num_row_groups))
    except pa.ArrowException as error:
        raise Unfit(f"it is no Parquet file that can be read ({plain(error)})") from None
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise Unfit(f"it is a damaged Parquet file ({plain(error)})") from None
    return round(remote.n_bytes * taken / total) if total else remote.n_bytes


def _compressed_bytes(group: object) -> int:
    import pyarrow.parquet as pq

    assert isinstance(group, pq.RowGroupMetaData)
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))
