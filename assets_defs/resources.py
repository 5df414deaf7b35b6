"""The folder of artefacts as a Dagster resource, and the lock that says that a run is alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from filelock import FileLock
from pydantic import PrivateAttr

from parakeet.home import home
from parakeet.recipe import Recipe
from parakeet.stages import Build

HOME_TAG = "parakeet/home"
"""Tag of every run: the home that it builds in. One history may hold runs of several."""

RUN_LOCKS = Path(".locks") / "runs"


class ParakeetHome(dg.ConfigurableResource):
    """PARAKEET_HOME, or the checkout's `assets/`, and the recipe that the definitions were made from.

    While a run lives, its process holds a lock file named after it. The operating system releases the lock however the
    process ends, so a run that Dagster still calls started, and whose lock is free, is lost.
    """

    _recipe: Recipe = PrivateAttr()

    @classmethod
    def of(cls, recipe: Recipe) -> "ParakeetHome":
        resource = cls()
        resource._recipe = recipe
        return resource

    @property
    def root(self) -> Path:
        return home()

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    def build(self) -> Build:
        """The stages of the definitions' recipe."""
        return Build(self.root, self._recipe)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        if context.run_id is None:
            yield self
            return
        if context.instance is not None:
            context.instance.add_run_tags(context.run_id, {HOME_TAG: str(self.root)})
        path = run_lock(self.root, context.run_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            # The stage reports a folder that cannot be written to, with what to do about it.
            yield self
            return
        with FileLock(path):
            yield self
            # While the lock is held: a lock file that is there and free would call this run lost.
            path.unlink(missing_ok=True)


def run_lock(root: Path, run_id: str) -> Path:
    return root / RUN_LOCKS / f"{run_id}.lock"
