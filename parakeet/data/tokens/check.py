"""What finished token shards must hold: the documents that were counted, known ids, and no evaluation text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.artifact import Artifact
from parakeet.benchmark_files import searched_sets
from parakeet.conversation import Turn
from parakeet.data.cleaning.decontaminate import build_index
from parakeet.data.tokens.shards import SPLITS, TokenShards
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.template import read_document
from parakeet.tokenizer import Tokenizer

SAMPLE = 2000
"""Training documents that are searched for evaluation text: 95 % sure to find it if one in 660 holds some."""


def fault_of_shards(directory: Path, counts: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[str | None, int]:
    """What is wrong with finished shards, or None, and their largest id. Raises ParakeetError for torn files."""
    known = np.zeros(tokenizer.rows, np.bool_)
    known[tokenizer.defined_ids()] = True
    known[list(tokenizer.control_ids)] = True
    largest = 0
    for split in SPLITS:
        shards = TokenShards(directory, split, tokenizer)
        found = {"documents": len(shards), "tokens": int(shards.lengths().sum())}
        for what, number in found.items():
            if number != counts[split][what]:
                return f"{split} has {number:,} {what}, and {counts[split][what]:,} were counted.", largest
        ids = np.flatnonzero(shards.id_counts())
        if unknown := ids[~known[ids]].tolist():
            return f"{split} holds the id {unknown[0]}, which is no token of the vocabulary.", largest
        largest = max(largest, int(ids.max(initial=0)))
    return ("No document is left to train on." if not counts["train"]["documents"] else None), largest


def contaminated(artifact: Artifact, recipe: Recipe, sources: Mapping[str, Path], tokenizer: Tokenizer) -> list[str]:
    """Of a sample of the training documents, those that hold text of the recipe's evaluation sets: one line each.

    `sources`: the folders of fetched sets, by stage. Raises ParakeetError if a set cannot be read.
    """
    index = build_index(searched_sets(recipe), sources, Progress())
    shards = TokenShards(artifact.path, "train", tokenizer)
    numbers = np.unique(np.linspace(0, len(shards) - 1, SAMPLE).round().astype(np.int64))
    found = []
    for number in numbers.tolist():
        turns: list[Turn] = read_document(tokenizer, shards.tokens(number).tolist())
        if hits := index.find("\n".join(turn.content for turn in turns)):
            sets = ", ".join(hits.sets)
            found.append(f"document {shards.doc_id(number).hex()} shares with {sets}: {hits.words!r}")
    return found


def fetched_sets(artifact: Artifact) -> dict[str, Path]:
    """Folders of the fetched sources that the documents of these shards were cleaned with, by stage."""
    root = artifact.path.parents[1]
    folder = root / artifact.manifest["inputs"]["deduplicated_documents"]["path"]
    cleaned = root / Artifact.open(folder).manifest["inputs"]["clean_documents"]["path"]
    inputs = Artifact.open(cleaned).manifest["inputs"]
    return {name: root / one["path"] for name, one in inputs.items() if name.startswith(f"{SOURCE_FILES}/")}
