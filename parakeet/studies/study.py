"""What a study is: a base recipe, the settings that vary, seeds, and what is measured. One YAML file each.

A study has axes (named points, each a few settings) and arms (a grid of axes, with settings of its own). A scale cuts
it to a budget: it keeps some points and seeds, and may set what all runs share or have arms of its own.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from parakeet.errors import ParakeetError, os_reason
from parakeet.recipe import RECIPE_NAME, Recipe
from parakeet.recipe_changes import changed
from parakeet.recipe_file import find_place, load_recipe, mapping_of, shipped_recipes
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
    more_text: float = Field(default=1.0, gt=0.0)
    """How many times as much text as the study takes, up to all of it."""
    seeds: list[int] | None = Field(default=None, min_length=1)
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
    arms: list[str] | None = Field(default=None, min_length=1)
    """The arms that are run; null runs all."""
    own_arms: dict[str, Arm] = {}
    """Arms of this scale alone; one replaces the study's arm of the same name."""
    points: dict[str, list[str]] = {}
    """The points of an axis that are run; an axis without an entry keeps all."""


class Misfit(ValueError):
    """A value that does not fit another one of the file. `location` is its place."""

    def __init__(self, location: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.location = location


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
    """Stages of an ordinary build that each run also makes, if its recipe has them: memorisation."""
    limit: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the recipe's text to use."""
    settings: Settings = {}
    """What all runs have in common."""
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1)
    """Each run is trained once with each seed: of the weights, and of the order of the text."""
    axes: dict[str, Annotated[dict[str, Settings], Field(min_length=1)]]
    """What varies: by axis, the settings of each point."""
    arms: dict[str, Arm] = Field(min_length=1)
    """Grids over axes."""
    forecast: dict[str, list[str]] = {}
    """Points of an axis that are trained last, after they were forecast from all others."""
    scales: dict[str, Scale] = Field(min_length=1)
    """The sizes in which the study can be run."""

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyFile":
        for number, name in enumerate(self.measures):
            _check_known(("measures", number), "measure", name, MEASURES)
        for number, name in enumerate(self.stages):
            _check_known(("stages", number), "stage to ask for", name, STAGES_TO_ASK_FOR)
        for name, scale in self.scales.items():
            _check_known(("scales", name), "scale", name, SCALES)
            for number, arm in enumerate(scale.arms or []):
                _check_known(("scales", name, "arms", number), "arm", arm, {**self.arms, **scale.own_arms})
            self._check_points(("scales", name, "points"), scale.points)
            self._check_axes(("scales", name, "own_arms"), scale.own_arms)
        self._check_axes(("arms",), self.arms)
        self._check_points(("forecast",), self.forecast)
        return self

    def _check_axes(self, place: tuple[str | int, ...], arms: Mapping[str, Arm]) -> None:
        for name, arm in arms.items():
            for number, axis in enumerate(arm.axes):
                _check_known((*place, name, "axes", number), "axis", axis, self.axes)

    def _check_points(self, place: tuple[str | int, ...], points: Mapping[str, Sequence[str]]) -> None:
        for axis, labels in points.items():
            _check_known((*place, axis), "axis", axis, self.axes)
            if not labels:
                raise Misfit((*place, axis), f"no point of axis {axis} is left; leave the line out to keep all")
            for number, label in enumerate(labels):
                _check_known((*place, axis, number), f"point of axis {axis}", label, self.axes[axis])


def _check_known(place: tuple[str | int, ...], what: str, name: str, known: Iterable[str]) -> None:
    """Raise Misfit, with the nearest name or all of them, if `name` is not one of `known`."""
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        raise Misfit(
            place, f"there is no {what} {name!r}" + (f": did you mean {close[0]}?" if close else f"; {_listed(names)}")
        )


def _listed(names: Sequence[str]) -> str:
    return f"known: {', '.join(names)}"


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
    _recipes: dict[str, Recipe] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Those of arms, which are read once."""

    @property
    def scale(self) -> Scale:
        return self.file.scales[self.scale_name]

    @property
    def seeds(self) -> list[int]:
        return self.scale.seeds or self.file.seeds

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms that the scale runs, by name."""
        every = {**self.file.arms, **self.scale.own_arms}
        return {name: every[name] for name in self.scale.arms or every}

    @property
    def cut(self) -> StudyFile:
        """The file with the arms and points of this scale alone."""
        used = {axis for arm in self.arms.values() for axis in arm.axes}
        axes = {
            axis: {label: points[label] for label in self.scale.points.get(axis) or points}
            for axis, points in self.file.axes.items()
            if axis in used
        }
        forecast = {
            axis: kept
            for axis, labels in self.file.forecast.items()
            if (kept := [label for label in labels if label in axes.get(axis, {})])
        }
        scale = self.scale.model_copy(update={"arms": None, "own_arms": {}, "points": {}})
        cut = {"axes": axes, "arms": self.arms, "forecast": forecast, "scales": {self.scale_name: scale}}
        return self.file.model_copy(update=cut)

    def seeds_of(self, arm_name: str) -> list[int]:
        """The seeds of an arm: its own if it is an arm of the scale, else the scale's, the arm's or the study's."""
        arm = self.arms[arm_name]
        own = arm.seeds if arm_name in self.scale.own_arms else None
        return own or self.scale.seeds or arm.seeds or self.file.seeds

    def runs(self) -> list[StudyRun]:
        """Every run, in the order of training: each point with all its seeds; forecast ones last.

        Runs of one seed that differ in training.tokens alone share a folder, so they wait for each other: side by side
        are those of different seeds. Raises ParakeetError if a setting does not fit the recipe, or if two runs have
        one name.
        """
        found = [self._run(*place) for place in self._grid()]
        self._check_names(found)
        return sorted(found, key=lambda run: run.is_forecast)

    def names(self) -> list[str]:
        """The names of all runs, arm by arm. Recipes are not made, which would take 10 ms each."""
        return [".".join(_words(*place)) for place in self._grid()]

    def run_named(self, name: str) -> StudyRun:
        """Raises ParakeetError if the study has no such run, or a setting does not fit the recipe."""
        for place in self._grid():
            if ".".join(_words(*place)) == name:
                return self._run(*place)
        raise ParakeetError(f"Study {self.name} has no run {name} at scale {self.scale_name}: it was changed since.")

    def key(self, run: StudyRun) -> str:
        """First 16 hex digits of a sha256 over what decides a run's record: its recipe and what is measured."""
        values = run.recipe.model_dump(mode="json", exclude={"name", "description"}, exclude_defaults=True)
        asked = {"recipe": values, "measures": versions(self.file.measures), "stages": self.file.stages}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def _limited(self, arm: Arm) -> Recipe:
        limit = self.file.limit * self.base.limit * arm.more_text
        return self.base.model_copy(update={"limit": min(limit, 1.0)})

    def _grid(self) -> Iterator[tuple[str, dict[str, str], int]]:
        """Arm, points and seed of every run."""
        for arm_name, arm in self.arms.items():
            labels = [self.scale.points.get(axis) or list(self.file.axes[axis]) for axis in arm.axes]
            for combination in product(*labels):
                for seed in self.seeds_of(arm_name):
                    yield arm_name, dict(zip(arm.axes, combination, strict=True)), seed

    def _check_names(self, runs: Sequence[StudyRun]) -> None:
        named: dict[str, StudyRun] = {}
        for run in runs:
            # File systems of macOS and Windows take S1 and s1 for one file.
            other = named.setdefault(run.name.lower(), run)
            if other is not run:
                both = " and ".join(
                    " / ".join([one.arm, *one.points.values(), f"seed {one.seed}"]) for one in (other, run)
                )
                raise ParakeetError(
                    f"Study {self.name}: two runs are called {run.name}: {both}. A name keeps letters, digits, _ and - "
                    "of labels, and no two runs may share one: give them other labels, and name each seed once."
                )

    def _run(self, arm_name: str, points: Mapping[str, str], seed: int) -> StudyRun:
        arm = self.arms[arm_name]
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
        if not re.match(RECIPE_NAME, name):
            raise ParakeetError(
                f"Study {self.name}: the name {name} is not allowed, since recipes, folders and links have it: at most "
                "64 letters, digits, _ - and . in all, of the file, the arm, the labels and the seed. Give the file "
                "and the labels shorter names, without spaces."
            )
        try:
            if arm.recipe is not None and arm.recipe not in self._recipes:
                self._recipes[arm.recipe] = load_recipe(arm.recipe)
            base = self._limited(arm) if arm.recipe is None else self._recipes[arm.recipe]
            recipe = changed(base, [f"{key}={_typed(value)}" for key, value in settings.items()])
        except ParakeetError as error:
            reason = str(error).removeprefix("--set ")
            raise ParakeetError(f"Study {self.name}, run {name.partition('.')[2]}: {reason}") from None
        recipe = recipe.model_copy(update={"name": name, "description": self.file.title})
        is_forecast = any(label in self.file.forecast.get(axis, []) for axis, label in points.items())
        return StudyRun(arm_name, points, seed, recipe, is_forecast)


def _typed(value: Any) -> str:
    """A setting as --set takes it, where text has no quotes. YAML reads 2024-01-31 as a date."""
    return str(value) if isinstance(value, str | date) else json.dumps(value, default=str)


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
    if name_or_path not in shipped and path.stem in shipped and not path.samefile(shipped[path.stem]):
        raise ParakeetError(
            f"{path}: a study named {path.stem} comes with Parakeet, and its runs would be mixed with those of this "
            "file. Give the file another name."
        )
    try:
        return path.stem, _beside(path, parse_study_file(path.read_text(encoding="utf-8"), path))
    except OSError as error:
        raise ParakeetError(f"{path}: cannot be read as a study: {os_reason(error)}.") from None
    except UnicodeDecodeError:
        raise ParakeetError(f"{path}: cannot be read as a study: it is not UTF-8.") from None


def _beside(path: Path, file: StudyFile) -> StudyFile:
    """The study with whole paths of its recipes that are files beside it: its runs are made in any folder."""

    def whole(arms: Mapping[str, Arm]) -> dict[str, Arm]:
        return {name: arm.model_copy(update={"recipe": place(arm.recipe)}) for name, arm in arms.items()}

    def place(recipe: str | None) -> str | None:
        if recipe is None or recipe in shipped_recipes() or not (path.parent / recipe).is_file():
            return recipe
        return str((path.parent / recipe).absolute())

    scales = {name: one.model_copy(update={"own_arms": whole(one.own_arms)}) for name, one in file.scales.items()}
    return file.model_copy(update={"recipe": place(file.recipe), "arms": whole(file.arms), "scales": scales})


def parse_study_file(text: str, path: Path) -> StudyFile:
    """The content of a study. Raises ParakeetError with the file and the key."""
    values = mapping_of(text, path, "study")
    try:
        return StudyFile.model_validate(values)
    except ValidationError as error:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raise ParakeetError("\n".join(_fault(path, root, problem) for problem in error.errors())) from None


def _fault(path: Path, root: yaml.Node | None, problem: Any) -> str:
    cause = problem.get("ctx", {}).get("error")
    location = cause.location if isinstance(cause, Misfit) else problem["loc"]
    _, row, _ = find_place(root, location)
    where = f"{path}, line {row}" if row else str(path)
    key = ".".join(map(str, location)).replace(".[key]", " (the key)")
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(location)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"{where}: unknown key {key}" + (f": did you mean {close[0]}?" if close else f"; {_listed(known)}")
    given = f" (given: {problem['input']!r})" if isinstance(problem["input"], str | int | float) else ""
    return f"{where}: {key}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the section that a key stands in."""
    inside: dict[str, type[Section]] = {"scales": Scale, "arms": Arm, "own_arms": Arm}
    section: type[Section] = next((inside[str(part)] for part in reversed(location[:-1]) if part in inside), StudyFile)
    return list(section.model_fields)


def make_study(name_or_path: str, scale: str, base: Recipe | None = None) -> Study:
    """A study at a scale, made from `base` in place of its recipe. ParakeetError if there is no such study or scale."""
    name, file = load_study_file(name_or_path)
    if scale not in file.scales:
        raise ParakeetError(f"Study {name} has no scale {scale!r}. It has: {', '.join(file.scales)}.")
    return Study(name, file, scale, load_recipe(file.recipe) if base is None else base)
