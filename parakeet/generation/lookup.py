"""Prompt lookup decoding: text that repeats is drafted from its earlier occurrence, and verified in one pass.

Also called n-gram speculation (Saxena 2023; transformers' `prompt_lookup_num_tokens`). A pass of several tokens reads
the weights once, so it costs less than as many passes of one. Drafts only save passes: each token is drawn as it would
be without them.
"""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import takewhile

from torch import Tensor

from parakeet.tokenizer import LARGEST_ID

LENGTHS = (4, 2, 1)
"""Tokens of an n-gram in the index, the longest first. Where rows cost little, 1 saves dialogues a tenth of the
passes. Longer ones would save none: a match of 4 is followed as long as it is right."""

ID_BITS = LARGEST_ID.bit_length()

RIGHT = {16: 0.95, 8: 0.85, 4: 0.6, 2: 0.35, 1: 0.15}
"""By the least length of a match, the share of tokens after it that are the same as before: where the estimates of
`DraftPolicy` begin. Measured on dialogues, stories, plays and new versions of source files."""

LONGEST_DRAFT = 15
"""Tokens. Where rows cost next to nothing, new versions of source files take an eighth fewer passes than with 8."""

ROW_COST = 0.3
"""Cost of one more token in a pass, as a share of a pass of one: where the estimate begins. Measured on one core with
AVX-512: 0.2 in fp32, 0.4 in bf16, int8 and int4. It is less where cores share the memory's bandwidth."""
LEAST_GAIN = 1.05
"""A draft must promise so many times the tokens a second."""

OUTCOME_WEIGHT = 0.05
"""Weight of the newest outcome of a match in the estimate."""
LOWER_COST_WEIGHT, HIGHER_COST_WEIGHT = 0.25, 0.1
"""Weight of the newest pass in the estimated cost of a row. What disturbs a measurement makes it longer."""
FORGETTING = 0.005
"""A pass without a draft moves the estimated cost of a row this far back to ROW_COST. One slow pass would otherwise end
all drafts for good."""
SLOWING = 1.02
"""The estimated time of a pass of one token rises by at most this factor a pass, and falls at once."""


class Ngrams:
    """An index of the n-grams of a growing text, by their latest occurrence."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        keys = _keys(self.ids)
        self._following = {n: dict(zip(keys[n], range(n, len(ids)), strict=False)) for n in LENGTHS}
        """For each length, the position after the latest occurrence of an n-gram that was followed by a token."""
        self._ending = self._last_keys()

    def append(self, token_id: int) -> None:
        for n, key in self._ending.items():
            self._following[n][key] = len(self.ids)
        self.ids.append(token_id)
        self._ending = self._last_keys()

    def match(self) -> tuple[int, int]:
        """The longest n-gram that the text ends with and held before: the position after it there, and its length.

        The length is one of LENGTHS, or 0 for no match.
        """
        for n, key in self._ending.items():
            if (position := self._following[n].get(key)) is not None:
                return position, n
        return len(self.ids), 0

    def _last_keys(self) -> dict[int, int]:
        """Of the n-grams that the text ends with, the longest first."""
        return {n: _key(self.ids[-n:]) for n in LENGTHS if n <= len(self.ids)}

    def copy(self, position: int, count: int) -> list[int]:
        """The `count` ids from a position on. What is copied goes on behind the end: "abab" from 2 on is "ababab…"."""
        period = self.ids[position : position + count]
        return [period[i % len(period)] for i in range(count)]


class DraftPolicy:
    """How many tokens to draft: as many as promise the most tokens a second, by what earlier matches and passes gave.

    The share of matches that were right is known without drafting, because every token is looked up before it is drawn.
    """

    def __init__(self) -> None:
        self.right = dict(RIGHT)
        """By the least length of a match, the estimated share of tokens after it that are the same as before."""
        self.row_cost = ROW_COST
        """Estimated cost of one more token in a pass, as a share of a pass of one."""
        self._single: float | None = None
        """Estimated seconds of a pass of one token."""

    def length(self, matched: int, most: int) -> int:
        """The best length of a draft after a match of `matched` tokens, at least 1; 0 if none pays."""
        best, gain = 0, 1.0
        tokens = chance = 1.0
        right = self.right[_class(matched)]
        for count in range(1, most + 1):
            chance *= right
            tokens += chance
            rate = tokens / (1 + self.row_cost * count)
            if rate <= gain:
                break  # the chance only falls, so no longer draft is better
            best, gain = count, rate
            # If this token is right, the next one follows a longer match.
            right = self.right.get(matched + count, right)
        return best if gain >= LEAST_GAIN else 0

    def record_match(self, matched: int, right: bool) -> None:
        """Whether the token after a match of `matched` tokens was the same as before."""
        least = _class(matched)
        self.right[least] += OUTCOME_WEIGHT * (right - self.right[least])

    def record_pass(self, tokens: int, seconds: float) -> None:
        """What a pass of some tokens took."""
        if tokens == 1:
            self._single = min(seconds, self._single * SLOWING) if self._single else seconds
            self.row_cost += FORGETTING * (ROW_COST - self.row_cost)
        elif self._single:
            # At 1, no draft can pay: more would only take longer to forget.
            cost = min(max(seconds / self._single - 1, 0) / (tokens - 1), 1)
            weight = LOWER_COST_WEIGHT if cost < self.row_cost else HIGHER_COST_WEIGHT
            self.row_cost += weight * (cost - self.row_cost)


def _key(ngram: list[int]) -> int:
    """A number for an n-gram. A tuple would do, but 25,000 of them start Python's garbage collector, which takes 80 ms
    with torch loaded."""
    key = 0
    for token_id in ngram:
        key = key << ID_BITS | token_id
    return key


def _keys(ids: list[int]) -> dict[int, list[int]]:
    """By length, the keys of all n-grams of a text: each joins those of its halves."""
    keys = {1: ids}
    for n in (2, 4):
        half = n // 2
        shift = half * ID_BITS
        keys[n] = [first << shift | second for first, second in zip(keys[half], keys[half][half:], strict=False)]
    return keys


def _class(matched: int) -> int:
    return next(least for least in RIGHT if least <= matched)


class Drafts:
    """The drafts of one reply."""

    def __init__(self, prompt_ids: Sequence[int], ends: Collection[int], policy: DraftPolicy) -> None:
        """`ends`: ids that end a reply. A draft stops before them."""
        self._ngrams = Ngrams(prompt_ids)
        self._ends = ends
        self._policy = policy
        self._position, self._matched = self._ngrams.match()
        """Where what follows is copied from, and how many tokens before it are the same as the latest ones."""
        self.verified: deque[tuple[int, Tensor]] = deque()
        """The rest of the latest draft, each token with the logits (vocabulary rows,) that follow if it is right."""

    def append(self, token_id: int) -> None:
        """The next token of the reply, as it was drawn."""
        right = False
        if self._matched and (expected := self._ngrams.ids[self._position]) not in self._ends:
            right = token_id == expected
            self._policy.record_match(self._matched, right)
        self._ngrams.append(token_id)
        if right and self._matched >= LENGTHS[0]:
            self._position, self._matched = self._position + 1, self._matched + 1
        else:
            self._position, self._matched = self._ngrams.match()

    def propose(self, most: int) -> list[int]:
        """The tokens that probably come next, at most `most`. Empty if it does not pay to verify any."""
        if not self._matched:
            return []
        ids = self._ngrams.copy(self._position, self._policy.length(self._matched, min(most, LONGEST_DRAFT)))
        return list(takewhile(lambda token_id: token_id not in self._ends, ids))
