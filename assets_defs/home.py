"""The folder of artefacts as a Dagster resource, and the lock that says that a run is alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from filelock import FileLock
from pydantic import PrivateAttr

from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.stages import Build, active_recipe

HOME_TAG = "parakeet/home"
"""Tag of every run: the home that it builds in. One history may hold runs of several."""

RUN_LOCKS = Path(".locks") / "runs"


class ParakeetHome(dg.ConfigurableResource):
    """PARAKEET_HOME, or the checkout's `assets/`.

    The recipe is read once, when a run begins: what is made active meanwhile is another run's.

    While a run lives, its process holds a lock file named after it. The operating system lets go of the
    lock however the process ends, so a run that Dagster still calls started, and whose lock is free, is lost.
    """

    recipe_yaml: str = ""
    """The recipe to build, as YAML; empty takes the active one."""

    _recipe: Recipe | None = PrivateAttr(default=None)

    @property
    def root(self) -> Path:
        return home()

    def build(self) -> Build:
        """The stages of this run's recipe."""
        return Build(self.root, self._recipe or self._read_recipe())

    def _read_recipe(self) -> Recipe:
        if self.recipe_yaml:
            return Recipe.model_validate(yaml.safe_load(self.recipe_yaml))
        return active_recipe(self.root)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        if context.run_id is None:
            yield self
            return
        self._recipe = self._read_recipe()
        if context.instance is not None:
            context.instance.add_run_tags(context.run_id, {HOME_TAG: str(self.root)})
        path = run_lock(self.root, context.run_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            # A folder that cannot be written to is the stage's to report, with what to do about it.
            yield self
            return
        with FileLock(path):
            yield self
            # While the lock is held: a file that is there and free would call this run lost.
            path.unlink(missing_ok=True)


def run_lock(root: Path, run_id: str) -> Path:
    return root / RUN_LOCKS / f"{run_id}.lock"
