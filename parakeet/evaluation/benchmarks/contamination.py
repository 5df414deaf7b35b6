"""Which items of a benchmark stand in the training text, by the trace index of what the model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parakeet.evaluation.benchmarks.tasks import BenchmarkItem
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.trace.index import TraceIndex

LONGEST_CLEAN = 12
"""An item with a longer match, in tokens, is contaminated: GPT-3 and lm-evaluation-harness take 13-grams."""
COVERED_BY = 8
MOST_COVERED = 0.5
"""So is one of which this share or more is covered by matches of COVERED_BY tokens or more."""
BYTES_PER_TOKEN = 3
"""A match counts no more tokens than its bytes by this, since a tokenizer that spells words in letters finds matches of
13 letters everywhere. Tokens of cl100k_base have 4 bytes."""
IDS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Overlap:
    """What a text shares with the training text."""

    longest: int
    """Tokens of the longest match."""
    coverage: float
    """Share of its tokens in matches of COVERED_BY tokens or more."""

    @property
    def contaminated(self) -> bool:
        return self.longest > LONGEST_CLEAN or self.coverage >= MOST_COVERED


def overlaps(index: "TraceIndex", tokenizer: Tokenizer, items: Sequence[BenchmarkItem]) -> list[Overlap]:
    """The overlap of each item: question and right answer as one text.

    A text has other first tokens after a space than at the beginning of a line, so both spellings are looked up, and
    the larger overlap counts.
    """
    texts = [f"{item.question} {item.answer}".strip() for item in items]
    spellings = [[tokenizer.encode(text), tokenizer.encode(" " + text)] for text in texts]
    found = _overlaps(index, tokenizer, [ids for both in spellings for ids in both])
    pairs = zip(found[::2], found[1::2], strict=True)
    return [Overlap(max(a.longest, b.longest), max(a.coverage, b.coverage)) for a, b in pairs]


def _overlaps(index: "TraceIndex", tokenizer: Tokenizer, texts: Sequence[list[int]]) -> list[Overlap]:
    separator = tokenizer.padding  # stands in no training text, so no match goes from one text to the next
    sizes = np.zeros(tokenizer.rows, np.int64)
    for token_id, size in tokenizer.lengths().items():
        sizes[token_id] = size
    result: list[Overlap] = []
    begin = 0
    while begin < len(texts):
        end, joined, starts = begin, list[int](), list[int]()
        while end < len(texts) and (end == begin or len(joined) < IDS_AT_ONCE):
            starts.append(len(joined))
            joined += [*texts[end], separator]
            end += 1
        ids = np.array(joined, np.uint32)
        matches = index.longest_matches(ids)
        ends = np.arange(len(ids)) + matches
        bytes_before = np.concatenate([[0], np.cumsum(sizes[ids])])
        lengths = np.minimum(matches, (bytes_before[ends] - bytes_before[:-1]) // BYTES_PER_TOKEN)
        # +1 where a long match begins, -1 after its end: a token is covered where the sum is above 0.
        edges = np.zeros(len(joined) + 1, np.int64)
        long = np.flatnonzero(lengths >= COVERED_BY)
        np.add.at(edges, long, 1)
        np.add.at(edges, ends[long], -1)
        covered = np.cumsum(edges)[:-1] > 0
        for start, text in zip(starts, texts[begin:end], strict=True):
            span = slice(start, start + len(text))
            coverage = float(covered[span].mean()) if text else 0.0
            result.append(Overlap(int(lengths[span].max(initial=0)), coverage))
        begin = end
    return result
