"""Finding artefacts that nothing refers to any more."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from parakeet.artifact import Artifact, Store
from parakeet.errors import ParakeetError
from parakeet.home import latest_release, runs_folder
from parakeet.locking import is_held
from parakeet.stages import SOURCE_FILES, STAGES, Build, active_recipe, stages_of
from parakeet.training.stage import run_key

MODELS = ("release", "original_model")


@dataclass(frozen=True)
class Entry:
    path: Path
    n_bytes: int


def unreferenced(root: Path) -> list[Entry]:
    """What may go: artefacts, training runs and left-over partial directories.

    Kept are all that the active recipe's build consists of, its training run and data stages even if they are not
    finished, every release and imported model, and all that the latest release was made from. Only the stages' own
    folders are looked at. Raises ParakeetError while anything is being built, and where the active recipe's sources
    or artefacts cannot be read: what belongs to them is then not known.
    """
    held = [path for path in sorted((root / ".locks").rglob("*.lock")) if is_held(path)]
    if held:
        raise ParakeetError(f"Something is being built ({held[0].stem}): run this again when it has ended.")
    store, build = Store(root), Build(root, active_recipe(root))
    folders = [stage.folder or stage.name for stage in STAGES]
    # Sources of other recipes too.
    folders += sorted(f"{SOURCE_FILES}/{folder.name}" for folder in (root / SOURCE_FILES).glob("*"))
    artifacts, stale = _read(path for folder in folders for path in store.directories(folder))
    found = [build.find(stage.name) for stage in stages_of(build.recipe)]
    mine = [artifact.path.resolve() for artifact in found if artifact is not None]
    kept = _closure([*mine, latest_release(root).resolve()], artifacts, root)
    stale += [path for path in artifacts if path not in kept]
    begun = _begun(build)
    stale += [path for folder in folders for path in store.partial(folder) if path not in begun]
    runs = {str(artifacts[path].counts["run"]) for path in kept if artifacts[path].stage == "checkpoint"}
    if build.find("packing_plan") is not None:
        runs.add(run_key(build.recipe, build.work("checkpoint").inputs))
    stale += [path for path in sorted(runs_folder(root).glob("*")) if path.name not in runs]
    return [Entry(path, _size(path)) for path in stale]


def _begun(build: Build) -> set[Path]:
    """Where stages of the recipe stand that go on inside themselves: hours of work that the next build goes on with."""
    ready = [
        stage.name
        for stage in stages_of(build.recipe)
        if stage.resumable and all(build.find(name) is not None for name in stage.inputs_for(build.recipe))
    ]
    return {build.store.partial_of(build.work(name)) for name in ready}


def remove(entries: Iterable[Entry]) -> None:
    """Delete the entries, and links that pointed at them."""
    for entry in entries:
        shutil.rmtree(entry.path)
        latest = entry.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def _read(paths: Iterable[Path]) -> tuple[dict[Path, Artifact], list[Path]]:
    """Artefacts by path, and the directories whose manifest cannot be read: nothing can refer to those."""
    artifacts, broken = {}, []
    for path in paths:
        try:
            artifacts[path.resolve()] = Artifact.open(path)
        except ParakeetError:
            broken.append(path)
    return artifacts, broken


def _closure(roots: Iterable[Path], artifacts: dict[Path, Artifact], root: Path) -> set[Path]:
    """The roots, all that they were made from, and every model to talk to (but not what older ones were made from)."""
    kept: set[Path] = set()
    waiting = [path for path in roots if path in artifacts]
    while waiting:
        path = waiting.pop()
        if path not in kept and path in artifacts:
            kept.add(path)
            waiting += [
                (root / made_from["path"]).resolve() for made_from in artifacts[path].manifest["inputs"].values()
            ]
    return kept | {path for path, artifact in artifacts.items() if artifact.stage in MODELS}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
