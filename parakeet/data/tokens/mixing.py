"""How often each document is seen in one pass over the mix of sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SourceSettings


@dataclass(frozen=True)
class Mix:
    """copies (documents,) int64: how often each document is seen."""

    copies: np.ndarray
    by_source: dict[str, dict[str, Any]]
    """{"documents", "tokens", "share", "epochs"} of each source in one pass."""

    def passes(self) -> list[np.ndarray]:
        """Document numbers of each pass over what is left: all that are seen at all, all that are seen twice, …"""
        return [np.flatnonzero(self.copies > number) for number in range(int(self.copies.max(initial=0)))]


def repetitions(tokens: Mapping[str, int], sources: Sequence[SourceSettings]) -> dict[str, float]:
    """How often each source's text is seen in one pass over the mix, from the tokens that there are of each.

    Without weights, `epochs` times. With weights, as often as gives each source its share and none more than its
    `epochs`: the mix ends when the first source is used up. ParakeetError where a source with a weight has no text.
    """
    if not sources or sources[0].weight is None:
        return {source.name: source.epochs for source in sources}
    weights = {source.name: source.weight or 0.0 for source in sources}
    for name, weight in weights.items():
        if not tokens.get(name):
            raise ParakeetError(
                f"Source {name} has the weight {weight:g}, but no text of it is left to train on. See why with: "
                f"parakeet data inspect --source {name}; then mend the source or take it out of the recipe."
            )
    whole = min(source.epochs * tokens[source.name] / weights[source.name] for source in sources)
    return {name: whole * weight / tokens[name] for name, weight in weights.items()}


def mix(recipe: Recipe, names: Sequence[str], sources: np.ndarray, lengths: np.ndarray, ids: np.ndarray) -> Mix:
    """Choose how often each document is seen.

    sources (documents,) index into `names`, lengths (documents,) tokens, ids (documents, 2) uint64. Whole repetitions
    take every document; a fraction takes those whose ids come first by their second half, as many as keep within it: a
    choice that hardly changes when documents are added. The first half already chose what is held out. ParakeetError
    where a source with a weight is left without a document.
    """
    settings = {source.name: source for source in recipe.sources}
    tokens = np.bincount(sources, weights=lengths, minlength=len(names)).astype(np.int64)
    there_are = dict(zip(names, tokens.tolist(), strict=True))
    repeated = repetitions(there_are, [settings[name] for name in names])
    copies = np.zeros(len(lengths), np.int64)
    for number, name in enumerate(names):
        mine = np.flatnonzero(sources == number)
        whole = int(repeated[name] + 1e-9)
        copies[mine] = whole
        first = mine[np.argsort(ids[mine, 1], kind="stable")]
        copies[_within(first, lengths, (repeated[name] - whole) * tokens[number])] += 1
        if settings[name].weight is not None and len(mine) and not copies[mine].any():
            raise ParakeetError(
                f"Source {name}: its share of the mix is less than its shortest document. Raise its weight "
                f"({settings[name].weight:g}) or the epochs of the others, or take it out of the recipe."
            )
    seen = np.bincount(sources, weights=lengths * copies, minlength=len(names)).astype(np.int64)
    documents = np.bincount(sources, weights=copies, minlength=len(names)).astype(np.int64)
    by_source = {
        name: {
            "documents": int(documents[number]),
            "tokens": int(seen[number]),
            "share": float(seen[number] / max(1, seen.sum())),
            "epochs": float(seen[number] / max(1, tokens[number])),
        }
        for number, name in enumerate(names)
    }
    return Mix(copies, by_source)


def _within(documents: np.ndarray, lengths: np.ndarray, budget: float) -> np.ndarray:
    """Of documents in this order those that keep within a budget of tokens; one that is too long is passed over."""
    chosen = []
    while len(documents):
        fitting = int(np.searchsorted(np.cumsum(lengths[documents]), budget, side="right"))
        chosen.append(documents[:fitting])
        budget -= int(lengths[documents[:fitting]].sum())
        documents = documents[fitting + 1 :]
        documents = documents[lengths[documents] <= budget]
    return np.concatenate([np.zeros(0, np.int64), *chosen])
