"""What the data card measures in the token shards, one record batch at a time.

Memory does not grow with the corpus. For each source it holds one count for every id and every length, and a few
excerpts.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parakeet.data.tokens.shards import SPLITS, open_shard
from parakeet.errors import ParakeetError
from parakeet.progress import Task
from parakeet.sanitise import sanitise
from parakeet.tokenizer import ROLE_TOKENS, Tokenizer

EXAMPLES = 3
EXCERPT_CHARACTERS = 400
EXCERPT_TURNS = 4
EXCERPT_TOKENS = 2048
"""Enough for these characters: a token has at least one byte, and few characters have more than four."""
COVERAGE = (100, 1_000, 10_000)
MOST_FREQUENT = 1_000
"""The card shows which share of a source's tokens this many ids cover."""
TOKENS_SHOWN = 24
CHARACTERISTIC_SHOWN = 8
PERCENTILES = (5, 50, 95)

_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


@dataclass
class SourceMeasures:
    """One source's documents in one split. Measures of several batches, or splits, can be added."""

    documents: int = 0
    tokens: int = 0
    n_bytes: int = 0
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(longest + 1,) The number of documents of each length in tokens."""
    id_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(largest id + 1,) How often each id occurs. Counted in the training split only."""
    examples: list[tuple[bytes, np.ndarray]] = field(default_factory=list)
    """The documents with the lowest doc_id, ascending: doc_id, first ids. From the training split only."""

    def __add__(self, other: "SourceMeasures") -> "SourceMeasures":
        return SourceMeasures(
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.n_bytes + other.n_bytes,
            added(self.lengths, other.lengths),
            added(self.id_counts, other.id_counts),
            sorted([*self.examples, *other.examples], key=lambda example: example[0])[:EXAMPLES],
        )

    @property
    def sizes(self) -> dict[str, int]:
        return {"documents": self.documents, "tokens": self.tokens, "bytes": self.n_bytes}


@dataclass
class Measures:
    by_split: dict[str, defaultdict[str, SourceMeasures]]
    """Measures by split and source."""
    id_counts: np.ndarray
    """(vocabulary rows,) How often each id occurs in the training split."""


def measure(shards: Path, tokenizer: Tokenizer, task: Task) -> Measures:
    """Read every shard once. ParakeetError if one is damaged or was made with another tokenizer."""
    by_split: dict[str, defaultdict[str, SourceMeasures]] = {split: defaultdict(SourceMeasures) for split in SPLITS}
    for split in SPLITS:
        for path in sorted(shards.glob(f"{split}-*.arrow")):
            shard = open_shard(path, tokenizer)
            for batch in shard.batches:
                ids = batch.column("input_ids").values.to_numpy()
                if (largest := int(ids.max(initial=0))) >= tokenizer.rows:
                    raise ParakeetError(
                        f"{path} contains the token id {largest}, but the vocabulary has {tokenizer.rows:,} rows. "
                        "Run the same build again with: --force token_shards"
                    )
                for name, found in _measured(batch, shard.sources, training=split == "train"):
                    by_split[split][name] += found
                task.advance(len(ids))
    counts = (source.id_counts for source in by_split["train"].values())
    return Measures(by_split, reduce(added, counts, np.zeros(tokenizer.rows, np.int64)))


def added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of two arrays of counts. The shorter one is taken as padded with zeros."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def _measured(batch: pa.RecordBatch, names: Sequence[str], training: bool) -> Iterator[tuple[str, SourceMeasures]]:
    """Measure a batch, source by source. Held-out text stays unread: ids and examples come from training alone."""
    offsets = batch.column("input_ids").offsets.to_numpy()  # (documents + 1,)
    lengths, n_bytes = np.diff(offsets), batch.column("n_bytes").to_numpy()  # (documents,) each
    sources = batch.column("source").indices.to_numpy()  # (documents,) indices into names
    doc_ids = batch.column("doc_id")
    # The first 8 of the 16 bytes are enough to sort by: ids are hashes, and duplicates are gone.
    order = np.frombuffer(doc_ids.buffers()[1], ">u8")[: 2 * len(batch) : 2]  # (documents,)
    ids, numbers = batch.column("input_ids").values.to_numpy(), np.unique(sources).tolist()
    for number in numbers:
        rows = np.flatnonzero(sources == number)
        found = SourceMeasures(
            len(rows), int(lengths[rows].sum()), int(n_bytes[rows].sum()), np.bincount(lengths[rows])
        )
        if training:
            # Repeating each document's answer for each of its tokens makes a mask of the source's tokens.
            own = ids if len(numbers) == 1 else ids[np.repeat(sources == number, lengths)]
            found.id_counts = np.bincount(own)
            for row in rows[np.argsort(order[rows], kind="stable")[:EXAMPLES]].tolist():
                begin, end = int(offsets[row]), int(offsets[row + 1])
                # A copy, or the memory-mapped shard would stay open.
                excerpt = ids[begin : min(end, begin + EXCERPT_TOKENS)].copy()
                found.examples.append((bytes(doc_ids[row].as_py()), excerpt))
        yield names[number], found


def length_figures(counts: np.ndarray) -> dict[str, Any]:
    """Percentiles, mean and longest of documents counted by length (longest + 1,).

    `bins[k]` is the number of documents with 2^k to 2^(k+1) − 1 tokens.
    """
    documents = int(counts.sum())
    if not documents:
        return {"mean": 0.0, "longest": 0, **{f"p{p}": 0 for p in PERCENTILES}, "bins": []}
    lengths = np.flatnonzero(counts)
    running = np.cumsum(counts[lengths])
    # The first length that at least p% of the documents do not exceed.
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
    """How the training split uses the vocabulary: `counts` (vocabulary rows,) is how often each id occurs."""
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
                "token": _token_name(tokenizer, names, number),
                "control": number in names,
                "count": int(counts[number]),
                "share": ratio(int(counts[number]), total),
            }
            for number in by_rank[: min(TOKENS_SHOWN, used)].tolist()
        ],
    }


def source_vocabulary_figures(counts: np.ndarray, everything: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    """How one source's training documents use the vocabulary, compared with `everything`, the counts of all sources.

    Characteristic ids are more frequent here than elsewhere, and contribute most to Pearson's χ² of the source against
    the whole; `times` says how much more frequent. Control tokens are left out: they only reflect the records' shape.
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
            {"id": number, "token": _token_name(tokenizer, names, number), "times": round(float(times[number]), 2)}
            for number in best[worth[best] > 0].tolist()
        ],
    }


def _control_names(tokenizer: Tokenizer) -> dict[int, str]:
    return {number: name for name, number in tokenizer.controls.items()}


def _token_name(tokenizer: Tokenizer, controls: Mapping[int, str], number: int) -> str:
    return visible_token(controls[number].encode() if number in controls else tokenizer.token_bytes(number))


def example_figures(tokenizer: Tokenizer, example: tuple[bytes, np.ndarray]) -> dict[str, Any]:
    """A document's doc_id and the beginnings of its turns, decoded from its ids: what the model is trained on."""
    doc_id, ids = example[0], example[1].tolist()
    roles = {tokenizer.role_id(role): role for role in ROLE_TOKENS} | {tokenizer.end_of_text: "Text"}
    begins = [index for index, number in enumerate(ids) if number in roles]
    ends = [*begins[1:], len(ids)]
    shown = begins[:EXCERPT_TURNS]
    characters = EXCERPT_CHARACTERS // max(1, len(shown))
    turns = []
    for begin, end in zip(shown, ends, strict=False):
        text = sanitise(tokenizer.decode(ids[begin + 1 : end])).strip()
        turns.append({"role": roles[ids[begin]], "text": beginning(text, characters)})
    return {"doc_id": doc_id.hex(), "turns": turns, "more_turns": len(begins) > len(shown)}


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
