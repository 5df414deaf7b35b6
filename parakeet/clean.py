"""Finding artefacts that nothing refers to any more."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from parakeet.artifact import Artifact, Store
from parakeet.errors import ParakeetError
from parakeet.locking import is_held
from parakeet.stages import RUNS_FOLDER, STAGES, Build, active_recipe
from parakeet.training.job import LOCK_FILE


@dataclass(frozen=True)
class Entry:
    path: Path
    n_bytes: int


def unreferenced(root: Path) -> list[Entry]:
    """What may go: artefacts, training runs and left-over partial directories.

    Kept are: all that the active recipe's build consists of, every release, and all that the latest release
    was made from.
    """
    store = Store(root)
    artifacts = {artifact.path.resolve(): artifact for artifact in store.artifacts()}
    kept = _closure(_roots(root), artifacts, root)
    runs = {str(artifacts[path].counts["run"]) for path in kept if artifacts[path].stage == "checkpoint"}
    stale = [path for path in artifacts if path not in kept]
    stale += [
        path
        for path in sorted((root / RUNS_FOLDER).glob("*"))
        if path.name not in runs and not is_held(path / LOCK_FILE)
    ]
    busy = {stage.folder or stage.name for stage in STAGES if is_held(root / ".locks" / f"{stage.name}.lock")}
    stale += [path for path in store.partial() if path.parent.name not in busy]
    return [Entry(path, _size(path)) for path in stale]


def remove(entries: Iterable[Entry]) -> None:
    """Delete the entries, and links that pointed at them."""
    for entry in entries:
        shutil.rmtree(entry.path)
        latest = entry.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def _roots(root: Path) -> list[Path]:
    build = Build(root, active_recipe(root))
    found: list[Path] = []
    for stage in STAGES:
        try:
            artifact = build.find(stage.name)
        except ParakeetError:
            # Sources that moved away, or an artefact that was changed: nothing after it belongs to the recipe.
            break
        if artifact is not None:
            found.append(artifact.path.resolve())
    return [*found, (root / "releases" / "latest").resolve()]


def _closure(roots: Iterable[Path], artifacts: dict[Path, Artifact], root: Path) -> set[Path]:
    """The roots, all that they were made from, and every release (but not what older ones were made from)."""
    kept: set[Path] = set()
    waiting = [path for path in roots if path in artifacts]
    while waiting:
        path = waiting.pop()
        if path not in kept and path in artifacts:
            kept.add(path)
            waiting += [
                (root / made_from["path"]).resolve() for made_from in artifacts[path].manifest["inputs"].values()
            ]
    return kept | {path for path, artifact in artifacts.items() if artifact.stage == "release"}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
