"""What months of retraining leave behind, and which of it may go by a rule: refused releases and finished runs.

`parakeet.clean` finds what nothing refers to now; this removes less, and only what is old.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from parakeet.clean import Entry, leftovers, refuse_while_building, size_of, starts
from parakeet.home import latest_release, release_folder, runs_folder
from parakeet.recipe import Recipe
from parakeet.release.history import REFUSED, Decision, decisions
from parakeet.release.pointers import incumbent
from parakeet.stages import Build, active_recipe

SECONDS_A_DAY = 24 * 3600


def removable(root: Path, days: int, refused: int, own: Path | None = None) -> list[Entry]:
    """Refused releases but for the last `refused` of each recipe, and training runs that ended `days` ago.

    A release that is or was promoted stays, as does one that the recipe in use or a run that stays starts from, and the
    one that the build of the recipe in use finds, or it would be trained, judged and refused again. Of the runs only
    those may go that `leftovers` calls unreferenced. `own` is the lock file of the run that asks. Raises
    ParakeetError while anything else is being built, and as `leftovers`.
    """
    refuse_while_building(root, own)
    unreferenced = leftovers(root, own=own).unreferenced
    runs = [entry for entry in unreferenced if entry.path.parent == runs_folder(root)]
    recipe = active_recipe(root)
    begins = starts(root, [recipe], [entry.path for entry in runs])
    return [*_refused_releases(root, recipe, refused, {name for _, name in begins}), *_old(runs, days)]


def _refused_releases(root: Path, recipe: Recipe, keep: int, begins: Collection[str]) -> Iterator[Entry]:
    """The oldest decision first. `begins`: folder names of models that something starts from."""
    last: dict[str, Decision] = {}
    for decision in decisions(root)[0]:
        last.pop(decision.release, None)
        last[decision.release] = decision
    stay = {decision.release for decision in decisions(root)[0] if decision.action != REFUSED}
    stay |= {latest_release(root).resolve().name, *begins}
    if (found := Build(root, recipe).find("release")) is not None:
        stay.add(found.path.name)
    by_recipe: dict[str, list[Path]] = {}
    for name, decision in last.items():
        folder = release_folder(root) / name
        if folder.is_dir() and not folder.is_symlink():
            by_recipe.setdefault(decision.recipe, []).append(folder)
    for name, folders in by_recipe.items():
        now = incumbent(root, name)
        candidates = [
            folder for folder in folders if folder.name not in stay and (now is None or folder.name != now.name)
        ]
        for folder in candidates[: max(0, len(candidates) - keep)]:
            yield Entry(folder, size_of(folder), "release", name)


def _old(runs: Iterable[Entry], days: int) -> Iterator[Entry]:
    for entry in runs:
        times = [file.stat().st_mtime for file in entry.path.rglob("*") if file.is_file()]
        idle = time.time() - max(times, default=entry.path.stat().st_mtime)
        if idle > days * SECONDS_A_DAY:
            yield Entry(entry.path, entry.n_bytes, "checkpoint", "", idle)
