"""What a study is: a base recipe, the settings that vary, seeds, and what is measured. One YAML file each.

A study has axes (named points, each a few settings) and arms (a grid of axes, with settings of its own). A scale cuts
it to a budget: it keeps some points and seeds, and may set what all runs share.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from parakeet.errors import ParakeetError, os_reason
from parakeet.recipe import Recipe
from parakeet.recipe_changes import changed
from parakeet.recipe_file import load_recipe, yaml_reason
from parakeet.recipe_sources import Section
from parakeet.studies.measures import MEASURES, versions

Settings = dict[str, Any]
"""Dotted keys of a recipe, as --set takes them, and their values."""

SCALES = ("smoke", "cpu", "night", "gpu")
SEED_KEYS = ("training.seed", "packing.seed")
"""What a seed of a study sets: the initial weights, and the order of the sequences."""
STAGES_TO_ASK_FOR = ("memorisation",)


class Arm(Section):
    """A grid: every combination of the points of its axes."""

    axes: list[str] = Field(min_length=1)
    """Its axes."""
    recipe: str | None = None
    """The recipe that its runs are made from, if another one than the study's. --data and --set do not change it."""
    settings: Settings = {}
    """What its runs have in common."""
    seeds: list[int] | None = None
    """Seeds, if other ones than the study's."""


class Scale(Section):
    """A study cut to a budget."""

    minutes: float | None = Field(default=None, gt=0)
    """Longest time on the machine that the scale is for; null has none."""
    gpu: str = ""
    """The GPU that the scale is planned for; empty means two CPU cores."""
    settings: Settings = {}
    """What all runs have in common at this scale."""
    seeds: list[int] | None = Field(default=None, min_length=1)
    """Seeds, if other ones than the study's."""
    arms: list[str] | None = None
    """The arms that are run; null runs all."""
    points: dict[str, list[str]] = {}
    """The points of an axis that are run; an axis without an entry keeps all."""


class StudyFile(Section):
    """The file of a study."""

    title: str = Field(min_length=1)
    """The question, in a few words."""
    question: str = Field(min_length=1)
    """What is asked and how it is answered, in a sentence or two."""
    recipe: str = "study"
    """The recipe that all runs are made from."""
    measures: list[str] = Field(min_length=1)
    """What is measured of each model."""
    stages: list[str] = []
    """Stages of an ordinary build that each run also makes: memorisation."""
    limit: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the recipe's text to use."""
    settings: Settings = {}
    """What all runs have in common."""
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1)
    """Each run is trained once with each seed: of the weights, and of the order of the text."""
    axes: dict[str, dict[str, Settings]]
    """What varies: by axis, the settings of each point."""
    arms: dict[str, Arm]
    """Grids over axes."""
    forecast: dict[str, list[str]] = {}
    """Points of an axis that are trained last, after they were forecast from all others."""
    scales: dict[str, Scale]
    """The sizes in which the study can be run."""

    @field_validator("measures")
    @classmethod
    def _known_measures(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in MEASURES:
                raise ValueError(f"there is no measure {name}; the measures are {', '.join(MEASURES)}")
        return names

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in STAGES_TO_ASK_FOR:
                raise ValueError(f"there is no stage {name} to ask for; there are {', '.join(STAGES_TO_ASK_FOR)}")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyFile":
        for name, arm in self.arms.items():
            for axis in arm.axes:
                if axis not in self.axes:
                    raise ValueError(f"arm {name}: there is no axis {axis}; the axes are {', '.join(self.axes)}")
        for name, scale in self.scales.items():
            if name not in SCALES:
                raise ValueError(f"there is no scale {name}; the scales are {', '.join(SCALES)}")
            for arm_name in scale.arms or []:
                if arm_name not in self.arms:
                    raise ValueError(f"scale {name}: there is no arm {arm_name}; they are {', '.join(self.arms)}")
        for where, points in [
            ("forecast", self.forecast), *((f"scale {name}", scale.points) for name, scale in self.scales.items())
        ]:  # fmt: skip
            for axis, labels in points.items():
                known = self.axes.get(axis, {})
                for label in labels:
                    if label not in known:
                        raise ValueError(f"{where}: axis {axis} has no point {label}; it has {', '.join(known)}")
        return self


@dataclass(frozen=True)
class StudyRun:
    """One training of a study, and what identifies it."""

    arm: str
    points: Mapping[str, str]
    """The label of its point on each axis of the arm."""
    seed: int
    recipe: Recipe
    is_forecast: bool
    """Whether it is trained last, after it was forecast."""

    @property
    def name(self) -> str:
        """`equal_tokens.64x2.s1`: unique in its study and scale."""
        return ".".join(_words(self.arm, self.points, self.seed))


@dataclass(frozen=True)
class Study:
    """A study at one scale, with the recipe that its runs are made from."""

    name: str
    file: StudyFile
    scale_name: str
    base: Recipe

    @property
    def scale(self) -> Scale:
        return self.file.scales[self.scale_name]

    @property
    def seeds(self) -> list[int]:
        return self.scale.seeds or self.file.seeds

    def runs(self) -> list[StudyRun]:
        """Every run, in the order of training: each point with all its seeds; forecast ones last.

        Runs of one seed that differ in training.tokens alone share a folder, so they wait for each other: side by side
        are those of different seeds. Raises ParakeetError if a setting does not fit the recipe.
        """
        found: list[StudyRun] = []
        for arm_name in self.scale.arms or self.file.arms:
            arm = self.file.arms[arm_name]
            labels = [self.scale.points.get(axis) or list(self.file.axes[axis]) for axis in arm.axes]
            for combination in product(*labels):
                points = dict(zip(arm.axes, combination, strict=True))
                for seed in self.scale.seeds or arm.seeds or self.file.seeds:
                    found.append(self._run(arm_name, points, seed))
        return sorted(found, key=lambda run: run.is_forecast)

    def key(self, run: StudyRun) -> str:
        """First 16 hex digits of a sha256 over what decides a run's record: its recipe and what is measured."""
        values = run.recipe.model_dump(mode="json", exclude={"name", "description"}, exclude_defaults=True)
        asked = {"recipe": values, "measures": versions(self.file.measures), "stages": self.file.stages}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _limited(self) -> Recipe:
        return self.base.model_copy(update={"limit": self.file.limit * self.base.limit})

    def _run(self, arm_name: str, points: Mapping[str, str], seed: int) -> StudyRun:
        arm = self.file.arms[arm_name]
        of_points: Settings = {}
        for axis, label in points.items():
            of_points |= self.file.axes[axis][label]
        settings = {
            **self.file.settings,
            **self.scale.settings,
            **arm.settings,
            **of_points,
            **dict.fromkeys(SEED_KEYS, seed),
        }
        name = ".".join((self.name, *_words(arm_name, points, seed)))
        try:
            base = load_recipe(arm.recipe) if arm.recipe else self._limited
            recipe = changed(base, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
            recipe = Recipe.model_validate({**recipe.all_values(), "name": name, "description": self.file.title})
        except (ParakeetError, ValidationError) as error:
            reason = str(error).removeprefix("--set ")
            raise ParakeetError(f"Study {self.name}, run {name.partition('.')[2]}: {reason}") from None
        is_forecast = any(label in self.file.forecast.get(axis, []) for axis, label in points.items())
        return StudyRun(arm_name, points, seed, recipe, is_forecast)


def _words(arm: str, points: Mapping[str, str], seed: int) -> list[str]:
    """The parts of a run's name, of the letters that a recipe's name may have."""
    return [re.sub(r"[^A-Za-z0-9_-]+", "-", word) for word in (arm, *points.values(), f"s{seed}")]


def shipped_studies() -> dict[str, Path]:
    """Names and files of the studies that come with Parakeet."""
    folder = Path(str(resources.files("parakeet.studies")))
    order = ("size", "saturation", "memorisation", "attention")
    found = {path.stem: path for path in folder.glob("*.yaml")}
    return {name: found[name] for name in (*order, *sorted(found.keys() - set(order))) if name in found}


def load_study_file(name_or_path: str) -> tuple[str, StudyFile]:
    """The name and the content of a shipped study, or of a file. Raises ParakeetError with the file and the key."""
    shipped = shipped_studies()
    path = shipped.get(name_or_path, Path(name_or_path))
    if name_or_path not in shipped and not path.is_file():
        close = difflib.get_close_matches(name_or_path, shipped, n=1)
        hint = f": did you mean {close[0]}?" if close else "."
        raise ParakeetError(f"There is no study {name_or_path!r}{hint} Give a file, or one of: {', '.join(shipped)}.")
    try:
        return path.stem, parse_study_file(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ParakeetError(f"{path}: cannot be read as a study: {os_reason(error)}.") from None
    except UnicodeDecodeError:
        raise ParakeetError(f"{path}: cannot be read as a study: it is not UTF-8.") from None


def parse_study_file(text: str, path: Path) -> StudyFile:
    """The content of a study. Raises ParakeetError with the file and the key."""
    try:
        return StudyFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise ParakeetError(f"{path}: cannot be read as a study: {yaml_reason(error)}") from None
        lines = [_fault(path, problem) for problem in error.errors()]
        raise ParakeetError("\n".join(lines)) from None


def _fault(path: Path, problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = list(StudyFile.model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{path}: unknown key {key}" + (f": did you mean {close[0]}?" if close else ".")
    return f"{path}: {key + ': ' if key else ''}{problem['msg'].removeprefix('Value error, ')}"


def make_study(name_or_path: str, scale: str, base: Recipe | None = None) -> Study:
    """A study at a scale, made from `base` in place of its recipe. ParakeetError if there is no such study or scale."""
    name, file = load_study_file(name_or_path)
    if scale not in file.scales:
        raise ParakeetError(f"Study {name} has no scale {scale!r}. It has: {', '.join(file.scales)}.")
    return Study(name, file, scale, load_recipe(file.recipe) if base is None else base)
