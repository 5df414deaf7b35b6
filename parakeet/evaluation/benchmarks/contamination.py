"""Which items of a benchmark stand in the training text, by the trace index of what the model was trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parakeet.evaluation.benchmarks.tasks import BenchmarkItem
from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex
from parakeet.trace.lookup import Lookup, Spelling

LONGEST_CLEAN = 12
"""An item with a longer match, in tokens, is contaminated: GPT-3 and lm-evaluation-harness take 13-grams."""
COVERED_BY = 8
MOST_COVERED = 0.5
"""So is one of which this share or more is covered by matches of COVERED_BY tokens or more."""
BYTES_PER_TOKEN = 3
"""A match counts no more tokens than its bytes by this, since a tokenizer that spells words in letters finds matches of
13 letters everywhere. Tokens of cl100k_base have 4 bytes."""


@dataclass(frozen=True)
class Overlap:
    """What a text shares with the training text."""

    longest: int
    """Tokens of the longest match."""
    coverage: float
    """Share of its tokens in matches of COVERED_BY tokens or more."""
    whole: bool
    """Whether one match is all of it, to its last word: a sentence of BLiMP may have fewer tokens than COVERED_BY."""

    @property
    def contaminated(self) -> bool:
        return self.whole or self.longest > LONGEST_CLEAN or self.coverage >= MOST_COVERED


def overlaps(index: TraceIndex, tokenizer: Tokenizer, items: Sequence[BenchmarkItem]) -> list[Overlap]:
    """The overlap of each item: question and right answer as one text. Of its two spellings the larger one counts."""
    texts = [f"{item.question} {item.answer}".strip() for item in items]
    found = []
    for text, spellings in zip(texts, Lookup(index, tokenizer).spellings(texts), strict=True):
        # The tokens of a full stop differ by what follows it, such as the end of the line.
        n_bytes = len((re.sub(r"\W+$", "", text) or text).encode())
        each = [_overlap(spelling, n_bytes) for spelling in spellings]
        found.append(Overlap(max(o.longest for o in each), max(o.coverage for o in each), any(o.whole for o in each)))
    return found


def _overlap(spelling: Spelling, n_bytes: int) -> Overlap:
    """The overlap of a text of `n_bytes` bytes up to the end of its last word."""
    ends = np.arange(len(spelling.ids)) + spelling.lengths
    lengths = np.minimum(spelling.lengths, (spelling.ends[ends - 1] - spelling.starts) // BYTES_PER_TOKEN)
    # +1 where a long match begins, -1 after its end: a token is covered where the sum is above 0.
    edges = np.zeros(len(ends) + 1, np.int64)
    long = np.flatnonzero(lengths >= COVERED_BY)
    np.add.at(edges, long, 1)
    np.add.at(edges, ends[long], -1)
    covered = np.cumsum(edges)[:-1] > 0
    whole = bool(spelling.lengths[0] >= np.count_nonzero(spelling.starts < n_bytes))
    return Overlap(int(lengths.max()), float(covered.mean()), whole)
