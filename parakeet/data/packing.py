"""The packing plan: which pieces of which documents share a training row, with no token lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

PLAN_FILE = "plan.arrow"


@dataclass(frozen=True)
class Piece:
    """`length` tokens of a document from `start`: the first is only an input, the last only a target."""

    document: int
    start: int
    length: int

    @property
    def slots(self) -> int:
        """Positions of a row that the piece fills: one fewer than its tokens."""
        return self.length - 1


def make_packing_plan(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Stage `packing_plan`: rows of the training split."""
    row_tokens = recipe.packing.row_tokens
    lengths = TokenShards(inputs["token_shards"], "train").lengths()
    with progress.task("packing plan", None, "rows") as task:
        rows = pack(lengths, row_tokens)
        task.advance(len(rows))
    if not rows:
        raise ParakeetError("No training document is left to pack: add text, or lower deduplication.held_out_fraction.")
    write_plan(output / PLAN_FILE, rows)
    slots = sum(piece.slots for row in rows for piece in row)
    return {
        "rows": len(rows),
        "row_tokens": row_tokens,
        "targets": slots,
        "fill": slots / (len(rows) * row_tokens),
        "pieces": sum(map(len, rows)),
        "split_documents": int((lengths - 1 > row_tokens).sum()),
    }


def pieces_of(lengths: np.ndarray, row_tokens: int) -> Iterator[Piece]:
    """Every document in pieces of at most `row_tokens` slots; neighbours overlap by one token.

    A document of one token predicts nothing and has no piece.
    """
    for document, length in enumerate(lengths.tolist()):
        for start in range(0, length - 1, row_tokens):
            yield Piece(document, start, min(row_tokens, length - 1 - start) + 1)


def pack(lengths: np.ndarray, row_tokens: int) -> list[list[Piece]]:
    """Best-fit decreasing: the longest piece first, each into the fullest row that still takes it.

    lengths (documents,) in tokens. Ties go to the lower document and the older row, so the plan is a pure
    function of its arguments. A bit set of the room left makes each step O(row_tokens / 64).
    """
    ordered = sorted(pieces_of(lengths, row_tokens), key=lambda piece: -piece.slots)
    rows: list[list[Piece]] = []
    rows_with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    rooms = 0
    for piece in ordered:
        fitting = rooms >> piece.slots
        if fitting:
            room = piece.slots + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = room - piece.slots
        if left:
            rows_with_room[left].append(row)
            rooms |= 1 << left
    return rows


def write_plan(path: Path, rows: list[list[Piece]]) -> None:
    """One list of (document, start, length) a row, as three list columns that memory-map."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = [piece for row in rows for piece in row]
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array([getattr(piece, name) for piece in flat], pa.uint32()))
        for name in ("document", "start", "length")
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


class Plan:
    """A packing plan, memory-mapped."""

    def __init__(self, directory: Path) -> None:
        path = directory / PLAN_FILE
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ParakeetError(
                f"{path} is not a whole packing plan ({error}). Run the same build again with: --force packing_plan"
            ) from None
        columns = {name: table.column(name).combine_chunks() for name in ("document", "start", "length")}
        self._values = {name: column.values.to_numpy() for name, column in columns.items()}
        self._offsets = columns["document"].offsets.to_numpy()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def row(self, number: int) -> list[Piece]:
        begin, end = self._offsets[number], self._offsets[number + 1]
        columns = (self._values[name][begin:end].tolist() for name in ("document", "start", "length"))
        return [Piece(*piece) for piece in zip(*columns, strict=True)]
