"""The folder of artefacts as a Dagster resource, and the lock that says that a run is alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from filelock import FileLock

from parakeet.home import home
from parakeet.stages import Build, active_recipe

RUN_LOCKS = Path(".locks") / "runs"


class ParakeetHome(dg.ConfigurableResource):
    """PARAKEET_HOME, or the checkout's `assets/`.

    While a run lives, its process holds a lock file named after it. The operating system lets go of the
    lock however the process ends, so a run that Dagster still calls started, and whose lock is free, is lost.
    """

    @property
    def root(self) -> Path:
        return home()

    def build(self) -> Build:
        """The stages of the recipe that is active now."""
        return Build(self.root, active_recipe(self.root))

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        if context.run_id is None:
            yield self
            return
        path = run_lock(self.root, context.run_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            # A folder that cannot be written to is the stage's to report, with what to do about it.
            yield self
            return
        with FileLock(path):
            yield self
        path.unlink(missing_ok=True)


def run_lock(root: Path, run_id: str) -> Path:
    return root / RUN_LOCKS / f"{run_id}.lock"
