"""Trains a finished run again, in a home of its own, from the same artefacts."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from parakeet.artifact import Artifact, Store, replace_file
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.locking import exclusive
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.start import folder_of
from parakeet.reproduction.trained import INPUTS, TrainedRun
from parakeet.stages import Build
from parakeet.training.runs import load_run
from parakeet.training.start import with_start

FOLDER = "reproductions"
"""Under the home: where a run is trained again, unless the user names a folder."""
MARK_FILE = "reproduction.json"
"""In such a folder: the run that is trained again there."""
RECIPE_FILE = "original-recipe.yaml"


class Interrupted(Exception):
    """Training was stopped with a checkpoint, from which the same command continues."""


@contextmanager
def prepared(root: Path, trained: TrainedRun, output: Path | None, progress: Progress) -> Iterator[Path]:
    """The folder to train in, locked. Raises ParakeetError if it holds something else."""
    place = output or root / FOLDER / trained.key
    if place.resolve() == root.resolve():
        raise ParakeetError(f"{place} is the home that the run is in: give --output another folder.")
    lock = root / ".locks" / f"reproduce-{trained.key}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(lock, f"run {trained.key} is being reproduced", progress):
        mark = place / MARK_FILE
        if place.is_dir() and any(place.iterdir()) and _mark(mark) != trained.key:
            raise ParakeetError(f"{place} is not empty, and run {trained.key} is not what was reproduced there.")
        place.mkdir(parents=True, exist_ok=True)
        replace_file(mark, json.dumps({"run": trained.key}) + "\n")
        yield place


def _mark(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_unfinished(trained: TrainedRun) -> None:
    """Raise ParakeetError if the run has not been trained to its end."""
    if trained.checkpoint is not None or trained.record.get("result"):
        return
    run = load_run(trained.folder)
    if run.state == "finished":
        return
    begun = f"finish it with: parakeet build --run {trained.key}"
    continued = begun if run.saved else "it has no checkpoint: build its recipe."
    raise ParakeetError(
        f"Run {trained.key} is unfinished (step {run.step:,} of {run.total_steps:,}), so there are no weights to "
        f"compare with: {continued}"
    )


def train_again(
    root: Path, trained: TrainedRun, recipe: Recipe, place: Path, try_anyway: bool, progress: Progress
) -> Artifact:
    """The checkpoint of a second training with `recipe` in `place`. Raises Interrupted if it was stopped."""
    inputs = _link_inputs(root, trained, place)
    interrupted = False

    def launch(command: Sequence[str]) -> str | None:
        nonlocal interrupted
        status = _run(command)
        interrupted = status in (INTERRUPTED, -signal.SIGINT)
        return None if status == 0 else f"exit status {status}"

    build = Build(place, recipe, inputs)
    build.stage("checkpoint").check_requirements(recipe)
    try:
        return build.ensure("checkpoint", progress, launch, try_anyway=try_anyway)[0]
    except ParakeetError:
        if interrupted:
            raise Interrupted from None
        raise


def with_original_start(root: Path, trained: TrainedRun, recipe: Recipe) -> Recipe:
    """The recipe with the folder that holds the weights that training began with. They may have been moved since."""
    start = trained.record.get("start")
    if not start:
        return recipe
    folder = folder_of(start, root)
    if folder is None:
        raise ParakeetError(
            f"Run {trained.key} began with the weights of {start['model']} ({start['folder']}, sha256 "
            f"{start['weights_sha256'][:12]}), which are not there any more: put them back, then run the same command "
            "again."
        )
    return with_start(recipe, str(folder))


def _run(command: Sequence[str]) -> int:
    """Run the trainer to its end. Ctrl-C makes it save and stop; a terminal sends that to both processes."""
    # It would report to a Dagster that waits for another trainer.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES")}
    with subprocess.Popen(command, env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)


def _link_inputs(root: Path, trained: TrainedRun, place: Path) -> dict[str, Artifact]:
    """The artefacts that the run was trained from, seen from `place`; and, where they still exist, those before."""
    found = {}
    for name, values in trained.record["inputs"].items():
        path = _of_content(root, name, values["path"], values["content"])
        if path is None:
            if name in INPUTS:
                raise ParakeetError(_removed(trained, name, root, place))
            continue
        link = place / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(path, target_is_directory=True)
        found[name] = Artifact.open(link)
        if name in INPUTS:
            Artifact.open(path).check(thorough=True)
    if missing := [name for name in INPUTS if name not in found]:
        raise ParakeetError(_removed(trained, missing[0], root, place))
    return found


def _of_content(root: Path, name: str, path: str, content: str) -> Path | None:
    """The artefact at this path if it still has this content; else another of the same content."""
    try:
        if Artifact.open(root / path).content == content:
            return root / path
    except ParakeetError:
        pass
    same = Store(root).artifacts(Path(path).parts[0] if "/" not in name else str(Path(path).parent), content)
    return same[-1].path if same else None


def _removed(trained: TrainedRun, name: str, root: Path, place: Path) -> str:
    """What to say if an input is gone: its text may still be there."""
    file = place / RECIPE_FILE
    replace_file(file, trained.recipe.to_yaml())
    return (
        f"Run {trained.key} cannot be trained again now: the {name} that it was trained on was removed from {root}. "
        "Make it again from the text, then run the same command again; it is used if it comes out the same: "
        f"parakeet build --recipe {shlex.quote(str(file))} --select packing_plan"
    )


def discard(place: Path) -> None:
    """Remove a reproduction that nobody asked to keep."""
    shutil.rmtree(place, ignore_errors=True)
