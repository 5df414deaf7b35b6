"""The folder of artefacts and the recipe of a run as a Dagster resource, and the lock that says that a run is alive."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from filelock import FileLock

from assets_defs.code import commit
from assets_defs.sources import changes
from parakeet import dagster_history
from parakeet.artifact import Artifact, explain_os_error
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.recipe_file import parse_recipe
from parakeet.release.start import pinned
from parakeet.stages import Build, active_recipe
from parakeet.training.start import with_start

HOME_TAG, RECIPE_TAG = dagster_history.HOME_TAG, dagster_history.RECIPE_TAG
RECIPE_METADATA = dagster_history.RECIPE_METADATA

FINGERPRINT_TAG = "parakeet/fingerprint"
"""Tag of every materialization: the fingerprint of the artefact."""
SHELL_TAG = {"parakeet/started_by": "parakeet build"}

COMMIT_TAG = "parakeet/commit"
RECIPE_FINGERPRINT_TAG = "parakeet/recipe_fingerprint"
"""Tags of every run: the commit of the code, and a hash of the whole recipe."""

START_TAG = "parakeet/start"
"""Tag of a run whose `training.start` may mean another model later: what it says, and the folder that it meant when the
run began. Dagster copies it to the runs that repeat this one."""
ARROW = " -> "

RETRAIN = "retrain"
"""The job whose runs need a recipe of their own."""

RUN_LOCKS = Path(".locks") / "runs"

_held: dict[str, FileLock] = {}
"""The locks of this process's runs, by run."""


@dataclass(frozen=True)
class ParakeetHome:
    """PARAKEET_HOME, or the checkout's `assets/`, and the recipe that a run builds there."""

    recipe: Recipe
    given: Mapping[str, Artifact] = field(default_factory=dict)
    """Artefacts to take as they are, as `Build` does."""

    @property
    def root(self) -> Path:
        return home()

    def build(self) -> Build:
        """The stages of the run's recipe."""
        return Build(self.root, self.recipe, self.given)


def run_config(recipe: Recipe) -> dict[str, Any]:
    """The part of a run's config that makes it build this recipe, whatever recipe is in use later."""
    return {"resources": {"parakeet_home": {"config": {"recipe": recipe.to_yaml()}}}}


def recorded_recipe(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Recipe | None:
    """The recipe that a run was launched with: of its config, else of its plan; None if neither has it.

    A run that Dagster made of another one has the recipe of the first, and starts from the model that the first did.
    Raises ParakeetError if the recipe cannot be read.
    """
    recipe = _launched_with(instance, run)
    return _with_noted_start(recipe, run) if recipe is not None else None


def _launched_with(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Recipe | None:
    text = configured_recipe(instance, run)
    first = run if run.root_run_id is None else instance.get_run_by_id(run.root_run_id) or run
    if text is None and first.execution_plan_snapshot_id is not None:
        data = instance.get_execution_plan_snapshot(first.execution_plan_snapshot_id).repository_load_data
        value = data.reconstruction_metadata.get(RECIPE_METADATA) if data is not None else None
        text = getattr(value, "data", value)
    return parse_recipe(text, f"The recipe of run {run.run_id[:8]}") if text is not None else None


def configured_recipe(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """The recipe in the config of a run, or of the first run of which this one is a repetition."""
    text = _configured(run.run_config)
    root = instance.get_run_by_id(run.root_run_id) if text is None and run.root_run_id is not None else None
    return _configured(root.run_config) if root is not None else text


def _with_noted_start(recipe: Recipe, run: dg.DagsterRun) -> Recipe:
    said, arrow, folder = run.tags.get(START_TAG, "").partition(ARROW)
    return with_start(recipe, folder) if arrow and said == recipe.training.start else recipe


def _pinned(recipe: Recipe, run: dg.DagsterRun, instance: dg.DagsterInstance) -> Recipe:
    """The recipe with the folder of its start, which the run's tag keeps for the runs that resume it."""
    noted = _with_noted_start(recipe, run)
    if noted is not recipe:
        return noted
    try:
        found = pinned(recipe, home())
    except ParakeetError:
        return recipe  # the stages that need it say so; others do not
    if found != recipe:
        instance.add_run_tags(run.run_id, {START_TAG: f"{recipe.training.start}{ARROW}{found.training.start}"})
    return found


def _configured(config: Mapping[str, Any]) -> str | None:
    found: Any = config
    for key in ("resources", "parakeet_home", "config", "recipe"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def tags_of(recipe: Recipe) -> dict[str, str]:
    """What tells a run from one of the same recipe's name: the code, and the recipe's text."""
    fingerprint = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:16]
    return {RECIPE_FINGERPRINT_TAG: fingerprint, **({COMMIT_TAG: commit()} if commit() else {})}


def home_resource(recipe: Recipe, given: Mapping[str, Artifact] | None = None) -> dg.ResourceDefinition:
    """A `ParakeetHome` that holds its run's lock until the process ends.

    `recipe` is the code location's. The recipe in the run's config goes before it, and that of the first run of which
    this one is a repetition.

    While a run lives, its process holds a lock file named after it. The operating system releases the lock however the
    process ends, so a run that Dagster still calls started, and whose lock is free, is lost.
    """

    @dg.resource(
        description="The folder of all artefacts, and the recipe that is built there.",
        config_schema={
            "recipe": dg.Field(
                str,
                is_required=False,
                description="The whole recipe, as YAML. Without it, the run builds the recipe that this page shows.",
            )
        },
    )
    def resource(context: dg.InitResourceContext) -> Iterator[ParakeetHome]:
        instance = context.instance
        run = instance.get_run_by_id(context.run_id) if instance is not None and context.run_id is not None else None
        if instance is None or run is None:
            yield ParakeetHome(recipe, given or {})
            return
        try:
            # Before all that takes long, or the run would be called lost and started again beside itself.
            hold_run_lock(home(), run.run_id)
            own = _launched_with(instance, run) or recipe
            own = recipe if own == recipe else own  # with notify, which no record has
            begun_with = run.tags.get(RECIPE_TAG, own.name)
            if begun_with != own.name:
                raise ParakeetError(
                    f"This run was begun with recipe {begun_with}, which it does not hold, and {own.name} is in use. "
                    f"Run: parakeet build --recipe {begun_with}"
                )
            if run.job_name == RETRAIN and configured_recipe(instance, run) is None:
                raise ParakeetError(
                    f"The job {RETRAIN} trains the promoted release by a recipe that is derived from it. This run was "
                    f"launched without one, and would train recipe {own.name} from nothing. Run: parakeet retrain. To "
                    "build the recipe in use, launch full_build."
                )
            parakeet_home = ParakeetHome(_pinned(own, run, instance), given or {})
            instance.add_run_tags(run.run_id, {HOME_TAG: str(parakeet_home.root), RECIPE_TAG: own.name})
            instance.add_run_tags(run.run_id, tags_of(own))
            # Before the first step, or `documents` would be recorded as made from an older version.
            for change in changes(own, instance):
                instance.report_runless_asset_event(change)
        except ParakeetError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        if context.log is not None and (note := _other_in_use(own, parakeet_home.root)):
            context.log.warning(note)
        yield parakeet_home

    return resource


def _other_in_use(recipe: Recipe, root: Path) -> str | None:
    try:
        active = active_recipe(root)
    except ParakeetError:
        return None
    if active == recipe:
        return None
    other = "another version of it" if active.name == recipe.name else f"recipe {active.name}"
    return (
        f"This run builds recipe {recipe.name}, which it was launched with. Now {other} is in use: runs that are "
        "launched after Dagster has loaded it build that."
    )


def hold_run_lock(root: Path, run_id: str) -> None:
    """Hold a run's lock until the process ends, or until `release_run_lock`: so after Dagster has recorded the end.

    Raises ParakeetError if the lock file cannot be made: nobody could tell whether such a run is alive.
    """
    path = run_lock(root, run_id)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise explain_os_error(error, "making the lock file of the run") from None
    _held[run_id] = lock


def release_run_lock(root: Path, run_id: str) -> None:
    """For a process that lives on after its run."""
    if (lock := _held.pop(run_id, None)) is not None:
        run_lock(root, run_id).unlink(missing_ok=True)
        lock.release()


def run_lock(root: Path, run_id: str) -> Path:
    return root / RUN_LOCKS / f"{run_id}.lock"
