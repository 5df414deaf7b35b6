"""The folder of artefacts as a Dagster resource, and the lock that says that a run is alive."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from filelock import FileLock

from assets_defs.code import commit
from assets_defs.sources import changes
from parakeet.artifact import Artifact
from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.stages import Build

HOME_TAG = "parakeet/home"
"""Tag of every run: the home that it builds in. One history may hold runs of several."""

RECIPE_TAG = "parakeet/recipe"
"""Tag of every run: the name of the recipe that it builds."""

FINGERPRINT_TAG = "parakeet/fingerprint"
"""Tag of every materialization: the fingerprint of the artefact."""

COMMIT_TAG = "parakeet/commit"
RECIPE_FINGERPRINT_TAG = "parakeet/recipe_fingerprint"
"""Tags of every run: the commit of the code, and a hash of the whole recipe."""

RUN_LOCKS = Path(".locks") / "runs"


@dataclass(frozen=True)
class ParakeetHome:
    """PARAKEET_HOME, or the checkout's `assets/`, and the recipe that the definitions were made from."""

    recipe: Recipe
    given: Mapping[str, Artifact]
    """Artefacts to take as they are, as `Build` does."""

    @property
    def root(self) -> Path:
        return home()

    def build(self) -> Build:
        """The stages of the definitions' recipe."""
        return Build(self.root, self.recipe, self.given)


def tags_of(recipe: Recipe) -> dict[str, str]:
    """What tells a run from one of the same recipe's name: the code, and the recipe's text."""
    fingerprint = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:16]
    return {RECIPE_FINGERPRINT_TAG: fingerprint, **({COMMIT_TAG: commit()} if commit() else {})}


def home_resource(recipe: Recipe, given: Mapping[str, Artifact] | None = None) -> dg.ResourceDefinition:
    """A `ParakeetHome` that holds its run's lock.

    While a run lives, its process holds a lock file named after it. The operating system releases the lock however the
    process ends, so a run that Dagster still calls started, and whose lock is free, is lost.
    """

    # The empty schema refuses the recipe in the config of runs of Parakeet 0.1, which would not be built.
    @dg.resource(description="The folder of all artefacts, and the recipe that is built there.", config_schema={})
    def resource(context: dg.InitResourceContext) -> Iterator[ParakeetHome]:
        parakeet_home = ParakeetHome(recipe, given or {})
        root = parakeet_home.root
        if context.run_id is None:
            yield parakeet_home
            return
        if context.instance is not None:
            run = context.instance.get_run_by_id(context.run_id)
            begun_with = run.tags.get(RECIPE_TAG, recipe.name) if run is not None else recipe.name
            if begun_with != recipe.name:
                raise dg.Failure(
                    description=f"This run was begun with recipe {begun_with}, and {recipe.name} is active. Run: "
                    f"parakeet build --recipe {begun_with}",
                    allow_retries=False,
                )
            context.instance.add_run_tags(context.run_id, {HOME_TAG: str(root), RECIPE_TAG: recipe.name})
            context.instance.add_run_tags(context.run_id, tags_of(recipe))
            # Before the first step, or `documents` would be recorded as made from an older version.
            for change in changes(recipe, context.instance):
                context.instance.report_runless_asset_event(change)
        path = run_lock(root, context.run_id)
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError:
            # The stage reports a folder that it cannot write to. Without a lock, the run is never called lost.
            yield parakeet_home
            return
        try:
            yield parakeet_home
            # While the lock is held: a lock file that is there and free would call this run lost.
            path.unlink(missing_ok=True)
        finally:
            lock.release()

    return resource


def run_lock(root: Path, run_id: str) -> Path:
    return root / RUN_LOCKS / f"{run_id}.lock"
