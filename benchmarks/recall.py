"""Whether near duplicates are found as often as the formula predicts: planted pairs by Jaccard, and labelled sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from parakeet.benchmarks.corpus import changed, distinct, words_to_draw, write_documents
from parakeet.benchmarks.data import run_work
from parakeet.data.documents import parts
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Deduplication, Recipe

BANDS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))
WORDS = (100, 700)
"""Least and most words of a planted document."""
TAIL = 0.025
"""Probability of each end outside the 95 % interval."""
TRIES = 200


@dataclass(frozen=True)
class Planted:
    """Two texts, and the Jaccard similarity of their sets of shingles."""

    first: str
    second: str
    jaccard: float


def find_pairs(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Work for `run_work`: the pairs of document numbers that share a bucket, by the stage's own search."""
    from parakeet.data.deduplication.minhash import NearDuplicateSearch

    paths = parts(inputs["clean_documents"])
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    search = NearDuplicateSearch(recipe, paths, sizes, output / "work", progress)
    buckets = search.pairs(np.ones(sum(sizes), bool))
    return {"pairs": sorted({(min(pair), max(pair)) for pairs in buckets for pair in pairs.tolist()})}


def measure_recall(
    recipe: Recipe, blocks: Sequence[str], pairs: int, folder: Path, seed: int = 1
) -> tuple[list[dict[str, Any]], int]:
    """Search `pairs` pairs of each band together: what was found by band, and found pairs of unrelated texts.

    Of a band: `pairs` and how many were `found`; how many the formula predicts (`expected`); and the fewest that are
    found with a probability of 97.5 % (`least`, the lower bound of the 95 % interval).
    """
    settings = recipe.deduplication
    planted = list(plant(blocks, pairs, settings, seed))
    # Shuffled, so that the two of a pair are in different parts and tasks.
    place = np.random.default_rng(seed).permutation(2 * len(planted))
    texts = [""] * len(place)
    for number, pair in enumerate(planted):
        texts[place[2 * number]], texts[place[2 * number + 1]] = pair.first, pair.second
    write_documents(folder / "planted", texts, max(2, recipe.executor.workers))
    ran = run_work(f"{__name__}:find_pairs", recipe, {"clean_documents": folder / "planted"}, folder / "found")
    found = {(first, second) for first, second in ran.counts["pairs"]}
    wanted = [tuple(sorted(place[2 * n : 2 * n + 2].tolist())) for n in range(len(planted))]
    bands = []
    for low, high in BANDS:
        those = [number for number, pair in enumerate(planted) if low <= pair.jaccard < high]
        chances = [chance(planted[number].jaccard, settings) for number in those]
        hits = sum(wanted[number] in found for number in those)
        band = {"low": low, "high": high, "pairs": len(those), "found": hits}
        bands.append(band | {"expected": sum(chances), "least": least_found(chances)})
    return bands, len(found - set(wanted))


def measure_labelled(recipe: Recipe, train: Path, scratch: Path) -> dict[str, Any]:
    """Precision and recall of a labelled set.

    `train` has a document in each line, after its id; beside it, `<name>.truth` has two ids in each line.
    """
    try:
        named = [line.split(" ", 1) for line in train.read_text(encoding="utf-8").splitlines()]
        lines = train.with_suffix(".truth").read_text(encoding="utf-8").splitlines()
        truth = {tuple(sorted(line.split())) for line in lines}
        names, texts = zip(*named, strict=True)
    except (OSError, ValueError) as error:
        raise ParakeetError(
            f"{train} and {train.stem}.truth are no labelled set ({error}). Each line of the first must hold an id and "
            "a document, each line of the second two ids."
        ) from None
    write_documents(scratch / "documents", texts, recipe.executor.workers)
    inputs = {"clean_documents": scratch / "documents"}
    ran = run_work(f"{__name__}:find_pairs", recipe, inputs, scratch / "found")
    found = {tuple(sorted((names[a], names[b]))) for a, b in ran.counts["pairs"]}
    right = len(found & truth)
    scores = {"precision": right / len(found) if found else 0.0, "recall": right / len(truth) if truth else 0.0}
    return {"name": train.stem, "documents": len(texts), "pairs": len(truth), **scores, "seconds": ran.seconds}


def chance(jaccard: float, settings: Deduplication) -> float:
    """Probability that two texts of this Jaccard share a bucket: 1 − (1 − J^hashes)^buckets."""
    return float(1 - (1 - jaccard**settings.hashes_per_bucket) ** settings.buckets)


def least_found(chances: Sequence[float]) -> int:
    """The lower bound of the 95 % interval: the least k for which P(at most k are found) is at least 2.5 %.

    Exact: the number found of pairs with these chances is Poisson-binomial, computed by its recurrence.
    """
    probabilities = np.ones(1)
    for one in chances:
        probabilities = np.append(probabilities * (1 - one), 0.0) + np.append(0.0, probabilities * one)
    return int(np.argmax(np.cumsum(probabilities) >= TAIL))


def shingles(text: str, settings: Deduplication) -> set[tuple[str, ...]]:
    """The runs of words that the signatures hash."""
    from datatrove.utils.text import simplify_text

    from parakeet.data.deduplication.minhash import minhash_config
    from parakeet.data.words import words_of

    words = words_of(simplify_text(text, minhash_config(settings).norm_config))
    length = settings.shingle_words
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def plant(blocks: Sequence[str], pairs: int, settings: Deduplication, seed: int) -> Iterator[Planted]:
    """`pairs` pairs in each band, each from another text."""
    draw = np.random.default_rng([seed, 2])
    words = words_to_draw(blocks)
    texts = distinct(blocks, seed)
    for low, high in BANDS:
        left, tries = pairs, TRIES * pairs
        while left:
            pair = _pair(next(texts), draw.uniform(low, high), words, settings, draw)
            if low <= pair.jaccard < high:
                yield pair
                left -= 1
            tries -= 1
            if not tries:
                raise ParakeetError("The text's documents are too short to plant near copies in. Give longer ones.")


def _pair(
    text: str, jaccard: float, words: Sequence[str], settings: Deduplication, draw: np.random.Generator
) -> Planted:
    """The beginning of a text, and a copy with as few words changed as bring the Jaccard down to `jaccard`."""
    pieces = text.split(" ")[: int(draw.integers(*WORDS))]
    order = draw.permutation(len(pieces))
    others = changed(" ".join(["x"] * len(pieces)), 1.0, words, draw).split(" ")
    original = shingles(" ".join(pieces), settings)

    def changing(number: int) -> Planted:
        copy = list(pieces)
        for at in order[:number].tolist():
            copy[at] = others[at]
        mine = shingles(" ".join(copy), settings)
        return Planted(" ".join(pieces), " ".join(copy), len(original & mine) / max(1, len(original | mine)))

    few, many = 0, len(pieces)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if changing(middle).jaccard <= jaccard else (middle, many)
    return changing(many)
