"""The packing plan: which pieces of which documents share a training sequence, with no token lost.

A piece of n tokens fills n − 1 positions of its sequence, its *slots*: the first token is only an input and the last
only a target.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.tokens.mixing import Mix, mix, replayed
from parakeet.data.tokens.shards import TokenShards, ranges
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

LEAST_FILL = 0.995
"""At least this share of a plan's positions holds a target, for any lengths of documents."""
COLUMNS = ("document", "start", "length")


def plan_file(sequence_length: int) -> str:
    """Name of the plan for this sequence length."""
    return f"plan-{sequence_length}.arrow"


@dataclass(frozen=True)
class PackedSequences:
    """Sequences of pieces: sequence r holds the pieces offsets[r] to offsets[r + 1], in the order of its positions.

    offsets (sequences + 1,). document, start, length (pieces,): a piece is `length` tokens of a document from `start`.
    """

    offsets: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, numbers: np.ndarray) -> "PackedSequences":
        """The sequences with these numbers, in that order."""
        begin = self.offsets[numbers].astype(np.int64)
        counts = self.offsets[numbers + 1] - begin
        pieces = ranges(begin, counts)
        columns = (getattr(self, name)[pieces].astype(np.int64) for name in COLUMNS)
        return PackedSequences(np.concatenate([[0], np.cumsum(counts)]), *columns)


def make_packing_plan(
    recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress, earlier: Path | None = None
) -> dict[str, Any]:
    """Stage `packing_plan`: pack the training split, mixed as the recipe says, once for each trained sequence length.

    The counts are those of packing.sequence_length. `lengths` has those of every sequence length, and `mix` what one
    pass over the plan holds of each source. `earlier` is the folder of the token shards that packing.replay names; with
    it, `replay` has the documents and tokens that are new and old.
    """
    shards = TokenShards(inputs["token_shards"], "train")
    lengths, ids = shards.lengths(), shards.doc_ids()
    if earlier is None:
        mixed = mix(recipe, shards.names, shards.sources(), lengths, ids)
        again: dict[str, Any] = {}
    else:
        old = _are_in(ids, TokenShards(earlier, "train").doc_ids())
        mixed = replayed(recipe, shards.names, shards.sources(), lengths, ids, old)
        again = {"replay": _shares(mixed, lengths, old)}
    counts: dict[str, dict[str, Any]] = {}
    with progress.task("packing plan", None, "sequences") as task:
        for sequence_length in sorted(set(recipe.packing.lengths)):
            # Each pass over the mix is packed by itself, so a repeated document does not end up beside itself.
            passes = []
            for documents in mixed.passes():
                packed = pack(lengths[documents], sequence_length)
                passes.append(replace(packed, document=documents[packed.document]))
            sequences = fill_up(concatenated(passes), sequence_length)
            if not len(sequences):
                raise ParakeetError(
                    "No training document is left to pack: add text, or lower deduplication.held_out_fraction."
                )
            write_plan(output / plan_file(sequence_length), sequences)
            counts[str(sequence_length)] = _counts(sequences, sequence_length)
            task.advance(len(sequences))
    return {**counts[str(recipe.packing.sequence_length)], "lengths": counts, "mix": mixed.by_source, **again}


def _are_in(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(documents,) bool: which ids (documents, 2) uint64 are among the others (any number, 2)."""
    pair = np.dtype([("first", np.uint64), ("second", np.uint64)])
    mine, theirs = (np.ascontiguousarray(each).view(pair).ravel() for each in (ids, others))
    return np.isin(mine, theirs)


def _shares(mixed: Mix, lengths: np.ndarray, old: np.ndarray) -> dict[str, Any]:
    """What one pass holds of new and of old text; `share` is that of the old tokens."""
    seen = mixed.copies * lengths
    tokens = {"new_tokens": int(seen[~old].sum()), "old_tokens": int(seen[old].sum())}
    documents = {"new_documents": int((~old).sum()), "old_documents": int((mixed.copies[old] > 0).sum())}
    return {**documents, **tokens, "share": tokens["old_tokens"] / max(1, int(seen.sum()))}


def concatenated(parts: Sequence[PackedSequences]) -> PackedSequences:
    """The sequences of several plans, one plan after the other."""
    begins = np.cumsum([0, *(len(part.document) for part in parts)])
    offsets = [part.offsets[1:] + begin for part, begin in zip(parts, begins, strict=False)]
    columns = (np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)]) for name in COLUMNS)
    return PackedSequences(np.concatenate([np.zeros(1, np.int64), *offsets]), *columns)


def _counts(sequences: PackedSequences, sequence_length: int) -> dict[str, Any]:
    targets = int((sequences.length - 1).sum())
    return {
        "rows": len(sequences),
        "row_tokens": sequence_length,
        "targets": targets,
        "fill": targets / (len(sequences) * sequence_length),
        "pieces": len(sequences.document),
        "split_documents": len(np.unique(sequences.document[sequences.start > 0])),
    }


def pieces_of(lengths: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents into pieces of at most `sequence_length` slots: document, start and length (pieces,), all int64.

    lengths (documents,) in tokens. Neighbouring pieces overlap by one token: the last target of one is the first input
    of the next, so no token goes unpredicted. A document of one token predicts nothing and has no piece.
    """
    targets = np.maximum(lengths.astype(np.int64) - 1, 0)
    # counts (documents,): pieces of each document, targets / sequence_length rounded up.
    counts = -(-targets // sequence_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    # Piece k of a document starts at k · sequence_length. All pieces but the last have sequence_length slots.
    start = ranges(np.zeros_like(counts), counts) * sequence_length
    return document, start, np.minimum(targets[document] - start, sequence_length) + 1


def pack(lengths: np.ndarray, sequence_length: int) -> PackedSequences:
    """Best-fit decreasing: the longest piece first, each into the fullest sequence that still has room for it.

    lengths (documents,) in tokens. Ties go to the lower document, and to the sequence that was filled last, so the plan
    is a pure function of its arguments. A million documents of 100 tokens on average take 0.2 s; 2.6 s piece by piece.
    """
    document, start, length = pieces_of(lengths, sequence_length)
    # Sort by the slots that a piece lacks to a full sequence. numpy sorts 16-bit integers by radix.
    missing = (sequence_length + 1 - length).astype(np.uint16 if sequence_length < 1 << 16 else np.uint32)
    longest_first = np.argsort(missing, kind="stable")
    # sequence (pieces,): that of the longest piece, of the next, and so on. The second stable sort groups the pieces by
    # sequence and keeps the longest first within each.
    sequence = _sequences_by_best_fit(np.bincount(length - 1, minlength=sequence_length + 1), sequence_length)
    placed = longest_first[np.argsort(sequence, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sequence))])
    return PackedSequences(offsets, document[placed], start[placed], length[placed])


def _sequences_by_best_fit(count_by_slots: np.ndarray, sequence_length: int) -> np.ndarray:
    """(pieces,) the sequence of each piece, the longest first; count_by_slots[s] pieces fill s slots.

    Pieces of one size are placed together: best fit puts as many into one sequence as fit before it looks at the next
    with the same room. So the number of steps does not grow with the number of pieces.
    """
    # A sequence has `room` when that many of its slots are free. with_room[room] is a stack of such sequences, and
    # bit `room` of the integer `rooms` says whether the stack holds any. Full sequences are on no stack.
    with_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]
    rooms = sequences = 0
    # What each step does: received[k] pieces go to the sequence receiving[k].
    receiving, received = array("q"), array("q")
    for slots in np.flatnonzero(count_by_slots)[::-1].tolist():
        left = int(count_by_slots[slots])
        while left:
            # The lowest set bit at or above `slots` is the tightest room that fits; x & −x isolates the lowest bit.
            # Without one, new sequences are opened, whose room is sequence_length.
            fitting = rooms >> slots
            room = slots + (fitting & -fitting).bit_length() - 1 if fitting else sequence_length
            each = room // slots
            wanted = -(-left // each)
            if fitting:
                # Take up to `wanted` sequences off the end of the stack, the last one filled first.
                having = with_room[room]
                chosen = having[: -wanted - 1 : -1]
                del having[-wanted:]
                if not having:
                    rooms &= ~(1 << room)
            else:
                chosen = list(range(sequences, sequences + wanted))
                sequences += wanted
            # Every chosen sequence gets `each` pieces; the last one gets the remainder if the pieces run out.
            last = min(each, left - (len(chosen) - 1) * each)
            receiving.extend(chosen)
            received.extend([each] * (len(chosen) - 1) + [last])
            left -= (len(chosen) - 1) * each + last
            # Put them back on the stacks of the room they have now.
            for remaining, some in ((room - each * slots, chosen[:-1]), (room - last * slots, chosen[-1:])):
                if remaining and some:
                    with_room[remaining] += some
                    rooms |= 1 << remaining
    return np.repeat(np.array(receiving, np.int64), np.array(received, np.int64))


def fill_up(sequences: PackedSequences, sequence_length: int, fill: float = LEAST_FILL) -> PackedSequences:
    """The same pieces in fewer sequences, so that the share `fill` of the positions is used, with few pieces cut.

    Documents of nearly one length leave the same gap in every sequence (4 KiB of text at 1,024 tokens: 4 % of all
    positions). The emptiest sequences are dissolved, and their pieces are cut to fit the gaps of the others, the widest
    gap first.
    """
    # used (sequences,): filled slots of each sequence. wanted: how many sequences stay.
    slots = sequences.length - 1
    before = np.concatenate([[0], np.cumsum(slots)])
    used = np.diff(before[sequences.offsets])
    total = int(used.sum())
    wanted = max(-(-total // sequence_length), int(total / (fill * sequence_length)))
    if wanted >= len(sequences):
        return sequences
    emptiest_first = np.argsort(used, kind="stable")
    dissolved = np.sort(emptiest_first[: len(sequences) - wanted])
    left = np.setdiff1d(np.arange(len(sequences)), dissolved)
    kept, cut = sequences.take(left), sequences.take(dissolved)
    gaps = sequence_length - used[left]
    widest_first = np.argsort(-gaps, kind="stable")
    # Lay the slots of the pieces to cut end to end on one line, and the gaps to fill on a second line beneath it.
    # Cutting both lines at every end of a piece and of a gap gives bits that belong to one piece and one gap each:
    # ends, begins (bits,) are places on the line; piece and sequence (bits,) the piece and the sequence of each bit.
    piece_ends, gap_ends = np.cumsum(cut.length - 1), np.cumsum(gaps[widest_first])
    ends = np.union1d(piece_ends, gap_ends[gap_ends < piece_ends[-1]])
    begins = np.concatenate([[0], ends[:-1]])
    piece = np.searchsorted(piece_ends, begins, side="right")
    sequence = widest_first[np.searchsorted(gap_ends, begins, side="right")]
    # A bit starts as far into its document as its piece does, plus its distance from the beginning of the piece. A bit
    # of n slots has n + 1 tokens, so bits of one piece overlap by one token like other pieces.
    start = cut.start[piece] + begins - (piece_ends - (cut.length - 1))[piece]
    # Append the bits to the pieces that stay. The stable sort by sequence keeps the old pieces of each in front.
    sequence_of_piece = np.concatenate([np.repeat(np.arange(len(left)), np.diff(kept.offsets)), sequence])
    order = np.argsort(sequence_of_piece, kind="stable")
    return PackedSequences(
        np.concatenate([[0], np.cumsum(np.bincount(sequence_of_piece, minlength=len(left)))]),
        np.concatenate([kept.document, cut.document[piece]])[order],
        np.concatenate([kept.start, start])[order],
        np.concatenate([kept.length, ends - begins + 1])[order],
    )


def write_plan(path: Path, sequences: PackedSequences) -> None:
    """One row per sequence: lists of the documents, starts and lengths of its pieces, in columns that memory-map."""
    offsets = sequences.offsets.astype(np.int32)
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array(getattr(sequences, name).astype(np.uint32)))
        for name in COLUMNS
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


class PackingPlan:
    """The packing plan for one sequence length, memory-mapped."""

    def __init__(self, directory: Path, sequence_length: int) -> None:
        path = directory / plan_file(sequence_length)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
            table.validate(full=True)
            columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ParakeetError(
                f"{path} is not a complete packing plan ({error}). Run the same build again with: --force packing_plan"
            ) from None
        values = (column.values.to_numpy() for column in columns.values())
        self.sequences = PackedSequences(columns["document"].offsets.to_numpy(), *values)

    def __len__(self) -> int:
        return len(self.sequences)
