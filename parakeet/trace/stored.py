"""Which trace index in the store belongs to a model."""

import json
from dataclasses import dataclass
from pathlib import Path

from parakeet.artifact import MANIFEST_FILE, Store
from parakeet.errors import ParakeetError
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.trace.index import TraceIndex
from parakeet.trace.stage import TraceIndexStage
from parakeet.training.job import JOB_FILE, read_job

BUILD = "parakeet index build --recipe FILE"


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on, as it records it."""

    shards_content: str
    """Content digest of the token shards."""
    recipe: str
    """The recipe's name; may be empty."""


def index_of_model(folder: Path, root: Path, tokenizer_sha256: str) -> TraceIndex:
    """The index of the text that a model was trained on: a release, a checkpoint of a run, or the stage's artefact.

    Raises ParakeetError, which says what to run, if there is none, if it is of other text or of another tokenizer than
    the model's, or if it was changed after it was made.
    """
    trained = trained_on(folder)
    store = Store(root)
    fitting = store.artifacts(TraceIndexStage.name, token_shards=trained.shards_content)
    called = f" (it is called {trained.recipe})" if trained.recipe else ""
    recipe = f"with the recipe file that the model was built from{called}: {BUILD}"
    if not fitting:
        others = [one.manifest["inputs"].get("token_shards") for one in store.artifacts(TraceIndexStage.name)]
        there = f" (the one here was made from {others[-1]['content']})" if others and others[-1] else ""
        raise ParakeetError(
            f"{folder} was trained on token shards {trained.shards_content}, and no trace index here was made from "
            f"them{there}. Make it {recipe}"
        )
    artifact = fitting[-1]
    artifact.check()
    index = TraceIndex.open(artifact.path)
    if index.tokenizer_hash != tokenizer_sha256:
        raise ParakeetError(
            f"{artifact.path} was made with tokenizer {index.tokenizer_hash}, and {folder} has {tokenizer_sha256}. "
            f"Make the index again {recipe} --force"
        )
    return index


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
            return TrainedOn(str(values["shards_content"]), str(values["recipe"].get("name", "")))
        values = json.loads(path.read_text(encoding="utf-8"))
        if path.name == MANIFEST_FILE:
            return TrainedOn(str(values["inputs"]["token_shards"]["content"]), "")
        if "imported_from" in values:
            raise ParakeetError(f"{folder} is an imported model: the text that it was trained on is not here.")
        return TrainedOn(str(values["stages"]["token_shards"]["content"]), str(values["recipe"]["name"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{path} does not tell what the model was trained on ({error!r}).") from None
