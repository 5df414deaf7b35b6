"""The model whose weights a training begins with (`training.start`), and what of a recipe it fits. Imports no torch.

`parakeet.release.start` finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from parakeet.model.config import OMITTED, WEIGHTS_FILE, ModelConfig
from parakeet.recipe import LEAST_VOCABULARY, Recipe
from parakeet.tokenizer import SETTINGS_FILE, VOCABULARY_FILE, Tokenizer
from parakeet.training.changeable import CHANGEABLE, PLANNED, STARTED_FROM

Kind = Literal["original model", "imported model", "release", "checkpoint"]

KEY = "training.start"
CL100K = "cl100k_base"
HELD_OUT = "deduplication.held_out_fraction"


@dataclass(frozen=True)
class Start:
    """A model to begin with, its files compared with the hashes that were recorded of them.

    `folder` holds its weights, `tokenizer_folder` its tokenizer. `tokens` were trained on so far, its own start's
    included; None if nobody knows. `earlier` has the facts of its own start, that one's, and so on.
    """

    kind: Kind
    folder: Path
    model: str
    config: ModelConfig
    tokenizer_folder: Path
    weights_sha256: str
    tokenizer: Tokenizer
    tokens: int | None
    earlier: tuple[Mapping[str, Any], ...]
    recipe: Mapping[str, Any]
    """As it was recorded, by section; empty if nobody knows."""

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE

    @property
    def tokenizer_files(self) -> tuple[Path, Path]:
        return self.tokenizer_folder / VOCABULARY_FILE, self.tokenizer_folder / SETTINGS_FILE

    @property
    def tokenizer_kind(self) -> str:
        """As `tokenizer.kind` has it."""
        return CL100K if self.tokenizer.name.startswith(CL100K) else self.tokenizer.name

    def lineage(self) -> dict[str, Any]:
        """Facts for job files and manifests: kind, folder, model, weights_sha256, tokenizer_sha256, tokens, and
        `earlier`, a list of the same facts of the models before it, the latest first."""
        return {
            "kind": self.kind,
            "folder": str(self.folder),
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": self.tokenizer.sha256,
            "tokens": self.tokens,
            "earlier": [dict(facts) for facts in self.earlier],
        }


def differences(recipe: Recipe, start: Start) -> list[tuple[str, dict[str, Any]]]:
    """What of the recipe is not as in the start, in words, and the settings that would be."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in ("layers", "heads", "width"):
        there, here = getattr(start.config, name), getattr(recipe.model, name)
        if there != here:
            found.append((f"{name} {there:,} there, {here:,} in the recipe", {f"model.{name}": there}))
    for name in OMITTED:
        if (one := getattr(start.config, name)) != getattr(recipe.model, name):
            there, here = (str(value).lower() for value in (one, not one))
            found.append((f"{name} {there} there, {here} in the recipe", {f"model.{name}": there}))
    kind, needed = start.tokenizer_kind, vocabulary(start)
    if kind != recipe.tokenizer.kind:
        text = f"tokenizer {kind} of {needed:,} tokens there, {recipe.tokenizer.kind} in the recipe"
        found.append((text, tokenizer_settings(start)))
    elif kind != CL100K and needed > recipe.tokenizer.vocabulary:
        text = f"{needed:,} tokens in its vocabulary, at most {recipe.tokenizer.vocabulary:,} in the recipe's"
        found.append((text, {"tokenizer.vocabulary": needed}))
    if (less := less_held_out(start.recipe, recipe)) is not None:
        share, source = less
        text = (
            f"{share:g} of the text held out there, {recipe.deduplication.held_out_fraction:g} in the recipe, so that "
            f"of source {source} it was trained on text that the new model would be measured on"
        )
        found.append((text, {HELD_OUT: share}))
    return found


def less_held_out(recorded: Mapping[str, Any], recipe: Recipe) -> tuple[float, str] | None:
    """The share that a recorded recipe held out, if it is less than this one's, and a source that both read.

    What is held out is decided by a hash, so the smaller share is a part of the larger one. Generated text has held-out
    parts of its own.
    """
    try:
        share = float(recorded["deduplication"]["held_out_fraction"])
        read = {_place(source) for source in recorded["sources"]}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    same = [source.name for source in recipe.sources if _place(source.model_dump(mode="json")) in read - {None}]
    return (share, same[0]) if same and share < recipe.deduplication.held_out_fraction else None


def _place(source: Mapping[str, Any]) -> str | None:
    """Where a source's text comes from; None for generated text."""
    if source.get("kind") in ("synthetic", "random"):
        return None
    files = [file for file in source.get("files", ()) if isinstance(file, dict)]
    addresses = [str(file.get("url") or file.get("drive_id")) for file in files]
    return str(source.get("path") or source.get("dataset") or addresses)


def tokenizer_settings(start: Start) -> dict[str, Any]:
    kind = start.tokenizer_kind
    made_of_text = {} if kind == CL100K else {"tokenizer.vocabulary": max(vocabulary(start), LEAST_VOCABULARY)}
    return {"tokenizer.kind": kind, **made_of_text}


def vocabulary(start: Start) -> int:
    return len(start.tokenizer.defined_ids())


_TEXT_AND_SHAPE = (
    *("sources", "limit", "clean", "decontamination", "deduplication"),
    *("tokenizer", "shards", "canaries", "packing", "model"),
)


def trains_alike(recorded: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether a recorded recipe trains the same model from the same text, whatever it starts from."""
    try:
        then = Recipe.model_validate(recorded)
    except ValidationError:
        return False
    without = {*(set(CHANGEABLE) - PLANNED), STARTED_FROM}
    alike = all(getattr(then, name) == getattr(recipe, name) for name in _TEXT_AND_SHAPE)
    return alike and then.training.model_dump(exclude=without) == recipe.training.model_dump(exclude=without)


def with_start(recipe: Recipe, start: str) -> Recipe:
    """The recipe with another `training.start`."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"start": start})})
