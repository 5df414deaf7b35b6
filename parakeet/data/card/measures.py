"""What the data card measures in the token shards themselves, a record batch at a time.

Memory does not grow with the corpus: held are, for each source, one count for each id and each length, and a few
excerpts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.tokens.shards import SPLITS
from parakeet.errors import ParakeetError
from parakeet.progress import Task
from parakeet.sanitise import sanitise
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer

EXAMPLES = 3
EXCERPT_CHARACTERS = 400
EXCERPT_TURNS = 4
EXCERPT_TOKENS = 2048
"""Enough for the characters: a token is at least one byte, and few characters take more than four."""
COVERAGE = (100, 1_000, 10_000)
MOST_FREQUENT = 1_000
"""Ids whose share of a source's tokens is told."""
TOKENS_SHOWN = 24
CHARACTERISTIC_SHOWN = 8
PERCENTILES = (5, 50, 95)

_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


@dataclass
class SourceMeasures:
    """Sizes of one source's documents in one split."""

    documents: int = 0
    tokens: int = 0
    n_bytes: int = 0
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(longest + 1,) documents of each length in tokens."""
    id_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(largest id + 1,) how often each id stands in them; counted in the training split alone."""
    examples: list[tuple[bytes, np.ndarray]] = field(default_factory=list)
    """doc_id and the first ids of the documents with the lowest doc_id, ascending."""

    @property
    def sizes(self) -> dict[str, int]:
        return {"documents": self.documents, "tokens": self.tokens, "bytes": self.n_bytes}

    def add(self, lengths: np.ndarray, n_bytes: np.ndarray) -> None:
        """Count documents, by their tokens and bytes (documents,)."""
        self.documents += len(lengths)
        self.tokens += int(lengths.sum())
        self.n_bytes += int(n_bytes.sum())
        self.lengths = added(self.lengths, np.bincount(lengths))


@dataclass
class Measures:
    """`by_split[split][source]`, and how often each id (vocabulary rows,) stands in the training split."""

    by_split: dict[str, dict[str, SourceMeasures]]
    id_counts: np.ndarray


def measure(shards: Path, tokenizer: Tokenizer, names: Sequence[str], task: Task) -> Measures:
    """Read every shard once. ParakeetError where one is torn, or was made with another tokenizer."""
    by_split = {split: {name: SourceMeasures() for name in names} for split in SPLITS}
    for split in SPLITS:
        for path in sorted(shards.glob(f"{split}-*.arrow")):
            for sources, batch in _batches(path, tokenizer):
                ids = _ids(batch)
                if (largest := int(ids.max(initial=0))) >= tokenizer.rows:
                    raise ParakeetError(
                        f"{path} holds the token id {largest}, but the vocabulary has {tokenizer.rows:,} rows. "
                        "Run the same build again with: --force token_shards"
                    )
                _take(batch, sources, by_split[split], training=split == "train")
                task.advance(len(ids))
    id_counts = np.zeros(tokenizer.rows, np.int64)
    for source in by_split["train"].values():
        added(id_counts, source.id_counts)
    return Measures(by_split, id_counts)


def added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The sum of two counts by number, as long as the longer one."""
    if len(more) > len(counts):
        counts = np.concatenate([counts, np.zeros(len(more) - len(counts), np.int64)])
    counts[: len(more)] += more
    return counts


def _batches(path: Path, tokenizer: Tokenizer) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    try:
        with pa.memory_map(str(path), "r") as mapped:
            reader = pa.ipc.open_file(mapped)
            metadata = reader.schema.metadata or {}
            sources, made_with = json.loads(metadata[b"sources"]), metadata[b"tokenizer_sha256"].decode()
            if made_with != tokenizer.sha256:
                raise ParakeetError(
                    f"{path} was made with tokenizer {made_with}, not with {tokenizer.sha256}. "
                    "Run the same build again with: --force token_shards"
                )
            for index in range(reader.num_record_batches):
                yield sources, reader.get_batch(index)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ParakeetError(
            f"{path} is not a whole token shard ({error}). Run the same build again with: --force token_shards"
        ) from None


def _ids(batch: pa.RecordBatch) -> np.ndarray:
    ids: np.ndarray = batch.column("input_ids").values.to_numpy()
    return ids


def _take(batch: pa.RecordBatch, names: Sequence[str], measures: dict[str, SourceMeasures], training: bool) -> None:
    """Count a batch's documents. Ids and examples come from the training split alone: what is held out stays unread."""
    offsets = batch.column("input_ids").offsets.to_numpy()
    lengths, n_bytes = np.diff(offsets), batch.column("n_bytes").to_numpy()
    sources = batch.column("source").indices.to_numpy()
    doc_ids = batch.column("doc_id")
    # Of equal first halves none comes twice: ids are hashes, and duplicates are gone.
    order = np.frombuffer(doc_ids.buffers()[1], ">u8")[: 2 * len(batch) : 2]
    ids, numbers = _ids(batch), np.unique(sources).tolist()
    for number in numbers:
        rows = np.flatnonzero(sources == number)
        found = measures.setdefault(names[number], SourceMeasures())
        found.add(lengths[rows], n_bytes[rows])
        if training:
            own = ids if len(numbers) == 1 else ids[np.repeat(sources == number, lengths)]
            found.id_counts = added(found.id_counts, np.bincount(own))
            lowest = rows[np.argsort(order[rows], kind="stable")[:EXAMPLES]].tolist()
            begins = [(bytes(doc_ids[row].as_py()), int(offsets[row]), int(offsets[row + 1])) for row in lowest]
            more = [(key, ids[begin : min(end, begin + EXCERPT_TOKENS)].copy()) for key, begin, end in begins]
            found.examples = sorted([*found.examples, *more], key=lambda example: example[0])[:EXAMPLES]


def length_figures(counts: np.ndarray) -> dict[str, Any]:
    """Of documents by length (longest + 1,): percentiles, mean, longest, and `bins`: documents of 2^k … 2^(k+1) − 1."""
    documents = int(counts.sum())
    if not documents:
        return {"mean": 0.0, "longest": 0, **{f"p{p}": 0 for p in PERCENTILES}, "bins": []}
    lengths = np.flatnonzero(counts)
    running = np.cumsum(counts[lengths])
    # The first length that at least p per cent of the documents do not exceed.
    at = {f"p{p}": int(lengths[np.searchsorted(running, -(-documents * p // 100))]) for p in PERCENTILES}
    exponents = np.frexp(np.maximum(lengths, 1))[1] - 1
    bins = np.bincount(exponents, weights=counts[lengths]).astype(np.int64)
    return {
        "mean": round(float((lengths * counts[lengths]).sum() / documents), 1),
        "longest": int(lengths[-1]),
        **at,
        "bins": bins.tolist(),
    }


def vocabulary_figures(counts: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    """How the training split uses the ids: counts (vocabulary rows,) by id."""
    names = _control_names(tokenizer)
    ordinary = np.array(tokenizer.defined_ids())
    defined = np.concatenate([ordinary, sorted(names)]).astype(np.int64)
    total = int(counts.sum())
    by_rank = np.argsort(-counts, kind="stable")
    running = np.cumsum(counts[by_rank])
    used = int((counts > 0).sum())
    ranks = [1 << power for power in range(used.bit_length())] + [used] if used else []
    unused = ordinary[counts[ordinary] == 0].tolist()
    spelt = [visible_token(content) for n in unused if len(content := tokenizer.token_bytes(n)) > 1][:TOKENS_SHOWN]
    return {
        "defined": len(defined),
        "used": used,
        "unused": int((counts[defined] == 0).sum()),
        "unused_controls": sorted(visible_token(names[n].encode()) for n in names if counts[n] == 0),
        "unused_bytes": sum(len(tokenizer.token_bytes(number)) == 1 for number in unused),
        "unused_examples": spelt,
        "coverage": {str(k): ratio(int(running[k - 1]), total) for k in COVERAGE if k < len(defined)},
        "curve": [[rank, round(ratio(int(running[rank - 1]), total), 6)] for rank in sorted(set(ranks))],
        "top": [
            {
                "id": number,
                "token": _shown(tokenizer, names, number),
                "control": number in names,
                "count": int(counts[number]),
                "share": ratio(int(counts[number]), total),
            }
            for number in by_rank[: min(TOKENS_SHOWN, used)].tolist()
        ],
    }


def source_vocabulary_figures(counts: np.ndarray, everything: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    """How one source's training documents use the ids: counts (at most vocabulary rows,), beside those of all sources.

    Characteristic are the ids that are more frequent here and contribute most to Pearson's χ² of the source against the
    whole; `times` says how much more frequent. Control tokens tell only what shape the records have.
    """
    total = int(counts.sum())
    shares = counts / max(total, 1)
    elsewhere = everything[: len(counts)] / max(int(everything.sum()), 1)
    times = np.divide(shares, elsewhere, out=np.ones(len(counts)), where=counts > 0)
    worth = elsewhere * np.maximum(times - 1.0, 0.0) ** 2
    names = _control_names(tokenizer)
    worth[[number for number in names if number < len(counts)]] = 0.0
    best = np.argsort(-worth, kind="stable")[:CHARACTERISTIC_SHOWN]
    most = np.sort(counts)[::-1][:MOST_FREQUENT]
    return {
        "used": int((counts > 0).sum()),
        "most_frequent": ratio(int(most.sum()), total),
        "characteristic": [
            {"id": number, "token": _shown(tokenizer, names, number), "times": round(float(times[number]), 2)}
            for number in best[worth[best] > 0].tolist()
        ],
    }


def _control_names(tokenizer: Tokenizer) -> dict[int, str]:
    return {number: name for name, number in tokenizer.controls.items()}


def _shown(tokenizer: Tokenizer, names: Mapping[int, str], number: int) -> str:
    return visible_token(names[number].encode() if number in names else tokenizer.token_bytes(number))


def example_figures(tokenizer: Tokenizer, example: tuple[bytes, np.ndarray]) -> dict[str, Any]:
    """A document's doc_id and the beginning of its turns, read back from its ids: what the model is shown."""
    doc_id, ids = example
    turns, more = _excerpt(tokenizer, ids.tolist())
    return {"doc_id": doc_id.hex(), "turns": turns, "more_turns": more}


def _excerpt(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[dict[str, str]], bool]:
    roles = {tokenizer.role_id(role): role for role in ROLE_TOKENS} | {tokenizer.end_of_text: "Text"}
    begins = [index for index, number in enumerate(ids) if number in roles]
    ends = [*begins[1:], len(ids)]
    shown = begins[:EXCERPT_TURNS]
    characters = EXCERPT_CHARACTERS // max(1, len(shown))
    turns = []
    for begin, end in zip(shown, ends, strict=False):
        text = sanitise(tokenizer.decode(ids[begin + 1 : end])).strip()
        turns.append({"role": roles[ids[begin]], "text": beginning(text, characters)})
    return turns, len(begins) > len(shown)


def visible_token(content: bytes) -> str:
    """A token's bytes so that each can be seen: blanks as signs, invalid UTF-8 and invisible characters as escapes."""
    text = content.decode("utf-8", "backslashreplace")
    return "".join(_BLANKS.get(c) or (c if c.isprintable() else ascii(c)[1:-1]) for c in text)


def beginning(text: str, characters: int) -> str:
    """About the first so many characters, up to the end of a word, and an ellipsis if there are more."""
    if len(text) <= characters:
        return text
    cut = text[:characters]
    whole = re.sub(r"\s+\S*$", "", cut)
    # In one long word, or a script without spaces, there is no such end.
    return (whole if len(whole) > characters // 2 else cut.rstrip()) + " …"


def ratio(part: float, whole: float) -> float:
    """part / whole; 0 if there is nothing."""
    return part / whole if whole else 0.0
