"""Trace indices in the store, and which one belongs to a model."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact, Store
from parakeet.errors import ParakeetError
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.trace.index import TraceIndex
from parakeet.trace.stage import TraceIndexStage
from parakeet.training.job import JOB_FILE, read_job

BUILD = "parakeet index build"


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on, as it records it."""

    shards_content: str
    """Content digest of the token shards."""
    tokenizer: str | None
    """sha256 of the tokenizer, if it is recorded."""
    recipe: str
    """The recipe's name; may be empty."""


def indices(root: Path) -> list[Artifact]:
    """The trace indices under a root whose manifest can be read, the oldest first."""
    found = []
    for folder in Store(root).directories(TraceIndexStage.name):
        with suppress(ParakeetError, KeyError, TypeError):  # `parakeet verify` and a build say what is wrong
            artifact = Artifact.open(folder)
            made_from(artifact)
            found.append((str(artifact.manifest["made"]), folder, artifact))
    return [artifact for _, _, artifact in sorted(found, key=lambda made: made[:2])]


def index_of_model(folder: Path, root: Path) -> TraceIndex:
    """The index of the text that a model was trained on: a release, a checkpoint of a run, or the stage's artefact.

    Raises ParakeetError, which says what to run, if there is none, if it is of other text or another tokenizer, or if
    it was changed after it was made.
    """
    trained = trained_on(folder)
    made = indices(root)
    fitting = [one for one in made if made_from(one) == trained.shards_content]
    recipe = f" --recipe {trained.recipe}" if trained.recipe else ""
    if not fitting:
        others = f" (the one here was made from {made_from(made[-1])})" if made else ""
        raise ParakeetError(
            f"{folder} was trained on token shards {trained.shards_content}, and no trace index here was made from "
            f"them{others}. Make it with the model's recipe: {BUILD}{recipe}"
        )
    artifact = fitting[-1]
    artifact.check()
    index = TraceIndex.open(artifact.path)
    if trained.tokenizer is not None and index.tokenizer_hash != trained.tokenizer:
        raise ParakeetError(
            f"{artifact.path} was made with tokenizer {index.tokenizer_hash}, and {folder} with {trained.tokenizer}. "
            f"Make the index again with the model's recipe: {BUILD}{recipe} --force"
        )
    return index


def made_from(index: Artifact) -> str:
    """Content digest of the token shards that an index was made from."""
    return str(index.manifest["inputs"]["token_shards"]["content"])


def trained_on(folder: Path) -> TrainedOn:
    """Raises ParakeetError if the folder does not record it, as that of an imported model."""
    job = folder.parent / JOB_FILE
    path = next(
        (path for path in (folder / TRAINING_MANIFEST_FILE, job, folder / MANIFEST_FILE) if path.is_file()), None
    )
    if path is None:
        raise ParakeetError(f"{folder} does not tell what it was trained on: it has no {TRAINING_MANIFEST_FILE}.")
    try:
        if path == job:
            values = read_job(path)
            return TrainedOn(str(values["shards_content"]), None, str(values["recipe"].get("name", "")))
        values = json.loads(path.read_text(encoding="utf-8"))
        if path.name == MANIFEST_FILE:
            return TrainedOn(str(values["inputs"]["token_shards"]["content"]), None, "")
        if "imported_from" in values:
            raise ParakeetError(f"{folder} is an imported model: the text that it was trained on is not here.")
        shards: dict[str, Any] = values["stages"]["token_shards"]
        tokenizer = shards["counts"].get("tokenizer_sha256")
        return TrainedOn(str(shards["content"]), tokenizer, str(values["recipe"]["name"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{path} does not tell what the model was trained on ({error!r}).") from None
