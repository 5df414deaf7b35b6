"""Bits per byte of training text and of held-out text, by source. A model that memorises needs fewer for the first."""

from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.intervals import ratio_difference, ratio_of
from parakeet.memorisation.text import Excerpts, by_document, joined, up_to

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject

TOKENS = 16_000
"""Tokens of held-out text to measure, over all sources; and as many of the training text."""
LEAST_TOKENS = 3_000
"""Of each source, however many there are."""


def measure_gap(subject: "Subject", held_out: Excerpts, bits: np.ndarray) -> dict[str, Any]:
    """{"sources": {source: found or None}, "all": found or None}; found = {"train", "held_out", "gap"}.

    Each is {"n" (documents), "value", "interval"} in bits per byte; the gap is training minus held-out. `held_out` and
    its bits (n,) are those of `held_out_sample`. The training text was read, and its excerpts are as many as the
    held-out ones, of about the same lengths.
    """
    rng = np.random.default_rng(11)
    owner = subject.held_out.sources()[held_out.documents]
    read, of_source = subject.read_documents, subject.train.sources()
    chosen = {}
    for number, name in enumerate(subject.held_out.names):
        mine = read[of_source[read] == subject.train.names.index(name)]
        places = subject.places(subject.train, mine, rng)
        chosen[number] = places.take(alike(places.lengths, held_out.lengths[owner == number]))
    train = subject.excerpts(subject.train, joined(list(chosen.values())))
    train_bits, _ = subject.score(train, "training bits per byte")
    sides = {
        "train": (train.documents, train.sums(train_bits), train.n_bytes(subject.tokenizer)),
        "held_out": (held_out.documents, held_out.sums(bits), held_out.n_bytes(subject.tokenizer)),
    }
    source = np.repeat(np.array(list(chosen), np.int64), [len(some) for some in chosen.values()])
    sources = {
        name: _compared(sides, {"train": source == number, "held_out": owner == number})
        for number, name in enumerate(subject.held_out.names)
        if name not in subject.planted_sources
    }
    # Of the sources that have text on both sides: otherwise the two would be different mixes.
    both = [number for number, name in enumerate(subject.held_out.names) if sources.get(name)]
    everything = {"train": np.isin(source, both), "held_out": np.isin(owner, both)}
    return {"sources": sources, "all": _compared(sides, everything)}


def _compared(
    sides: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], chosen: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    taken = {}
    for name, (documents, bits, n_bytes) in sides.items():
        mine = chosen[name]
        taken[name] = by_document(documents[mine], bits[mine]), by_document(documents[mine], n_bytes[mine])
    gap = ratio_difference(taken["train"], taken["held_out"])
    return gap and {**{name: ratio_of(*side) for name, side in taken.items()}, "gap": gap}


def held_out_sample(subject: "Subject") -> Excerpts:
    """Held-out text of every source."""
    rng = np.random.default_rng(7)
    sources = subject.held_out.sources()
    each = max(LEAST_TOKENS, TOKENS // max(1, len(subject.held_out.names) - len(subject.planted_sources)))
    chosen = [
        up_to(subject.places(subject.held_out, np.flatnonzero(sources == number), rng), each)
        for number in range(len(subject.held_out.names))
    ]
    return subject.excerpts(subject.held_out, joined(chosen))


def alike(lengths: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted length (w,) a different number of lengths (n,), as near to it as there are; fewer if n < w.

    Of equal lengths the first ones are taken.
    """
    by_length = np.argsort(lengths, kind="stable")
    targets = np.sort(wanted)[: len(by_length)]
    order = np.arange(len(targets))
    # Places rise, each by one at least, and leave room for those after it.
    places = np.searchsorted(lengths[by_length], targets)
    places = np.maximum.accumulate(places - order) + order
    found: np.ndarray = by_length[np.minimum(places, len(by_length) - len(targets) + order)]
    return found
