"""What months of retraining leave behind, and which of it may go by a rule: refused releases and finished runs.

`parakeet.clean` finds what nothing refers to now; this removes less, and only what is old.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from parakeet.clean import Entry, leftovers, refuse_while_building, size_of
from parakeet.home import latest_release, release_folder, runs_folder
from parakeet.release.history import REFUSED, decisions
from parakeet.release.promotion import incumbent
from parakeet.stages import Build, active_recipe
from parakeet.training.job import JOB_FILE

SECONDS_A_DAY = 24 * 3600


def removable(root: Path, days: int, refused: int, own: Path | None = None) -> list[Entry]:
    """Refused releases but for the last `refused` of each recipe, and training runs that ended `days` ago.

    A release that is or was promoted stays, as does the one that the active recipe's build finds, or it would be
    trained, judged and refused again. A run stays if the active recipe, a promoted release of any recipe or an
    unfinished run needs it. `own` is the lock file of the run that asks. Raises ParakeetError while anything else is
    being built, and as `leftovers`.
    """
    refuse_while_building(root, own)
    return [*_refused_releases(root, refused), *_old_runs(root, days, own)]


def _refused_releases(root: Path, keep: int) -> Iterator[Entry]:
    last = {decision.release: decision for decision in decisions(root)[0]}
    promoted = {decision.release for decision in decisions(root)[0] if decision.action != REFUSED}
    promoted.add(latest_release(root).resolve().name)
    if (found := Build(root, active_recipe(root)).find("release")) is not None:
        promoted.add(found.path.name)
    by_recipe: dict[str, list[Path]] = {}
    for name, decision in last.items():
        folder = release_folder(root) / name
        if folder.is_dir() and not folder.is_symlink():
            by_recipe.setdefault(decision.recipe, []).append(folder)
    for recipe, folders in by_recipe.items():
        now = incumbent(root, recipe)
        stay = promoted | ({now.name} if now is not None else set())
        candidates = [folder for folder in folders if folder.name not in stay]
        for folder in candidates[: max(0, len(candidates) - keep)]:
            yield Entry(folder, size_of(folder), "release", recipe)


def _old_runs(root: Path, days: int, own: Path | None) -> Iterator[Entry]:
    runs = runs_folder(root)
    found = [entry for entry in leftovers(root, own=own).unreferenced if entry.path.parent == runs]
    named = ""
    for job in runs.glob(f"*/{JOB_FILE}"):
        if job.parent not in [entry.path for entry in found]:
            with suppress(OSError):
                named += job.read_text(encoding="utf-8", errors="replace")
    for entry in found:
        times = [file.stat().st_mtime for file in entry.path.rglob("*") if file.is_file()]
        idle = time.time() - max(times, default=entry.path.stat().st_mtime)
        # A run that starts from the weights of another one names its folder.
        if idle > days * SECONDS_A_DAY and entry.path.name not in named:
            yield Entry(entry.path, entry.n_bytes, "checkpoint", "", idle)
