"""The best look-up table of the training text: an unbounded n-gram model, whose counts the trace index gives.

    p_k(w) = (c(context_k w) + a p_{k−1}(w)) / (c(context_k) + a),   k = 0, 1, … while context_k occurs in training

context_k is the last k tokens before w, c(context_k w) how often both occur in the training text, c(context_k) how
often the context occurs with any token after it, and p_{−1} uniform over the ordinary ids (Dirichlet back-off, MacKay
and Peto 1995). `a` and the longest k are chosen on held-out text that is not
scored, so that the table is as good as it can be. A network that needs fewer bits for text that it has not read
has learned something that no look-up in its training text gives.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.data.tokens.shards import ranges
from parakeet.intervals import ratio_of
from parakeet.memorisation.text import Excerpts, by_document, separated
from parakeet.trace.index import TraceIndex

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject

WEIGHTS = tuple(2.0**power for power in range(-6, 15))
"""Values of `a` that are tried."""
CONTEXTS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
"""Longest contexts that are tried: where text is made from templates, a long match misleads. By the last, a token that
always followed has all of the probability."""
TUNED = 4
"""Every so many excerpts, one chooses `a` and the longest context, and is not scored."""


def measure_margin(subject: "Subject", excerpts: Excerpts, bits: np.ndarray) -> dict[str, Any] | None:
    """Network and n-gram model on the same held-out tokens; None if there are none.

    excerpts: held-out text; bits (n,): what `score` gave for it. Returns {"excerpts", "n_bytes", "network", "ngram",
    "margin" (bits per byte, each {"n" (documents), "value", "interval"}; the margin is n-gram − network), "weight"
    (`a`), "context" (the longest), "tuned_on" (excerpts)}.
    """
    sizes = excerpts.n_bytes(subject.tokenizer)
    with_text = np.flatnonzero(sizes)
    if not len(with_text):
        return None
    table = back_off(subject.index, excerpts)
    tuning = with_text[TUNED - 1 :: TUNED]
    of_token = excerpts.owner[table.places]
    in_tuning = np.isin(of_token, tuning)
    ordinary = len(subject.tokenizer.defined_ids()) - len(subject.tokenizer.control_ids)
    weight, context = table.best(np.flatnonzero(in_tuning), ordinary) if len(tuning) else (1.0, CONTEXTS[-1])
    scored = np.setdiff1d(with_text, tuning)
    looked_up = np.bincount(of_token, table.bits(weight, context, ordinary), len(excerpts))
    ngram, network, below = (
        by_document(excerpts.documents[scored], values[scored]) for values in (looked_up, excerpts.sums(bits), sizes)
    )
    return {
        "excerpts": len(scored),
        "n_bytes": int(below.sum()),
        "network": ratio_of(network, below),
        "ngram": ratio_of(ngram, below),
        "margin": ratio_of(ngram - network, below),
        "weight": weight,
        "context": context,
        "tuned_on": len(tuning),
    }


class BackOff:
    """The counts of every context of every learned token.

    places, longest (m,): the tokens, and the length of each one's longest context in the training text. The rest are
    (m + Σ longest,), all k from 0 to `longest` of the first token, then of the next: `firsts` is where each begins.
    """

    def __init__(self, places: np.ndarray, longest: np.ndarray, of_context: np.ndarray, of_token: np.ndarray) -> None:
        self.places = places
        self.longest = longest
        self.firsts = np.cumsum(longest + 1) - longest - 1
        self.of_context = of_context
        self.of_token = of_token

    def best(self, chosen: np.ndarray, ordinary: int) -> tuple[float, int]:
        """The weight and the longest context with the fewest bits for the chosen tokens, numbers in `places`."""
        sizes = self.longest[chosen] + 1
        pairs = ranges(self.firsts[chosen], sizes)
        some = BackOff(self.places[chosen], self.longest[chosen], self.of_context[pairs], self.of_token[pairs])
        costs = {
            (weight, context): float(some.bits(weight, context, ordinary).sum())
            for weight in WEIGHTS
            for context in CONTEXTS
        }
        return min(costs, key=costs.__getitem__)

    def bits(self, weight: float, context: int, ordinary: int) -> np.ndarray:
        """−log2 p (m,) with a = `weight`, contexts of at most `context` tokens, and p_{−1} = 1 / ordinary."""
        chances = np.full(len(self.places), 1.0 / ordinary)
        for k in range(min(context, int(self.longest.max(initial=-1))) + 1):
            deep = np.flatnonzero(self.longest >= k)
            at = self.firsts[deep] + k
            chances[deep] = (self.of_token[at] + weight * chances[deep]) / (self.of_context[at] + weight)
        found: np.ndarray = -np.log2(chances)
        return found


def back_off(index: TraceIndex, excerpts: Excerpts) -> BackOff:
    """Count the contexts of every learned token. A context stops where its excerpt begins."""
    query, _ = separated(excerpts)
    # In the query there is a separator after each excerpt.
    places = np.flatnonzero(excerpts.learned)
    at = places + excerpts.owner[places]
    # A context query[i:t] occurs if the match from i ends at t or later. These ends never fall as i grows.
    ends = np.arange(len(query)) + index.longest_matches(query)
    longest = np.minimum(at - np.searchsorted(ends, at), CONTEXTS[-1])
    with_token = np.minimum(at + 1 - np.searchsorted(ends, at + 1), CONTEXTS[-1] + 1)  # of context and token
    k = ranges(np.zeros_like(longest), longest + 1)
    token = np.repeat(np.arange(len(at)), longest + 1)
    of_context = index.continued(query, at[token] - k, k)
    of_token = np.zeros(len(k), np.int64)
    occurs = k < with_token[token]
    of_token[occurs] = index.counts(query, (at[token] - k)[occurs], k[occurs] + 1)
    return BackOff(places, longest, of_context, of_token)
