"""What a recipe's keys have to do with fingerprints: new keys change none, changed values and defaults always do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from parakeet.recipe import Recipe, Training
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import (
    BucketSource,
    CopySettings,
    DownloadSource,
    FileSource,
    HubSource,
    MixSettings,
    RandomSource,
    SyntheticSource,
    settings_of,
)
from parakeet.stages import stages_of
from parakeet.training.changeable import CHANGEABLE, PLANNED, STARTED_FROM

RECORDED = Path(__file__).with_name("recipe_defaults.json")
READ_BY_NO_STAGE = {"executor", "notify", "original", "retraining"}
"""`executor` says where stages run, `notify` who is told, `retraining` how another recipe is derived. Of `original`,
its stage reads the file name alone."""


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those inside it."""
    yield model
    for field in model.model_fields.values():
        for found in _inside(field.annotation):
            yield from models(found)


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def defaults() -> dict[str, Any]:
    """Every key that has a default, as `Model.key`."""
    found: dict[str, Any] = {}
    for model in models(Recipe):
        for name, field in model.model_fields.items():
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                found[f"{model.__name__}.{name}"] = (
                    "its own defaults" if isinstance(value, BaseModel) else json.loads(json.dumps(value, default=str))
                )
    return found


def test_a_changed_default_comes_with_a_raised_version() -> None:
    """Fingerprints leave out keys that equal their default, so a changed default must be a changed version.

    A new key is added to recipe_defaults.json. For a changed default, raise `version` of each stage that reads the key
    and write the new versions there too.
    """
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    now = {"versions": {stage.name: stage.version for stage in stages_of(load_recipe("demo"))}, "defaults": defaults()}
    changed = {key for key, value in recorded["defaults"].items() if now["defaults"].get(key, value) != value}
    assert changed == set(), "raise the version of the stages that read these keys, then record both"
    assert now == recorded, f"write this into {RECORDED.name}: {json.dumps(now)}"


def base() -> dict[str, Any]:
    """The demo with a source and an evaluation set of files, so that each list has something to change."""
    values = load_recipe("demo").model_dump(mode="json")
    values["sources"].append({"kind": "files", "name": "notes", "path": str(RECORDED)})
    values["decontamination"]["sets"] = [{"kind": "files", "name": "tested", "path": str(RECORDED)}]
    return values


def all_settings(values: dict[str, Any]) -> str:
    recipe = Recipe.model_validate(values)
    return json.dumps({stage.name: stage.settings(recipe) for stage in stages_of(recipe)}, sort_keys=True)


OTHER_VALUES: dict[str, Any] = {
    "clean.boilerplate": "drop",
    "clean.personal_data": "mask",
    "clean.languages": ["en"],
    "clean.repetition": None,
    "clean.quality": {},
    "decontamination.words": 12,
    "tokenizer.kind": "cl100k_base",
    "shards.loss_on": "all",
    "training.then": [{"batch_tokens": 2048, "share": 0.25}],
    "packing.then": [{"sequence_length": 512, "share": 0.25}],
    "training.optimizer": "adamw",
    "training.momentum_precision": "bf16",
    "training.goldfish": 4,
    "training.precision": "bf16",
    "training.residual": "bf16",
    "training.batch_tokens": 2048,
    "training.micro_batch_tokens": 256,
    "model.heads": 16,
    "model.width": 512,
    "evaluation.prompts": ["Hello!"],
    "evaluation.benchmarks": {"data": "benchmarks", "tasks": ["piqa"]},
    "packing.sequence_length": 128,
    "packing.replay": {"share": 0.3, "of": "0" * 64},
    "training.decay": "sqrt",
}


def other_value(key: str, value: Any) -> Any:
    """A valid value that differs from the one that the demo has."""
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.5
    raise AssertionError(f"name another value for {key} in OTHER_VALUES")


SECTIONS = (
    "clean",
    "deduplication",
    "tokenizer",
    "shards",
    "packing",
    "model",
    "training",
    "evaluation",
    "gates",
    "generation",
)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_changes_a_fingerprint(section: str) -> None:
    values = base()
    before = all_settings(values)
    unseen = set()
    for key, value in values[section].items():
        name = f"{section}.{key}"
        if section == "training" and (key == STARTED_FROM or (key in CHANGEABLE and key not in PLANNED)):
            continue
        changed = {**values, section: {**values[section], key: other_value(name, value)}}
        if all_settings(changed) == before:
            unseen.add(name)
    assert unseen == set()


def test_all_sections_are_looked_at() -> None:
    named = {"name", "description", "sources", "limit", "decontamination", "canaries"}
    assert set(Recipe.model_fields) == {*SECTIONS, *named, *READ_BY_NO_STAGE}


@pytest.mark.parametrize("kind", [FileSource, DownloadSource, HubSource, BucketSource, SyntheticSource, RandomSource])
def test_every_key_of_a_source_is_read_by_some_stage(kind: type[BaseModel]) -> None:
    """The stage that fetches it, `documents`, deduplication, or the packing plan."""
    examples: dict[type[BaseModel], dict[str, Any]] = {
        FileSource: {"path": "a.txt"},
        DownloadSource: {"kind": "download", "files": [{"url": "https://example.org/a.txt"}]},
        HubSource: {"kind": "hub", "dataset": "me/set", "files": ["*"]},
        BucketSource: {"kind": "bucket", "path": "s3://bucket/a.txt"},
        SyntheticSource: {"kind": "synthetic"},
        RandomSource: {"kind": "random", "documents": 100},
    }
    others: dict[str, Any] = {
        "licence": "MIT",
        "priority": 1,
        "near_duplicates": kind is RandomSource,
        "weight": 2.0,
        "epochs": 2.0,
        "columns": {"text": "body"},
        "speakers": {"bing": "assistant"},
        "bad_records": 0.05,
        "separator": "---",
        "files": [{"url": "https://example.org/b.txt"}] if kind is DownloadSource else ["*.txt"],
        "dataset": "me/other",
        "revision": "v2",
        "path": "s3://bucket/b.txt",
        "endpoint": "https://example.org",
        "as_of": "2026-11-22",
        "anonymous": True,
        "documents": 200,
        "symbols": 32,
        "alphabet": 16,
        "seed": 2,
    }
    values = base() | {"sources": [{"name": "a", **examples[kind]}]}
    before = all_settings(values)
    for key in sorted(
        set(kind.model_fields) - {"name", "kind", "forecast"} - ({"path"} if kind is FileSource else set())
    ):
        source = {"name": "a", **examples[kind], key: others[key]}
        assert all_settings(values | {"sources": [source]}) != before, key


def test_a_new_key_with_a_default_changes_no_fingerprint_and_its_other_values_do() -> None:
    class NewTraining(Training):
        invented: int = 3

    demo = load_recipe("demo")
    updated = demo.model_copy(update={"training": NewTraining(**demo.training.model_dump())})
    used = demo.model_copy(update={"training": NewTraining(**demo.training.model_dump(), invented=4)})

    def of(recipe: Recipe) -> dict[str, Any]:
        return {stage.name: stage.settings(recipe) for stage in stages_of(recipe)}

    assert of(updated) == of(demo)
    assert {name for name, settings in of(used).items() if settings != of(demo)[name]} == {"checkpoint"}


def test_settings_take_what_differs_and_only_the_part_that_is_asked_for() -> None:
    source = FileSource(name="a", path="a.txt", priority=2, weight=1.0)
    assert settings_of(source, part=CopySettings) == {"priority": 2}
    assert settings_of(source, part=MixSettings) == {"weight": 1.0}
    assert settings_of(source, without={"path", "name"}) == {"priority": 2, "weight": 1.0}


def test_canaries_change_a_fingerprint_and_so_does_each_of_their_keys() -> None:
    of = [
        all_settings(base() | {"canaries": values})
        for values in (None, {}, {"seed": 2}, {"count": 3}, {"copies": [1, 3]})
    ]
    assert len(set(of)) == len(of)
    assert of[0] == all_settings(base())
