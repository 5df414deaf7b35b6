"""Stores of Parakeet 0.1 (before 27 November 2026), read for one version: how it named artefacts and runs.

Its fingerprints and keys covered every setting, defaults included. They are computed here from the settings that it
had, under the names they had then, so that what it made is found and not built again. Delete this module with the
next version.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from parakeet.artifact import Artifact
from parakeet.recipe import Recipe
from parakeet.recipe_sources import DownloadSource, Section, remote_sources

_RENAMED = {"sequence_length": "row_tokens", "activation_checkpointing": "recompute"}
_KEYS = {
    "Repetition": "min_words duplicate_lines duplicate_paragraphs duplicate_line_characters "
    "duplicate_paragraph_characters top_phrases duplicate_phrases",
    "Quality": "min_words max_words min_mean_word_length max_mean_word_length max_symbols max_bullet_lines "
    "max_ellipsis_lines min_alphabetic_words min_stop_words",
    "Clean": "min_characters max_characters mojibake boilerplate personal_data languages repetition quality",
    "Deduplication": "shingle_words buckets hashes_per_bucket min_words turns held_out_fraction",
    "TokenizerSettings": "kind vocabulary",
    "Shards": "loss_on shard_bytes min_held_out_bytes",
    "LaterSequences": "row_tokens share",
    "Packing": "row_tokens then seed",
    "ModelSettings": "layers heads width context dropout",
    "Training": "tokens batch_tokens micro_batch_tokens learning_rate warmup_steps decay_fraction optimizer "
    "weight_decay beta1 beta2 gradient_clip z_loss precision residual attention recompute compile processes seed "
    "checkpoint_steps keep_checkpoints keep_every validation_tokens tensorboard threads device",
    "Evaluation": "questions_per_task max_bytes position_tokens prompts",
    "Generation": "temperature top_k top_p min_p repetition_penalty frequency_penalty presence_penalty max_tokens",
    "Columns": "text human assistant system messages alternating role content",
    "RemoteFile": "url drive_id file_name sha256 n_bytes",
    "Forecast": "rows download_bytes content_bytes",
    "FileSource": "name licence priority near_duplicates weight epochs columns separator forecast kind path",
    "DownloadSource": "name licence priority near_duplicates weight epochs columns separator forecast kind files",
    "HubSource": "name licence priority near_duplicates weight epochs columns separator forecast kind dataset "
    "revision files",
    "BucketSource": "name licence priority near_duplicates weight epochs columns separator forecast kind path "
    "endpoint anonymous",
    "SyntheticSource": "name licence priority near_duplicates weight epochs kind documents seed",
}
_VERSIONS = {
    "documents": (2, 3),
    "clean_documents": (2, 3),
    "deduplicated_documents": (2, 3),
    "tokenizer": (2, 2),
    "token_shards": (2, 2),
    "packing_plan": (3, 3),
    "data_card": (1, 2),
    "checkpoint": (1, 1),
    "evaluation": (2, 3),
    "release": (1, 2),
    "original_model": (1, 2),
    "source_files": (2, 2),
}
"""The version that a stage had in 0.1, and the newest one whose artefacts may still be those of 0.1."""
_DECIDED_WHILE_RUNNING = {
    *("micro_batch_tokens", "attention", "recompute", "compile", "processes", "checkpoint_steps", "keep_checkpoints"),
    *("keep_every", "validation_tokens", "tensorboard", "threads", "device"),
}
_PLACE = {"url", "drive_id", "sha256", "n_bytes", "files", "dataset", "revision", "endpoint", "anonymous"}


def with_new_keys(values: Any) -> Any:
    """JSON values that 0.1 wrote, with the keys that were renamed since under their new names."""
    if isinstance(values, list):
        return [with_new_keys(item) for item in values]
    if isinstance(values, dict):
        names = {old: new for new, old in _RENAMED.items()}
        return {names.get(key, key): with_new_keys(value) for key, value in values.items()}
    return values


class _UnknownTo01(Exception):
    """The recipe has a kind of source that 0.1 did not know, or sets a key that 0.1 did not have."""


def earlier_fingerprint(
    stage: str,
    version: int,
    settings: Mapping[str, Any],
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    files: Mapping[str, str],
) -> tuple[str, int] | None:
    """The fingerprint that 0.1 gave a stage's artefact for this recipe, and the stage's version then.

    `version` is the oldest one whose artefacts the stage still uses. None if 0.1 cannot have made it: the stage has
    changed since (its `version`, or a metric's in its `settings`), or the recipe uses a setting that 0.1 did not have.
    """
    kind = stage.partition("/")[0]
    earlier, newest = _VERSIONS.get(kind, (0, 0))  # a stage that 0.1 did not have
    if version > newest or "metrics" in settings:
        return None
    try:
        then = _source_files(stage, recipe) if kind != stage else _SETTINGS[stage](recipe)
    except _UnknownTo01:
        return None
    key = {
        "stage": stage,
        "version": earlier,
        "settings": then,
        "inputs": {name: artifact.content for name, artifact in inputs.items()},
        "files": dict(files),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16], earlier


def earlier_run_key(recipe: Recipe, inputs: Mapping[str, Artifact], plan_digests: Mapping[str, str]) -> str | None:
    """The key that 0.1 gave a training run, or None if 0.1 cannot have begun it.

    `plan_digests` has the plan of the first sequence length only.
    """
    try:
        # What an unfinished run may change, 0.1's too, although 0.1 had no key for it.
        training = _values(recipe.training, {"decay", "then"})
        packing, model = _values(recipe.packing), _values(recipe.model)
    except _UnknownTo01:
        return None
    without = {*_DECIDED_WHILE_RUNNING, "tokens", "decay_fraction"}
    content: dict[str, Any] = {name: artifact.content for name, artifact in inputs.items()}
    values = {
        "model": model,
        "training": _without(training, without),
        "packing": {key: packing[key] for key in ("row_tokens", "seed")},
        "inputs": content | {"packing_plan": dict(plan_digests)},
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _values(section: Section, ignored: Collection[str] = ()) -> dict[str, Any]:
    """A section as 0.1 wrote it in full. Raises _UnknownTo01 if it uses a key that 0.1 lacked, and not `ignored`."""

    def plain(value: Any) -> Any:
        if isinstance(value, Section):
            return _values(value)
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return value

    kind = type(section).__name__
    if kind not in _KEYS:
        raise _UnknownTo01(kind)
    known = _KEYS[kind].split()
    values = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if (name := _RENAMED.get(key, key)) in known:
            values[name] = plain(value)
        elif key not in ignored and value != field.get_default(call_default_factory=True):
            raise _UnknownTo01(key)
    return values


def _without(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _documents(recipe: Recipe) -> dict[str, Any]:
    not_read = {"priority", "near_duplicates", "path", "weight", "epochs", "forecast", *_PLACE}
    return {
        "sources": [_without(_values(source), not_read) for source in recipe.sources],
        "questions_per_task": recipe.evaluation.questions_per_task,
        "limit": recipe.limit,
    }


def _cleaning(recipe: Recipe) -> dict[str, Any]:
    sets = [_values(chosen) for chosen in recipe.decontamination.sets]
    sets = [{key: chosen[key] for key in ("name", "columns", "separator")} for chosen in sets]
    return {"clean": _values(recipe.clean), "decontamination": {"sets": sets, "words": recipe.decontamination.words}}


def _deduplication(recipe: Recipe) -> dict[str, Any]:
    sources = [_values(source) for source in recipe.sources]
    copies = {s["name"]: {key: s[key] for key in ("priority", "near_duplicates")} for s in sources}
    return {"deduplication": _values(recipe.deduplication), "sources": copies}


def _plan(recipe: Recipe) -> dict[str, Any]:
    if recipe.packing.replay is not None:
        raise _UnknownTo01("replay")
    sources = [_values(source) for source in recipe.sources]
    mix = {source["name"]: {key: source[key] for key in ("weight", "epochs")} for source in sources}
    return {"row_tokens": sorted(set(recipe.packing.lengths)), "mix": mix}


def _token_shards(recipe: Recipe) -> dict[str, Any]:
    if recipe.canaries is not None:
        raise _UnknownTo01("canaries")
    return {"shards": _values(recipe.shards), "sources": sorted(source.name for source in recipe.sources)}


def _card(recipe: Recipe) -> dict[str, Any]:
    parts = (_documents(recipe), _cleaning(recipe), _deduplication(recipe), _plan(recipe))
    data = {key: value for part in parts for key, value in part.items() if key != "sources"}
    described = {source.name: _without(_values(source), {"path"}) for source in recipe.sources}
    values = {"shards": _values(recipe.shards), "tokenizer": _values(recipe.tokenizer)}
    return {"name": recipe.name, "description": recipe.description, **values, **data, "sources": described}


_SETTINGS: dict[str, Callable[[Recipe], dict[str, Any]]] = {
    "documents": _documents,
    "clean_documents": _cleaning,
    "deduplicated_documents": _deduplication,
    "tokenizer": lambda recipe: {"tokenizer": _values(recipe.tokenizer)},
    "token_shards": _token_shards,
    "packing_plan": _plan,
    "data_card": _card,
    "checkpoint": lambda recipe: {
        "model": _values(recipe.model),
        "packing": _values(recipe.packing),
        "training": _without(_values(recipe.training), _DECIDED_WHILE_RUNNING),
    },
    "evaluation": lambda recipe: {
        # Stages after it read `trace_index`.
        "evaluation": _values(recipe.evaluation, {"trace_index"}),
        "row_tokens": recipe.packing.sequence_length,
        "longest_row_tokens": max(recipe.packing.lengths),
        "min_held_out_bytes": recipe.shards.min_held_out_bytes,
    },
    "release": lambda recipe: {
        "name": recipe.name,
        "description": recipe.description,
        "generation": _values(recipe.generation),
        "licences": {source.name: source.licence for source in recipe.sources},
    },
    "original_model": lambda recipe: {"file_name": recipe.original.file_name},
}


def _source_files(stage: str, recipe: Recipe) -> dict[str, Any]:
    name = stage.partition("/")[2]
    sets = recipe.decontamination.sets
    source = next(s for s in remote_sources([*recipe.sources, *sets]) if s.name == name)
    read = ("url", "drive_id", "files", "dataset", "revision", "path", "endpoint", "kind", "anonymous")
    values = {key: value for key, value in _values(source).items() if key in read}
    if isinstance(source, DownloadSource):
        values["files"] = [_without(file, {"sha256", "n_bytes"}) for file in values["files"]]
    return {"source": values, "limit": 1.0 if any(chosen.name == name for chosen in sets) else recipe.limit}
