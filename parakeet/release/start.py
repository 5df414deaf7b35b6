"""Finds the model that `training.start` of a recipe means. Imports no torch."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact, Store
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, models_folder, release_folder
from parakeet.model.config import OMITTED, WEIGHTS_FILE, ModelConfig
from parakeet.recipe import LATEST, ORIGINAL_MODEL, Recipe
from parakeet.release.listing import find_model, preferred, released_models
from parakeet.release.pointers import find_opened, incumbent
from parakeet.release.verify import SUMS_FILE, TRAINING_MANIFEST_FILE, open_release, recorded_sum
from parakeet.tokenizer import Tokenizer
from parakeet.training.job import CHECKPOINT_PATTERN, JOB_FILE, STATE_FILE, TrainingJob, read_job
from parakeet.training.start import KEY, Kind, Start, differences, tokenizer_settings, trains_alike, with_start
from parakeet.training.state_file import read_values


def find_start(recipe: Recipe, root: Path) -> Start | None:
    """The model that the recipe's training begins with; None if it begins with random weights.

    Raises ParakeetError if there is no such model, if a file of it was changed, or if it does not fit the recipe.
    """
    folder = _folder(recipe, root)
    if folder is None:
        return None
    start = read_start(folder, root)
    if different := differences(recipe, start):
        raise ParakeetError(
            f"{KEY}: {start.folder} ({start.kind} {start.model}) does not fit recipe {recipe.name}: "
            f"{'; '.join(text for text, _ in different)}. Set "
            f"{', '.join(f'{key} to {value}' for _, fix in different for key, value in fix.items())}, "
            f"or choose other weights."
        )
    return start


def pinned(recipe: Recipe, root: Path) -> Recipe:
    """The recipe with the folder of its start in place of a word or a name, which may mean another model later."""
    folder = _folder(recipe, root)
    return recipe if folder is None else with_start(recipe, str(folder))


def shape_of_start(recipe: Recipe, root: Path) -> dict[str, Any]:
    """The shape, context and tokenizer of the recipe's start, by dotted key; empty if it has none."""
    folder = _folder(recipe, root)
    if folder is None:
        return {}
    start = read_start(folder, root)
    shape = {f"model.{key}": getattr(start.config, key) for key in ("layers", "heads", "width", "context")}
    for key in OMITTED:
        if (there := getattr(start.config, key)) != getattr(recipe.model, key):
            shape[f"model.{key}"] = there
    return shape | tokenizer_settings(start)


def read_start(folder: Path, root: Path) -> Start:
    """The model in a folder: a release, an imported checkpoint, or a checkpoint of a run.

    Raises ParakeetError if it is none of these, or if one of its files is missing or was changed.
    """
    try:
        if (folder / SUMS_FILE).is_file():
            return _consistent(_read_release(folder, root))
        if (folder / STATE_FILE).is_file():
            return _consistent(_read_checkpoint(folder, root))
    except OSError as error:
        raise ParakeetError(f"{KEY}: {folder} cannot be read: {error.strerror or error}.") from None
    except ParakeetError as error:
        raise ParakeetError(f"{KEY}: {error}") from None
    raise ParakeetError(f"{KEY}: {_what_it_is(folder, root)}")


def _read_release(folder: Path, root: Path) -> Start:
    release = open_release(folder, HashCache(hashes_file(root)).sha256_for_reader)
    manifest = _json(folder / TRAINING_MANIFEST_FILE)
    imported = "imported_from" in manifest
    kind: Kind = "release"
    if imported:
        kind = "original model" if folder.parent.name == ORIGINAL_MODEL else "imported model"
    trained = _part(_part(_part(manifest, "stages"), "checkpoint"), "counts").get("tokens")
    before = _part(manifest, "start")
    return Start(
        kind=kind,
        folder=folder,
        model=release.name,
        config=ModelConfig.load(folder),
        tokenizer_folder=folder,
        weights_sha256=release.weights_sha256,
        tokenizer=Tokenizer.load(folder),
        tokens=_total(trained, before),
        earlier=_chain(before),
        recipe=_part(manifest, "recipe"),
    )


def _read_checkpoint(folder: Path, root: Path) -> Start:
    run = folder.parent
    if not (run / JOB_FILE).exists():
        raise ParakeetError(
            f"{folder} is the checkpoint of a run outside of its run's folder: {run} has no {JOB_FILE}, which knows "
            "the model's shape and tokenizer. Name the checkpoint in its run's folder, or copy that file there."
        )
    job = TrainingJob.load(run / JOB_FILE)
    recorded = _part(read_job(run / JOB_FILE), "recipe")  # of an early Parakeet, without the text
    state = read_values(folder)
    expected = str(state["files"][WEIGHTS_FILE])
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ParakeetError(f"{weights} is missing: the checkpoint is incomplete. Choose another one.")
    if HashCache(hashes_file(root)).sha256_for_reader(weights) != expected:
        raise ParakeetError(f"{weights} was changed after it was written. Choose another checkpoint.")
    tokenizer_folder = job.tokenizer_in(run)
    tokenizer = Tokenizer.load(tokenizer_folder)
    before = job.start or {}
    return Start(
        kind="checkpoint",
        folder=folder,
        model=f"{job.recipe.name} at step {state['step']:,}",
        config=ModelConfig.from_recipe(job.recipe.model, tokenizer.rows),
        tokenizer_folder=tokenizer_folder,
        weights_sha256=expected,
        tokenizer=tokenizer,
        tokens=_total(state["tokens"], before),
        earlier=_chain(before),
        recipe=recorded if "name" in recorded else {},
    )


def _total(tokens: Any, before: Mapping[str, Any]) -> int | None:
    """Tokens of a training and of all before it; None if those of one are unknown."""
    of_start = before.get("tokens") if before else 0
    return tokens + of_start if isinstance(tokens, int) and isinstance(of_start, int) else None


def _chain(before: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A model's own start and those before it, without the nesting."""
    if not before:
        return ()
    return ({key: value for key, value in before.items() if key != "earlier"}, *before.get("earlier", ()))


def _consistent(start: Start) -> Start:
    if start.tokenizer.rows != start.config.vocabulary_rows:
        raise ParakeetError(
            f"{start.folder} is no usable model: its tokenizer needs {start.tokenizer.rows:,} embedding rows, "
            f"and its weights have {start.config.vocabulary_rows:,}."
        )
    return start


def _folder(recipe: Recipe, root: Path) -> Path | None:
    """The folder of the recipe's start. Raises ParakeetError if there is none."""
    named = recipe.training.start
    if named is None:
        return None
    if named == ORIGINAL_MODEL:
        return _original_folder(recipe, root)
    if named == LATEST:
        return _latest_folder(recipe, root)
    path = Path(os.path.expanduser(named))
    if os.sep in named or path.is_absolute():
        return path.resolve()
    try:
        return find_model(root, named).directory.resolve()
    except ParakeetError as error:
        raise ParakeetError(
            f"{KEY} is {named}, which is neither {ORIGINAL_MODEL}, {LATEST} nor none, nor a folder (./{named}). {error}"
        ) from None


def _original_folder(recipe: Recipe, root: Path) -> Path:
    """The newest import of the recipe's original checkpoint."""
    made = [
        artifact
        for artifact in Store(root).artifacts(ORIGINAL_MODEL)
        if artifact.manifest["settings"].get("file_name") == recipe.original.file_name
    ]
    if not made:
        raise ParakeetError(
            f"{KEY} is {ORIGINAL_MODEL}, and the original model has not been imported yet. Run the same build with: "
            f"--select {ORIGINAL_MODEL}. It takes {models_folder(root) / recipe.original.file_name}, or downloads it."
        )
    return made[-1].path.resolve()


def _latest_folder(recipe: Recipe, root: Path) -> Path:
    """The promoted release of the recipe's name, else the one that `parakeet chat` opens.

    If that was trained by this very recipe from another model, that other one: to build again then finds it.
    """
    release = incumbent(root, recipe.name) or find_opened(root)[0]
    if release is None:
        raise ParakeetError(
            f"{KEY} is {LATEST}, and there is no release in {release_folder(root)} yet. Build one first, without "
            f"{KEY}; or name a model's folder."
        )
    folder = release.resolve()
    manifest = _json(folder / TRAINING_MANIFEST_FILE)
    before = _part(manifest, "start")
    if not before or not trains_alike(_part(manifest, "recipe"), recipe):
        return folder
    if (found := folder_of(before, root)) is None:
        raise ParakeetError(
            f"{KEY} is {LATEST}: {folder} was trained by this recipe from {before.get('model')}, which is gone "
            f"({before.get('folder')}). To train on from the release itself, set {KEY} to {folder}"
        )
    return found


def folder_of(facts: Mapping[str, Any], root: Path) -> Path | None:
    """Where the model with these facts is: the recorded folder, or any model in the store with the same weights."""
    wanted = facts.get("weights_sha256")
    if not isinstance(wanted, str):
        return None
    folders = [Path(str(facts.get("folder"))), *(model.directory for model in released_models(root))]
    return next((path.resolve() for path in folders if _recorded_weights(path) == wanted), None)


def _recorded_weights(folder: Path) -> str | None:
    """The sha256 of a model's weights as its folder records it."""
    try:
        if (folder / SUMS_FILE).is_file():
            return recorded_sum(folder, WEIGHTS_FILE)
        return str(read_values(folder)["files"][WEIGHTS_FILE])
    except (OSError, ValueError, KeyError, TypeError, StopIteration, ParakeetError):
        return None


def _what_it_is(folder: Path, root: Path) -> str:
    """Why a path is not a model to start from, and what would be."""
    if not os.path.lexists(folder):
        missing = f"there is no {folder}."
        if made := _trained_from(folder, root):
            missing += (
                f" {made[-1]} was trained from it before it was removed: to talk to that, run parakeet chat --model "
                f"{shlex.quote(str(made[-1]))}; to train on from it, set {KEY} to it."
            )
        return f"{missing} Name the folder of a release, of an imported model, or of a run's checkpoint."
    if folder.is_file():
        return f"{folder} is a file. If it is a checkpoint of the original project: parakeet import {folder}"
    saved = sorted(path.name for path in folder.glob(CHECKPOINT_PATTERN))
    if (folder / JOB_FILE).is_file():
        there = f"It has {', '.join(saved)}" if saved else "It has none yet"
        return f"{folder} is a training run: name one of its checkpoints. {there}."
    if (folder / MANIFEST_FILE).is_file():
        stage = Artifact.open(folder).stage
        return f"{folder} is an artefact of stage {stage}. Name the release that was made of it."
    nothing = f"{folder} holds no model: a release has the file {SUMS_FILE}, a run's checkpoint {STATE_FILE}."
    if same := [model for model in released_models(root) if folder.name in (model.name, model.directory.name)]:
        nothing += f" A model is called {folder.name} too: to start from that, set {KEY} to {preferred(same).directory}"
    return nothing


def _trained_from(folder: Path, root: Path) -> list[Path]:
    """The releases that say that they began with the model in a folder, the oldest first."""
    begun = [
        (model.directory, _part(_json(model.directory / TRAINING_MANIFEST_FILE), "start").get("folder"))
        for model in released_models(root)
    ]
    # The store may have moved since.
    return [path for path, named in begun if isinstance(named, str) and Path(named).parts[-2:] == folder.parts[-2:]]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _part(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
