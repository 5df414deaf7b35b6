"""Bits per byte of training text and of held-out text, by source. A model that memorises needs fewer for the first."""

from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.memorisation.figures import ratio_difference, ratio_of
from parakeet.memorisation.text import Excerpts, some_documents

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject

TOKENS = 30_000
"""Tokens of held-out text to measure, over all sources; and as many of the training text."""
LEAST_TOKENS = 3_000
"""Of each source, however many there are."""


def measure_gap(subject: "Subject", held_out: Excerpts, bits: np.ndarray) -> dict[str, Any]:
    """{"sources": {source: found or None}, "all": found or None}; found = {"train", "held_out", "gap"}.

    Each is {"n", "value", "interval"} in bits per byte; the gap is training minus held-out. `held_out` and its bits
    (n,) are those of `held_out_sample`. The training documents were read, and are as many as the held-out ones, of
    about the same lengths.
    """
    chance = np.random.default_rng(11)
    owner = subject.held_out.sources()[held_out.documents] if len(held_out) else np.zeros(0, np.int64)
    read = subject.read_documents()
    chosen = {
        number: alike(
            read[subject.train.sources()[read] == subject.train.names.index(name)],
            subject.train.lengths(),
            subject.held_out.lengths()[held_out.documents[owner == number]],
            chance,
        )
        for number, name in enumerate(subject.held_out.names)
    }
    documents = np.concatenate([np.zeros(0, np.int64), *chosen.values()])
    train = subject.excerpts(subject.train, documents, chance)
    train_bits, _ = subject.score(train, "training bits per byte")
    sides = {
        "train": (train.sums(train_bits), train.n_bytes(subject.tokenizer)),
        "held_out": (held_out.sums(bits), held_out.n_bytes(subject.tokenizer)),
    }
    source = np.repeat(list(chosen), [len(some) for some in chosen.values()])
    sources = {
        name: _compared(sides, {"train": source == number, "held_out": owner == number})
        for number, name in enumerate(subject.held_out.names)
        if name not in subject.planted_sources
    }
    # Of the sources that have text on both sides: otherwise the two would be different mixes.
    both = [number for number, name in enumerate(subject.held_out.names) if sources.get(name)]
    everything = {"train": np.isin(source, both), "held_out": np.isin(owner, both)}
    return {"sources": sources, "all": _compared(sides, everything)}


def _compared(sides: dict[str, tuple[np.ndarray, np.ndarray]], chosen: dict[str, np.ndarray]) -> dict[str, Any] | None:
    taken = {name: (above[chosen[name]], below[chosen[name]].astype(float)) for name, (above, below) in sides.items()}
    gap = ratio_difference(taken["train"], taken["held_out"])
    return gap and {**{name: ratio_of(*side) for name, side in taken.items()}, "gap": gap}


def held_out_sample(subject: "Subject") -> Excerpts:
    """Held-out text of every source."""
    chance = np.random.default_rng(7)
    sources, lengths = subject.held_out.sources(), subject.held_out.lengths()
    each = max(LEAST_TOKENS, TOKENS // max(1, len(subject.held_out.names) - len(subject.planted_sources)))
    chosen = [
        some_documents(np.flatnonzero(sources == number), lengths, each, chance)
        for number in range(len(subject.held_out.names))
    ]
    documents = np.concatenate([np.zeros(0, np.int64), *chosen])
    return subject.excerpts(subject.held_out, documents, chance)


def alike(candidates: np.ndarray, lengths: np.ndarray, wanted: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """A different candidate for each wanted length (w,), as near to it as there are; fewer if there are fewer."""
    shuffled = chance.permutation(candidates)
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    targets = np.sort(wanted)[: len(by_length)]
    order = np.arange(len(targets))
    # Places rise, each by one at least, and leave room for those after it.
    places = np.searchsorted(lengths[by_length], targets)
    places = np.maximum.accumulate(places - order) + order
    found: np.ndarray = by_length[np.minimum(places, len(by_length) - len(targets) + order)]
    return found
