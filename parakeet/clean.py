"""Finding artefacts that nothing refers to, and work that is not finished."""

import json
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact, Store, point_link
from parakeet.errors import ParakeetError
from parakeet.home import latest_release, runs_folder
from parakeet.locking import is_held
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.release.history import ROLLED_BACK, decisions
from parakeet.release.listing import ListedModel, list_models
from parakeet.release.pointers import find_opened, incumbent, promoted_recipes, recipe_of
from parakeet.release.promotion import remove_promoted
from parakeet.release.start import pinned
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.stages import STAGES, Build, active_recipe, recipe_built_last
from parakeet.studies.stage import MeasurementsStage
from parakeet.studies.state import Claims, claims
from parakeet.trace.stage import TraceIndexStage
from parakeet.trace.stored import trained_on
from parakeet.training.job import JOB_FILE, read_job
from parakeet.training.record import read_record
from parakeet.training.runs import load_run

TRAINED = "checkpoint"
"""The stage whose artefact took the weeks."""


@dataclass(frozen=True)
class Entry:
    """A folder that may go. An unfinished one names the stage and, if it is known, the recipe that began it."""

    path: Path
    n_bytes: int
    stage: str = ""
    recipe: str = ""
    seconds_idle: float = 0.0


@dataclass(frozen=True)
class Leftovers:
    """What neither the recipe in use nor the one built last needs.

    What is `unreferenced` can be built again, what is `unfinished` was never finished: also a trained model that no
    release was made of, and its run.
    """

    unreferenced: list[Entry]
    unfinished: list[Entry]


def leftovers(root: Path, with_unfinished: bool = False, own: Path | None = None) -> Leftovers:
    """What may go under `root`.

    Neither list holds what the builds of the recipe in use and of the one built last consist of, finished or not, any
    release or imported model, what the promoted release of any recipe was made from, or a run that another run or those
    recipes start from. Nor do they hold what the studies need whose folders are in `studies/`. What unfinished work
    was begun with is no leftover either, unless that work is to go too (`with_unfinished`). Only the stages' own
    folders are looked at. Raises ParakeetError while anything is being built or trained, but for the holder of the lock
    file `own`, and if the sources or artefacts of those recipes, or a study, cannot be read: what belongs to them is
    then unknown.
    """
    refuse_while_building(root, own)
    store = Store(root)
    builds = [Build(root, active_recipe(root))]
    last = load_recipe(recipe_built_last(root), report_old_keys=False)
    if last != builds[0].recipe:
        builds.append(Build(root, last))
    models = {stage.folder or stage.name for stage in STAGES if stage.is_model}
    folders = [*(stage.folder or stage.name for stage in STAGES), MeasurementsStage.name]
    # Sources of other recipes too.
    folders += sorted(f"{SOURCE_FILES}/{folder.name}" for folder in (root / SOURCE_FILES).glob("*") if folder.is_dir())
    artifacts, unreadable = _read(path for folder in folders for path in store.directories(folder))
    needed: list[Artifact] = []
    begun, runs = set[Path](), set[Path]()
    for build in builds:
        found = {name: artifact for name in build.stages if (artifact := build.find(name)) is not None}
        needed += found.values()
        directories, folders_of_runs = _begun_by(build, found)
        begun |= directories
        runs |= folders_of_runs
    partial = [path for folder in folders for path in store.partial(folder) if path not in begun]
    unfinished = [path for path in partial if _resumable(path, root)]
    others = [path for path in runs_folder(root).glob("*") if path.is_dir() and path not in runs]
    studies = claims(root)
    released, runs_of_released = _released(artifacts, root)
    unfinished += [run for run in sorted(others) if run.name not in runs_of_released or not _is_finished(run)]
    of_builds = {artifact.path.resolve() for artifact in needed}
    trained_only = [
        path
        for path, artifact in sorted(artifacts.items())
        if artifact.stage == TRAINED and artifact.content not in released and path not in of_builds
    ]

    of_studies = _of_studies(studies, artifacts, trained_only, unfinished)
    unfinished = [path for path in unfinished if path not in of_studies]
    trained_only = [path for path in trained_only if path not in of_studies]
    roots = [artifact.path.resolve() for artifact in needed] + _promoted(root)
    roots += [path for path in of_studies if path in artifacts]
    roots += [path for entry in of_studies if entry not in artifacts for path in _inputs_of(entry, root)]
    runs |= {path for path in of_studies if path not in artifacts}
    if not with_unfinished:
        roots += [path for entry in unfinished for path in _inputs_of(entry, root)]
        roots += [(root / one["path"]).resolve() for path in trained_only for one in _made_from(artifacts[path])]
    kept = _closure(roots, artifacts, root)
    kept |= {path for path in artifacts if path.parent.name in models}
    trained = [path for folder in sorted(models) for path in store.directories(folder)]
    trained += [path for path in kept if artifacts[path].stage == TRAINED]
    kept |= _indices_of(kept, artifacts, trained, root)
    stages = {stage.name: stage for stage in STAGES}
    for artifact in (artifacts[path] for path in kept if artifacts[path].stage in stages):
        runs |= set(stages[artifact.stage].run_folders_of(artifact, root))
    # A model that cannot be read may be of a later Parakeet.
    stale = [path for path in unreadable if path.parent.name not in models]
    stale += [path for path in artifacts if path not in kept and path not in trained_only]
    stale += [path for path in partial if path not in unfinished]
    unfinished = [*(path for path in unfinished if path not in runs), *trained_only]
    going = [run for run in sorted(others) if run not in runs and run not in unfinished]
    named = starts(root, [build.recipe for build in builds], [*going, *(unfinished if with_unfinished else ())])
    begun_from = {runs_folder(root) / folder for folder, _ in named}
    stale += [run for run in going if run not in begun_from]
    unfinished = [path for path in unfinished if path not in begun_from]
    return Leftovers([Entry(path, size_of(path)) for path in stale], [_unfinished(path) for path in unfinished])


def starts(root: Path, recipes: Iterable[Recipe], without: Collection[Path] = ()) -> set[tuple[str, str]]:
    """Models that these recipes, or training runs other than those `without`, start from.

    Each is the last two parts of its folder (a run and its checkpoint, `releases` and a release): the store may have
    moved since.
    """
    named: list[Any] = []
    for recipe in recipes:
        named.append(recipe.training.start)
        with suppress(ParakeetError):  # a build says so
            named.append(pinned(recipe, root).training.start)
    for job in (_json(path) for path in runs_folder(root).glob(f"*/{JOB_FILE}") if path.parent not in without):
        for keys in (("start", "folder"), ("recipe", "training", "start")):
            value: Any = job
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            named.append(value)
    parts = [Path(folder).parts[-2:] for folder in named if isinstance(folder, str)]
    return {(pair[0], pair[1]) for pair in parts if len(pair) == 2}


def refuse_while_building(root: Path, own: Path | None = None) -> None:
    """Raise ParakeetError while anything under `root` is being built or trained. `own` is the caller's lock file."""
    locks = [*(root / ".locks").rglob("*.lock"), *runs_folder(root).glob("*/*.lock")]
    if held := [path for path in sorted(locks) if path != own and is_held(path)]:
        raise ParakeetError(f"Something is being built ({held[0].stem}): run this again when it has ended.")


def why_keep_model(root: Path, model: ListedModel) -> list[str]:
    """What a user should know before `remove_model`: who opens the model, and what would build it again.

    Raises ParakeetError while anything is being built or trained.
    """
    refuse_while_building(root)
    reasons = []
    if model.latest:
        reasons.append(f"{model.name} is the model that `parakeet chat` opens.")
    try:
        recipe = active_recipe(root)
        if (model.directory.parent.name, model.directory.name) in starts(root, [recipe], _finished_runs(root)):
            reasons.append(
                f"The recipe in use, {recipe.name}, or an unfinished training run starts from it (training.start): "
                "without it, neither can be built."
            )
        build = Build(root, recipe)
        found = [build.find(stage.name) for stage in STAGES if stage.is_model]
    except ParakeetError:
        return reasons  # sources or artefacts of the recipe in use cannot be read: nothing can be built from it now
    if model.directory.resolve() in [artifact.path.resolve() for artifact in found if artifact is not None]:
        reasons.append(f"The recipe in use, {build.recipe.name}, refers to it: the next build packs it again.")
    return reasons


def remove_model(root: Path, model: ListedModel) -> ListedModel | None:
    """Delete a model, and nothing that it was made from. Returns what `parakeet chat` opens in its place, if it did.

    The pointer of a promoted release moves to the one promoted before it, and the history says so. Raises ParakeetError
    while anything is being built or trained.
    """
    refuse_while_building(root)
    if model.is_promoted:
        remove_promoted(root, model.directory, recipe_of(model.directory), "It was removed by hand.")
    remove([Entry(model.directory, model.n_bytes)])
    if not model.latest:
        return None
    opened = find_opened(root)[0]
    if opened is None:
        # In a store of an earlier Parakeet, every release was promoted when it was made.
        is_earlier = all(decision.action == ROLLED_BACK for decision in decisions(root)[0])
        left = [other for other in list_models(root)[0] if other.state == "not judged" and is_earlier]
        if not left:
            return None
        opened = left[-1].directory
        point_link(latest_release(root), opened.name)
    return next(other for other in list_models(root)[0] if other.directory.name == opened.name)


def _promoted(root: Path) -> list[Path]:
    found = [incumbent(root, recipe) for recipe in promoted_recipes(root)]
    return [path.resolve() for path in (*found, find_opened(root)[0]) if path is not None]


def _released(artifacts: Mapping[Path, Artifact], root: Path) -> tuple[set[str], set[str]]:
    """Contents of the checkpoints that a release was made of, and the names of their runs.

    Where the release is gone, the comparison that judged it still leads to its checkpoint.
    """
    made = [path for path, artifact in artifacts.items() if artifact.stage in ("release", "comparison")]
    contents, runs = set[str](), set[str]()
    for path in _closure(made, artifacts, root):
        contents |= {one["content"] for name, one in artifacts[path].manifest["inputs"].items() if name == TRAINED}
    for path in made:
        with suppress(OSError, ValueError, KeyError, TypeError):
            manifest = json.loads((path / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
            contents.add(str(manifest["stages"][TRAINED].get("content")))
            runs.add(str(manifest["stages"][TRAINED]["counts"]["run"]))
    found = [artifact for artifact in artifacts.values() if artifact.stage == TRAINED]
    runs |= {str(artifact.counts.get("run")) for artifact in found if artifact.content in contents}
    # One run may train longer after it was released.
    return contents, runs - {str(one.counts.get("run")) for one in found if one.content not in contents}


def _of_studies(
    studies: Claims, artifacts: Mapping[Path, Artifact], trained_only: Iterable[Path], unfinished: Iterable[Path]
) -> set[Path]:
    """What the studies of this home have made, and the unfinished work of their runs."""
    made = {
        path
        for path, artifact in artifacts.items()
        if artifact.content in studies.contents
        or artifact.manifest["inputs"].get(TRAINED, {}).get("content") in studies.contents
    }
    begun = {
        path for path in (*trained_only, *unfinished) if studies.recipes and _unfinished(path).recipe in studies.recipes
    }
    return made | begun


def _made_from(artifact: Artifact) -> list[dict[str, str]]:
    return list(artifact.manifest["inputs"].values())


def _is_finished(run: Path) -> bool:
    """Whether a training run has ended as its job asks; what cannot be read is taken for unfinished."""
    try:
        return load_run(run).state == "finished"
    except ParakeetError:
        return False


def _finished_runs(root: Path) -> list[Path]:
    return [path for path in runs_folder(root).glob("*") if path.is_dir() and _is_finished(path)]


def _inputs_of(unfinished: Path, root: Path) -> list[Path]:
    """Folders of the artefacts that unfinished work was begun with."""
    if job := _json(unfinished / JOB_FILE):
        # A job has whole paths, and the store may have moved since: the last two parts are stage and fingerprint.
        names = [job.get(name) for name in ("tokenizer", "shards", "plan")]
        return [root.joinpath(*Path(name).parts[-2:]).resolve() for name in names if isinstance(name, str)]
    inputs = _note(unfinished).get("inputs", [])
    return [(root / name).resolve() for name in inputs if isinstance(name, str)] if isinstance(inputs, list) else []


def _begun_by(build: Build, found: dict[str, Artifact]) -> tuple[set[Path], set[Path]]:
    """Unfinished directories and training runs of the build's own stages."""
    directories, runs = set(), set()
    for name, stage in build.stages.items():
        inputs = {upstream: found[upstream] for upstream in stage.inputs(build.recipe) if upstream in found}
        if len(inputs) < len(stage.inputs(build.recipe)) or not stage.is_possible(build.recipe, build.store.root):
            continue
        runs |= set(stage.run_folders(build.recipe, inputs, build.store.root))
        if stage.resumable:
            directories |= set(build.store.begun(build.work(name)))
    return directories, runs


def _resumable(partial: Path, root: Path) -> bool:
    """Whether the stage of an unfinished directory would continue it; one that begins again leaves only rubbish."""
    note = _note(partial)
    if "resumable" in note:
        return bool(note["resumable"])
    folder = partial.parent.relative_to(root).as_posix()
    known = [stage.resumable for stage in STAGES if folder == (stage.folder or stage.name)]
    return known[0] if known else True


def _note(partial: Path) -> dict[str, Any]:
    return _json(Store.note_beside(partial))


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; empty if there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _unfinished(path: Path) -> Entry:
    times = [file.stat().st_mtime for file in path.rglob("*") if file.is_file()]
    idle = max(0.0, time.time() - max(times, default=path.stat().st_mtime))
    if (path / MANIFEST_FILE).is_file():
        recipe = (read_record(path) or {"recipe": {}})["recipe"].get("name", "")
        return Entry(path, size_of(path), TRAINED, str(recipe), idle)
    if (path / JOB_FILE).is_file():
        return Entry(path, size_of(path), TRAINED, _recipe_of_run(path), idle)
    note = _note(path)
    return Entry(path, size_of(path), str(note.get("stage", path.parent.name)), str(note.get("recipe", "")), idle)


def _recipe_of_run(run: Path) -> str:
    try:
        return str(read_job(run / JOB_FILE)["recipe"].get("name", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def remove(entries: Iterable[Entry]) -> None:
    """Delete the entries, and links that pointed at them."""
    for entry in entries:
        shutil.rmtree(entry.path)
        Store.note_beside(entry.path).unlink(missing_ok=True)
        for link in entry.path.parent.glob("latest*"):
            if link.is_symlink() and not link.exists():
                link.unlink()


def _read(paths: Iterable[Path]) -> tuple[dict[Path, Artifact], list[Path]]:
    """Artefacts by path, and the directories whose manifest cannot be read: nothing can refer to those."""
    artifacts, broken = {}, []
    for path in paths:
        try:
            artifact = Artifact.open(path)
            _ = artifact.stage, artifact.content  # what is asked of each below
            artifacts[path.resolve()] = artifact
        except (ParakeetError, KeyError, TypeError, AttributeError):
            broken.append(path)
    return artifacts, broken


def _closure(roots: Iterable[Path], artifacts: Mapping[Path, Artifact], root: Path) -> set[Path]:
    """The roots and all that they were made from."""
    kept: set[Path] = set()
    waiting = [path for path in roots if path in artifacts]
    while waiting:
        path = waiting.pop()
        if path not in kept and path in artifacts:
            kept.add(path)
            waiting += [(root / one["path"]).resolve() for one in _made_from(artifacts[path])]
    return kept


def _indices_of(kept: set[Path], artifacts: dict[Path, Artifact], models: Iterable[Path], root: Path) -> set[Path]:
    """The newest trace index of each text that is kept, or that a model of `models` was trained on.

    The token shards of a model that is not the latest may be gone: `parakeet trace` needs only the index.
    """
    texts = {artifacts[path].content for path in kept if artifacts[path].stage == "token_shards"}
    for model in models:
        with suppress(ParakeetError):  # an imported one, or one that cannot be read
            texts.add(trained_on(model).shards_content)
    newest = {
        text: index.path.resolve()
        for index in Store(root).artifacts(TraceIndexStage.name)
        if (text := index.manifest["inputs"].get("token_shards", {}).get("content")) in texts
    }
    return set(newest.values()) & artifacts.keys()


def size_of(path: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
