"""The packing plan: which pieces of which documents share a training row, with no token lost."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.tokens.mixing import mix
from parakeet.data.tokens.shards import TokenShards, ranges
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

LEAST_FILL = 0.995
"""Share of a plan's positions that hold a target, at least, whatever the lengths of the documents are."""


def plan_file(row_tokens: int) -> str:
    """Name of the plan for rows of this length."""
    return f"plan-{row_tokens}.arrow"


@dataclass(frozen=True)
class PackedRows:
    """Rows of pieces: row r holds the pieces from offsets[r] to offsets[r + 1], in the order of its positions.

    offsets (rows + 1,); document, start, length (pieces,): `length` tokens of a document from `start`. A piece fills
    one position fewer than it has tokens: the first token is only an input, the last only a target.
    """

    offsets: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> "PackedRows":
        """Some of the rows, in the order of the numbers `rows`."""
        begin = self.offsets[rows].astype(np.int64)
        counts = self.offsets[rows + 1] - begin
        pieces = ranges(begin, counts)
        columns = (column[pieces].astype(np.int64) for column in (self.document, self.start, self.length))
        return PackedRows(np.concatenate([[0], np.cumsum(counts)]), *columns)


def make_packing_plan(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Stage `packing_plan`: rows of the training split in the recipe's mix, a plan for each length that is trained at.

    The counts are those of packing.row_tokens, under `lengths` those of every length, and under `mix` what one pass
    over the plan holds of each source.
    """
    shards = TokenShards(inputs["token_shards"], "train")
    lengths = shards.lengths()
    mixed = mix(recipe, shards.names, shards.sources(), lengths, shards.doc_ids())
    counts: dict[str, dict[str, Any]] = {}
    with progress.task("packing plan", None, "rows") as task:
        for row_tokens in sorted(set(recipe.packing.lengths)):
            packed = joined([pack_some(lengths, documents, row_tokens) for documents in mixed.passes()])
            rows = fill_up(packed, row_tokens)
            if not len(rows):
                raise ParakeetError(
                    "No training document is left to pack: add text, or lower deduplication.held_out_fraction."
                )
            write_plan(output / plan_file(row_tokens), rows)
            counts[str(row_tokens)] = _counts(rows, row_tokens)
            task.advance(len(rows))
    return {**counts[str(recipe.packing.row_tokens)], "lengths": counts, "mix": mixed.by_source}


def pack_some(lengths: np.ndarray, documents: np.ndarray, row_tokens: int) -> PackedRows:
    """`pack` for the documents with these numbers only; lengths (all documents,) in tokens."""
    rows = pack(lengths[documents], row_tokens)
    return PackedRows(rows.offsets, documents[rows.document], rows.start, rows.length)


def fill_up(rows: PackedRows, row_tokens: int, fill: float = LEAST_FILL) -> PackedRows:
    """The same pieces in fewer rows, so that `fill` of the positions are taken: as few pieces are cut as that needs.

    Documents of nearly one length leave the same gap in every row (4 KiB of text, 1,024 tokens: 4 % of all positions).
    The emptiest rows are dissolved, and their pieces cut to fit the gaps of the others, the widest first.
    """
    slots = rows.length - 1
    before = np.concatenate([[0], np.cumsum(slots)])
    used = np.diff(before[rows.offsets])
    total = int(used.sum())
    wanted = max(-(-total // row_tokens), int(total / (fill * row_tokens)))
    if wanted >= len(rows):
        return rows
    emptiest_first = np.argsort(used, kind="stable")
    dissolved = np.sort(emptiest_first[: len(rows) - wanted])
    left = np.setdiff1d(np.arange(len(rows)), dissolved)
    kept, cut = rows.take(left), rows.take(dissolved)
    gaps = row_tokens - used[left]
    widest_first = np.argsort(-gaps, kind="stable")
    # On one line of positions: where pieces end, where gaps end, and so where each bit of a piece begins.
    piece_ends, gap_ends = np.cumsum(cut.length - 1), np.cumsum(gaps[widest_first])
    ends = np.union1d(piece_ends, gap_ends[gap_ends < piece_ends[-1]])
    begins = np.concatenate([[0], ends[:-1]])
    piece = np.searchsorted(piece_ends, begins, side="right")
    row = widest_first[np.searchsorted(gap_ends, begins, side="right")]
    start = cut.start[piece] + begins - (piece_ends - (cut.length - 1))[piece]
    rows_of_kept = np.repeat(np.arange(len(left)), np.diff(kept.offsets))
    order = np.argsort(np.concatenate([rows_of_kept, row]), kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(np.concatenate([rows_of_kept, row]), minlength=len(left)))])
    return PackedRows(
        offsets,
        np.concatenate([kept.document, cut.document[piece]])[order],
        np.concatenate([kept.start, start])[order],
        np.concatenate([kept.length, ends - begins + 1])[order],
    )


def joined(parts: Sequence[PackedRows]) -> PackedRows:
    """The rows of several plans, one after the other: what is repeated does not stand beside itself."""
    begins = np.cumsum([0, *(len(part.document) for part in parts)])
    offsets = [part.offsets[1:] + begin for part, begin in zip(parts, begins, strict=False)]
    columns = (
        np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])
        for name in ("document", "start", "length")
    )
    return PackedRows(np.concatenate([np.zeros(1, np.int64), *offsets]), *columns)


def _counts(rows: PackedRows, row_tokens: int) -> dict[str, Any]:
    targets = int((rows.length - 1).sum())
    return {
        "rows": len(rows),
        "row_tokens": row_tokens,
        "targets": targets,
        "fill": targets / (len(rows) * row_tokens),
        "pieces": len(rows.document),
        "split_documents": len(np.unique(rows.document[rows.start > 0])),
    }


def pieces_of(lengths: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every document in pieces that fill at most `row_tokens` positions; neighbours overlap by one token.

    lengths (documents,) in tokens to document, start, length (pieces,), all int64. A document of one token
    predicts nothing and has no piece.
    """
    targets = np.maximum(lengths.astype(np.int64) - 1, 0)
    counts = -(-targets // row_tokens)
    document = np.repeat(np.arange(len(lengths)), counts)
    start = ranges(np.zeros_like(counts), counts) * row_tokens
    return document, start, np.minimum(targets[document] - start, row_tokens) + 1


def pack(lengths: np.ndarray, row_tokens: int) -> PackedRows:
    """Best-fit decreasing: the longest piece first, each into the fullest row that still takes it.

    lengths (documents,) in tokens. Ties go to the lower document and to the row that was filled last, so the plan
    is a pure function of its arguments. A million documents of 100 tokens on average take 0.2 s, 2.6 s piece by piece.
    """
    document, start, length = pieces_of(lengths, row_tokens)
    # At 16 bits numpy sorts by radix.
    missing = (row_tokens + 1 - length).astype(np.uint16 if row_tokens < 1 << 16 else np.uint32)
    longest_first = np.argsort(missing, kind="stable")
    row = _rows_by_best_fit(np.bincount(length - 1, minlength=row_tokens + 1), row_tokens)
    placed = longest_first[np.argsort(row, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row))])
    return PackedRows(offsets, document[placed], start[placed], length[placed])


def _rows_by_best_fit(count_by_slots: np.ndarray, row_tokens: int) -> np.ndarray:
    """(pieces,) row of each piece, of the longest first; count_by_slots[s] pieces fill s positions.

    Pieces of one size go together: best fit puts as many as it holds into one row before it looks at the next with
    the same room, so what a step costs does not grow with them. The rooms that some row has left are a bit set.
    """
    rows_with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    rooms = rows = 0
    receiving, received = array("q"), array("q")
    for slots in np.flatnonzero(count_by_slots)[::-1].tolist():
        left = int(count_by_slots[slots])
        while left:
            fitting = rooms >> slots
            room = slots + (fitting & -fitting).bit_length() - 1 if fitting else row_tokens
            each = room // slots
            wanted = -(-left // each)
            if fitting:
                having = rows_with_room[room]
                chosen = having[: -wanted - 1 : -1]
                del having[-wanted:]
                if not having:
                    rooms &= ~(1 << room)
            else:
                chosen = list(range(rows, rows + wanted))
                rows += wanted
            last = min(each, left - (len(chosen) - 1) * each)
            receiving.extend(chosen)
            received.extend([each] * (len(chosen) - 1) + [last])
            left -= (len(chosen) - 1) * each + last
            for remaining, some in ((room - each * slots, chosen[:-1]), (room - last * slots, chosen[-1:])):
                if remaining and some:
                    rows_with_room[remaining] += some
                    rooms |= 1 << remaining
    return np.repeat(np.array(receiving, np.int64), np.array(received, np.int64))


def write_plan(path: Path, rows: PackedRows) -> None:
    """One list of (document, start, length) a row, as three list columns that memory-map."""
    offsets = rows.offsets.astype(np.int32)
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array(getattr(rows, name).astype(np.uint32)))
        for name in ("document", "start", "length")
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


class Plan:
    """The packing plan for rows of one length, memory-mapped."""

    def __init__(self, directory: Path, row_tokens: int) -> None:
        path = directory / plan_file(row_tokens)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
            table.validate(full=True)
            columns = {name: table.column(name).combine_chunks() for name in ("document", "start", "length")}
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ParakeetError(
                f"{path} is not a whole packing plan ({error}). Run the same build again with: --force packing_plan"
            ) from None
        values = (column.values.to_numpy() for column in columns.values())
        self.rows = PackedRows(columns["document"].offsets.to_numpy(), *values)

    def __len__(self) -> int:
        return len(self.rows)
