"""The mix: how often each document is seen in one pass over all sources, or over what is new in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.recipe import CANARY_SOURCE, Recipe
from parakeet.recipe_sources import SourceSettings


@dataclass(frozen=True)
class Mix:
    """copies (documents,) int64: how often each document is seen."""

    copies: np.ndarray
    by_source: dict[str, dict[str, Any]]
    """{"documents", "tokens", "share", "epochs"} of each source in one pass."""

    def passes(self) -> list[np.ndarray]:
        """Document numbers of the mix in passes that repeat nothing: those seen at least once, at least twice, …"""
        return [np.flatnonzero(self.copies > number) for number in range(int(self.copies.max(initial=0)))]


def repetitions(tokens: Mapping[str, int], sources: Sequence[SourceSettings]) -> dict[str, float]:
    """How often each source's text is seen in one pass over the mix; `tokens` says how many each source has.

    Without weights, each source is seen `epochs` times. With weights, the shares of the mix follow the weights, and the
    mix ends when the first source reaches its `epochs`. ParakeetError if a source with a weight has no text.
    """
    if not sources or sources[0].weight is None:
        return {source.name: source.epochs for source in sources}
    weights = {source.name: source.weight or 0.0 for source in sources}
    for name, weight in weights.items():
        if not tokens.get(name):
            raise ParakeetError(
                f"Source {name} has the weight {weight:g}, but none of its text is left to train on. To see why, run: "
                f"parakeet data inspect --source {name}. Then repair the source or remove it from the recipe."
            )
    # whole · weight tokens of each source are used, where `whole` is as large as the scarcest source allows.
    whole = min(source.epochs * tokens[source.name] / weights[source.name] for source in sources)
    return {name: whole * weight / tokens[name] for name, weight in weights.items()}


def mix(recipe: Recipe, names: Sequence[str], sources: np.ndarray, lengths: np.ndarray, ids: np.ndarray) -> Mix:
    """Choose how often each document is seen.

    sources (documents,) index into `names`; lengths (documents,) in tokens; ids (documents, 2) uint64. A source that is
    seen 2.3 times has every document twice, and a third time those with the lowest ids that stay within 0.3 of its
    tokens. Choosing by id hardly changes the choice when documents are added. ParakeetError if a source with a weight
    is left without a document. Canaries, which are no source of the recipe, are each seen once.
    """
    copies = _mixed(recipe, names, sources, lengths, ids)
    return Mix(copies, _by_source(names, sources, lengths, copies))


def _mixed(
    recipe: Recipe, names: Sequence[str], sources: np.ndarray, lengths: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """(documents,) int64: how often each is seen."""
    settings = {source.name: source for source in recipe.sources}
    # tokens (sources,): what each source has.
    tokens = np.bincount(sources, weights=lengths, minlength=len(names)).astype(np.int64)
    mixed = [settings[name] for name in names if name in settings]
    repeated = {CANARY_SOURCE: 1.0, **repetitions(dict(zip(names, tokens.tolist(), strict=True)), mixed)}
    copies = np.zeros(len(lengths), np.int64)
    for number, name in enumerate(names):
        mine = np.flatnonzero(sources == number)
        if name not in repeated:
            continue
        # The small term keeps 3 from becoming 2.999…, and so 2.
        whole = int(repeated[name] + 1e-9)
        copies[mine] = whole
        # By the second half of the id: the first half has already decided which documents are held out.
        by_id = mine[np.argsort(ids[mine, 1], kind="stable")]
        copies[_within(by_id, lengths, (repeated[name] - whole) * tokens[number])] += 1
        if name in settings and settings[name].weight is not None and len(mine) and not copies[mine].any():
            raise ParakeetError(
                f"Source {name}: its share of the mix is less than its shortest document. Raise its weight "
                f"({settings[name].weight:g}) or the epochs of the other sources, or remove it from the recipe."
            )
    return copies


def _by_source(
    names: Sequence[str], sources: np.ndarray, lengths: np.ndarray, copies: np.ndarray
) -> dict[str, dict[str, Any]]:
    # all, seen, documents (sources,): the tokens of each source, and what one pass has of it, repeats counted.
    tokens = np.bincount(sources, weights=lengths, minlength=len(names)).astype(np.int64)
    seen = np.bincount(sources, weights=lengths * copies, minlength=len(names)).astype(np.int64)
    documents = np.bincount(sources, weights=copies, minlength=len(names)).astype(np.int64)
    return {
        name: {
            "documents": int(documents[number]),
            "tokens": int(seen[number]),
            "share": float(seen[number] / max(1, seen.sum())),
            "epochs": float(seen[number] / max(1, tokens[number])),
        }
        for number, name in enumerate(names)
    }


def replayed(
    recipe: Recipe, names: Sequence[str], sources: np.ndarray, lengths: np.ndarray, ids: np.ndarray, old: np.ndarray
) -> Mix:
    """The mix of what is new, with a share of the old text.

    The first arguments are those of `mix`; old (documents,) bool. A new document is seen as often as the `epochs` of
    its source say: weights do not count, since nobody chose how much of each source would be new. The old ones are
    chosen by hash from the mix of all old text, as many as packing.replay.share asks for, or all of them. The choice
    differs from one `packing.replay.of` to the next. ParakeetError if no document is new.
    """
    replay = recipe.packing.replay
    assert replay is not None
    if old.all():
        raise ParakeetError(
            "No document of the text is new: all of them were in the text that training.start was trained on. There "
            "is nothing to retrain on. To train on all text again, run: parakeet retrain --from-scratch"
        )
    unweighted = [source.model_copy(update={"weight": None}) for source in recipe.sources]
    some = {"sources": unweighted}
    copies = np.zeros(len(lengths), np.int64)
    new = np.flatnonzero(~old)
    copies[new] = _mixed(recipe.model_copy(update=some), names, sources[new], lengths[new], ids[new])
    seen_new = int((copies * lengths).sum())
    before = np.flatnonzero(old)
    if len(before):
        present = {names[number] for number in np.unique(sources[before])}
        kept = [source for source in recipe.sources if source.name in present]
        seen_old = _mixed(
            recipe.model_copy(update={"sources": kept}), names, sources[before], lengths[before], ids[before]
        )
        # (copies of old documents,), in the order of a hash of their ids and of `of`.
        pool = np.repeat(before, seen_old)
        pool = pool[np.argsort(_hashed(ids[pool, 1], int(replay.of[:16], 16)), kind="stable")]
        chosen = _within(pool, lengths, seen_new * replay.share / (1.0 - replay.share))
        copies += np.bincount(chosen, minlength=len(lengths))
    return Mix(copies, _by_source(names, sources, lengths, copies))


def _hashed(ids: np.ndarray, seed: int) -> np.ndarray:
    """uint64, the shape of `ids`: the mixing steps of splitmix64 over ids and seed."""
    mixed = ids ^ np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _within(documents: np.ndarray, lengths: np.ndarray, budget: float) -> np.ndarray:
    """From documents in this order, those that fit a budget of tokens. One that is too long is skipped."""
    chosen = []
    while len(documents):
        # The first `fitting` documents fit together and the next one does not. Skip it and all others that are longer
        # than the budget that is left, and continue behind them.
        fitting = int(np.searchsorted(np.cumsum(lengths[documents]), budget, side="right"))
        chosen.append(documents[:fitting])
        budget -= int(lengths[documents[:fitting]].sum())
        documents = documents[fitting + 1 :]
        documents = documents[lengths[documents] <= budget]
    return np.concatenate([np.zeros(0, np.int64), *chosen])
