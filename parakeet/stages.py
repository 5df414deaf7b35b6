"""The whole build on one page: the list of stages, and `Build`, which walks it for one recipe and one store."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from parakeet.artifact import Artifact, Store, Work, replace_file
from parakeet.data.card.stage import DataCardStage
from parakeet.data.cleaning.stage import CleanDocumentsStage
from parakeet.data.deduplication.stage import DeduplicatedDocumentsStage
from parakeet.data.reading.stage import DocumentsStage
from parakeet.data.tokens.stages import PackingPlanStage, TokenizerStage, TokenShardsStage
from parakeet.download.stage import SourceFilesStage
from parakeet.earlier import earlier_fingerprint
from parakeet.errors import ParakeetError
from parakeet.evaluation.stage import EvaluationStage
from parakeet.gates.stage import ComparisonStage
from parakeet.hashes import FileState, HashCache, refuse_changed
from parakeet.home import hashes_file
from parakeet.memorisation.stage import MemorisationStage
from parakeet.progress import Progress
from parakeet.recipe import Notify, Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import remote_sources
from parakeet.release.stages import OriginalCheckpointFile, OriginalModelStage, ReleaseStage
from parakeet.release.start import find_start
from parakeet.report.stage import ReportStage
from parakeet.sanitise import sanitise
from parakeet.stage import ExternalFile, Launch, MakeContext, Stage
from parakeet.trace.stage import TraceIndexStage
from parakeet.training.recorded import keep_recipe
from parakeet.training.stage import CheckpointStage

ACTIVE_RECIPE_FILE = "recipe.yaml"
LAST_BUILD_FILE = ".last_build.yaml"
DEFAULT_RECIPE = "demo"

STAGES: tuple[Stage, ...] = (
    DocumentsStage(),
    CleanDocumentsStage(),
    DeduplicatedDocumentsStage(),
    TokenizerStage(find_start),
    TokenShardsStage(),
    PackingPlanStage(),
    TraceIndexStage(),
    DataCardStage(),
    CheckpointStage(find_start),
    EvaluationStage(),
    MemorisationStage(),
    ReportStage(),
    ReleaseStage(),
    ComparisonStage(),
    OriginalModelStage(),
)
PROMOTION = "promotion"
"""What comes after the last stage of a model: no artefact, but the decision whether `parakeet chat` opens it."""
EXTERNAL_FILES: tuple[ExternalFile, ...] = (OriginalCheckpointFile(),)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Every stage that a recipe's build has, in order: its remote sources first, one stage each."""
    fetched = remote_sources([*recipe.sources, *recipe.decontamination.sets])
    return (*(SourceFilesStage(source) for source in fetched), *(stage for stage in STAGES if stage.is_wanted(recipe)))


def asset_names(recipe: Recipe) -> tuple[str, ...]:
    """What of a recipe's build can be selected, in order."""
    return (*(stage.name for stage in stages_of(recipe)), PROMOTION, *(file.name for file in EXTERNAL_FILES))


class Build:
    """One recipe's stages over one store of artefacts.

    Artefacts that are `given`, by stage, are taken as they are, whatever this version would make in their place. A
    build of a study has `measurements` as its last stage: others may go on beside it, and `latest` is not its own.
    """

    def __init__(
        self,
        root: Path,
        recipe: Recipe,
        given: Mapping[str, Artifact] | None = None,
        measurements: Stage | None = None,
    ) -> None:
        self.store = Store(root, side_by_side=measurements is not None)
        self.recipe = recipe
        self.stages = {stage.name: stage for stage in stages_of(recipe)}
        if measurements is not None:
            self.stages[measurements.name] = measurements
        self._hashes = HashCache(hashes_file(root))
        self._found: dict[str, Artifact] = dict(given or {})
        self._read: dict[str, dict[Path, FileState]] = {}
        self._chosen_recipe_name = chosen_recipe_name(root)
        self._is_of_study = measurements is not None

    def work(self, name: str) -> Work:
        """What has to be made for a stage. Raises ParakeetError if one of its inputs has not been made."""
        stage = self.stage(name)
        root = self.store.root
        inputs = {upstream: self.artifact(upstream, name) for upstream in stage.inputs(self.recipe)}
        paths = stage.files(self.recipe, root)
        paths_before = stage.files_before(self.recipe, root) if stage.valid_versions else paths
        hashed = self._hashes.hashed([*{*paths.values(), *paths_before.values()}])
        files = {label: hashed[path][0] for label, path in paths.items()}
        self._read[name] = {path: hashed[path][1] for path in paths.values()}
        file_bytes = sum(path.stat().st_size for path in paths.values())
        of_store = stage.settings_of_store(self.recipe, root, inputs)
        work = Work(
            stage=stage.name,
            version=stage.version,
            settings={**stage.settings(self.recipe), **of_store},
            inputs=inputs,
            files=files,
            records=stage.records,
            expected_bytes=stage.expected_bytes(self.recipe, inputs, file_bytes, root),
            folder=stage.folder or stage.name,
            resumable=stage.resumable,
            recipe=self.recipe.name,
            links=self._links(stage),
        )
        settings_before = {**stage.settings_before(self.recipe), **of_store}
        files_before = {label: hashed[path][0] for label, path in paths_before.items()}
        inputs_before = {upstream: inputs[upstream] for upstream in stage.inputs_before(self.recipe)}
        then = replace(work, settings=settings_before, files=files_before, inputs=inputs_before)
        valid = sorted(stage.valid_versions, reverse=True)
        earlier = [(replace(then, version=version).fingerprint, version) for version in valid]
        oldest = min(stage.version, *valid) if valid else stage.version
        before = earlier_fingerprint(name, oldest, settings_before, self.recipe, inputs_before, then.files)
        earlier += [before] if before else []
        # A file that only today's rules read, and that came later, is new text.
        added = max((path.stat().st_ctime for label, path in paths.items() if label not in paths_before), default=0.0)
        new_settings = {name for name, value in work.settings.items() if (name, value) not in settings_before.items()}
        return replace(
            work,
            earlier=tuple(one for one in earlier if self.store.made_after(work.folder, one[0], added)),
            new_settings=frozenset(new_settings),
            new_inputs=frozenset(inputs.keys() - inputs_before.keys()),
        )

    def _links(self, stage: Stage) -> tuple[str, ...]:
        """`latest.<recipe>`, and `latest` too unless it belongs to the recipe that `parakeet use` chose."""
        own = f"latest.{self.recipe.name}"
        if not stage.has_latest:
            return ()
        if self._is_of_study:
            return (own,)
        is_free = self._chosen_recipe_name in (None, self.recipe.name)
        latest = self.store.root / (stage.folder or stage.name) / "latest"
        return (own, "latest") if is_free or not latest.exists() else (own,)

    def find(self, name: str) -> Artifact | None:
        """The stage's artefact for this recipe, if it and everything before it have been made."""
        if name not in self._found:
            stage = self.stage(name)
            if any(self.find(upstream) is None for upstream in stage.inputs(self.recipe)):
                return None
            if not stage.is_possible(self.recipe, self.store.root):
                return None
            artifact = self.store.find(self.work(name))
            if artifact is None:
                return None
            self._found[name] = artifact
        return self._found[name]

    def artifact(self, name: str, wanted: str = "") -> Artifact:
        """The same, or a ParakeetError that says what to run to have it, or the stage `wanted` that reads it."""
        artifact = self.find(name)
        if artifact is None:
            first = next(one for one in (*self.upstream(name), name) if self.find(one) is None)
            stage = self.stage(first)
            made = bool(self.store.directories(stage.folder or first))
            reason = "its settings or its files have changed since it was made" if made else "it was never made"
            raise ParakeetError(
                f"{first} is out of date for recipe {self.recipe.name}: {reason}. In Dagster, select "
                f'+key:"{wanted or name}" and materialize all of it: what is up to date is not made again. In a shell, '
                f"run the same build with: --select {wanted or name}"
            )
        return artifact

    def inputs(self, name: str) -> dict[str, Artifact]:
        """The artefacts that a stage is made from, by name."""
        return {upstream: self.artifact(upstream) for upstream in self.stage(name).inputs(self.recipe)}

    def ensure(
        self, name: str, progress: Progress, launch: Launch, force: bool = False, try_anyway: bool = False
    ) -> tuple[Artifact, bool]:
        """The stage's artefact, made now if it is not there or if `force`, and whether it was made.

        `launch` runs the trainer's process; `try_anyway` lets it start although the forecast exceeds the memory.
        """
        work = self.work(name)
        make = partial(self._make, self.stage(name), work.inputs, launch, force, try_anyway)
        artifact, made = self.store.ensure(work, make, progress, force)
        self._found[name] = artifact
        self.stage(name).conclude(self.store.root, artifact)
        return artifact, made

    def _make(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        launch: Launch,
        force: bool,
        try_anyway: bool,
        output: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        def manifests() -> dict[str, Mapping[str, Any]]:
            return {upstream: self.artifact(upstream).manifest for upstream in self.upstream(stage.name)}

        root = self.store.root
        unchanged = partial(self._refuse_changed, stage)
        context = MakeContext(
            self.recipe, root, inputs, manifests, output, progress, launch, force, try_anyway, unchanged
        )
        counts = stage.make(context)
        if not stage.verifies_files:
            unchanged()
        return counts

    def _refuse_changed(self, stage: Stage) -> None:
        """Raise ParakeetError if a file outside the store has changed since it was hashed, or if there is a new one."""
        hashed = self._read[stage.name]
        refuse_changed(hashed)
        for path in stage.files(self.recipe, self.store.root).values():
            if path not in hashed:
                raise ParakeetError(
                    sanitise(f"{path} was added while its folder was read. Nothing was made of it: ")
                    + "run the same command again."
                )

    def upstream(self, name: str) -> list[str]:
        """The stages that a stage is made from, and those before them, in the order of the build."""
        needed: set[str] = set()
        waiting = list(self.stage(name).inputs(self.recipe))
        while waiting:
            if (one := waiting.pop()) not in needed:
                needed.add(one)
                waiting += self.stage(one).inputs(self.recipe)
        return [one for one in self.stages if one in needed]

    def stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise ParakeetError(
                f"Recipe {self.recipe.name}, which this build has, makes no {name}. If Dagster shows the assets of "
                "another recipe, reload its definitions."
            )
        return self.stages[name]


def active_recipe(root: Path) -> Recipe:
    """The recipe that Dagster builds: `recipe.yaml` under the root, or the demo if there is none."""
    path = root / ACTIVE_RECIPE_FILE
    # Parakeet wrote the file itself, so nobody has to change the old names of keys in it.
    return load_recipe(str(path) if path.is_file() else DEFAULT_RECIPE, report_old_keys=False)


def who_is_told(root: Path, recipe: Recipe) -> Notify | None:
    """`notify` of a recipe that is built, else that of the recipe in use: a run's record of its recipe lacks it."""
    with suppress(ParakeetError, OSError):
        return recipe.notify or active_recipe(root).notify
    return recipe.notify


def chosen_recipe_name(root: Path) -> str | None:
    """The name of the recipe that `parakeet use` chose; None if it chose none. `active_recipe` reads the recipe."""
    try:
        values = yaml.safe_load((root / ACTIVE_RECIPE_FILE).read_text(encoding="utf-8"))
        return str(values["name"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def note_build(root: Path, recipe: Recipe) -> None:
    """Remember the recipe that a shell builds, for the commands that look at what was built."""
    with suppress(OSError):  # the first stage reports a folder that it cannot write to
        root.mkdir(parents=True, exist_ok=True)
        replace_file(root / LAST_BUILD_FILE, recipe.to_yaml())


def recipe_built_last(root: Path) -> str:
    """The file of the recipe that a shell built since `parakeet use`; else that of the recipe in use, or its name."""
    files = (root / LAST_BUILD_FILE, root / ACTIVE_RECIPE_FILE)
    return next((str(file) for file in files if file.is_file()), DEFAULT_RECIPE)


def refuse_missing_files(root: Path, recipe: Recipe) -> None:
    """Raise ParakeetError if one of a recipe's local files is missing."""
    for stage in stages_of(recipe):
        if stage.is_possible(recipe, root):
            stage.files(recipe, root)


def use_recipe(root: Path, recipe: Recipe) -> None:
    """Make a recipe the one in use. Raises ParakeetError, and changes nothing, if one of its local files is missing."""
    refuse_missing_files(root, recipe)
    path = root / ACTIVE_RECIPE_FILE
    keep_recipe(root, path)
    text = f"# The recipe in use, which Dagster builds: written by `parakeet use`.\n{recipe.to_yaml(with_notify=True)}"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        root.mkdir(parents=True, exist_ok=True)
        replace_file(path, text, is_private=recipe.notify is not None)  # an address is often a password
    (root / LAST_BUILD_FILE).unlink(missing_ok=True)
