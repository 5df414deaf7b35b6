"""A training run as it is recorded, by its key or by a model that was made of it. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parakeet.artifact import Artifact, Store
from parakeet.earlier import with_new_keys
from parakeet.errors import ParakeetError
from parakeet.home import runs_folder
from parakeet.model.config import WEIGHTS_FILE
from parakeet.names import find_name
from parakeet.recipe import Recipe
from parakeet.release.listing import find_model, list_models
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.training.job import JOB_FILE, SUMMARY_FILE, read_job
from parakeet.training.record import RUN_FILE, lineage, read_record
from parakeet.training.recorded import recorded_recipe

INPUTS = ("tokenizer", "token_shards", "packing_plan")


@dataclass(frozen=True)
class TrainedRun:
    """A run with what is known of it.

    folder      of the run, which may have been removed since
    checkpoint  the finished model, None if there is none or it was removed
    record      as run.json has it, or with fewer keys what an earlier version left
    recorded    whether there is a run.json
    """

    key: str
    folder: Path
    checkpoint: Artifact | None
    recipe: Recipe
    record: Mapping[str, Any]
    recorded: bool

    @property
    def processes(self) -> list[Mapping[str, Any]]:
        """One for each start and resume, in order."""
        return list(self.record["processes"])

    @property
    def weights_sha256(self) -> str | None:
        """Of the finished weights, if known."""
        result = self.record.get("result")
        if result:
            return str(result["weights_sha256"])
        return None if self.checkpoint is None else str(self.checkpoint.manifest["files"][WEIGHTS_FILE]["sha256"])

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint, or of the run's folder, which may have been trained on since."""
        folders = [*([] if self.checkpoint is None else [self.checkpoint.path]), self.folder]
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


def find_trained(root: Path, name: str) -> TrainedRun:
    """The run whose key begins with `name`, or that a model of this name or ID was made of.

    Raises ParakeetError if there is none, or several, or if its recipe is not known.
    """
    made = Store(root).artifacts("checkpoint")
    checkpoints = {str(one.counts.get("run")): one for one in made}
    folder = runs_folder(root)
    begun = [path.name for path in folder.glob("*") if (path / JOB_FILE).is_file()] if folder.is_dir() else []
    keys = sorted({*begun, *checkpoints})
    if not keys:
        raise ParakeetError(f"There is no training run in {folder} yet. Start one with: parakeet build")
    if any(key.startswith(name) for key in keys) or not list_models(root)[0]:
        key = find_name(name, keys, "run", "parakeet runs")
        return _trained(root, key, checkpoints.get(key))
    key, content = _run_of_model(root, name)
    # The same run may have been trained further since, to another model.
    of_model = next((one for one in reversed(made) if one.content == content), None)
    if of_model is None and key in checkpoints:
        raise ParakeetError(
            f"The checkpoint that {name} was made of was removed, and run {key} was trained to another one since: "
            f"reproduce that with: parakeet reproduce {key}"
        )
    return _trained(root, key, of_model)


def _run_of_model(root: Path, name: str) -> tuple[str, str]:
    """The run's key and the content of its checkpoint."""
    model = find_model(root, name)
    file = model.directory / TRAINING_MANIFEST_FILE
    try:
        checkpoint = json.loads(file.read_text(encoding="utf-8"))["stages"]["checkpoint"]
        return str(checkpoint["counts"]["run"]), str(checkpoint["content"])
    except FileNotFoundError:
        raise ParakeetError(f"{model.name} was imported: no training run here made it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParakeetError(f"{file} does not name the training run ({error}).") from None


def _trained(root: Path, key: str, checkpoint: Artifact | None) -> TrainedRun:
    folder = runs_folder(root) / key
    record = (None if checkpoint is None else read_record(checkpoint.path)) or read_record(folder)
    if record is not None:
        try:
            recipe = Recipe(**with_new_keys(record["recipe"]))
        except ValidationError as error:
            first = error.errors()[0]
            raise ParakeetError(
                f"Run {key} has a recipe that this version of Parakeet does not accept: "
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}. {_checkout(record)}"
            ) from None
        return TrainedRun(key, folder, checkpoint, recipe, record, recorded=True)
    known = recorded_recipe(folder)
    if known is None:
        raise ParakeetError(
            f"Run {key} has no {RUN_FILE} that can be read, and {folder / JOB_FILE} does not hold its recipe: it "
            "cannot be reproduced."
        )
    return TrainedRun(key, folder, checkpoint, known, _earlier_record(root, folder, checkpoint), recorded=False)


def _checkout(record: Mapping[str, Any]) -> str:
    commit = (record["processes"][0].get("code") or {}).get("commit")
    return f"Use the code that trained it: git checkout {commit}" if commit else ""


def _earlier_record(root: Path, folder: Path, checkpoint: Artifact | None) -> dict[str, Any]:
    """What an earlier version of Parakeet left of a run: its inputs, and some figures beside the finished model."""
    summary: dict[str, Any] = {}
    software: dict[str, Any] = {}
    if checkpoint is not None:
        software = dict(checkpoint.manifest["versions"])
        try:
            summary = json.loads((checkpoint.path / SUMMARY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            summary = {}
    if "torch" in summary:
        software["torch"] = str(summary["torch"])
    hardware: dict[str, Any] = {key: summary[key] for key in ("threads", "processes") if key in summary}
    if "device" in summary:
        hardware |= {"name": summary["device"], "device": "cpu" if summary["device"] == "cpu" else "cuda"}
    found, files = lineage(root, _inputs_of_job(root, folder))
    return {
        "start": _start(folder),
        "inputs": found,
        "source_files": files,
        "processes": [
            {
                "from_step": 0,
                "code": None,
                "software": software,
                "hardware": hardware,
                "execution": summary.get("execution", {}),
            }
        ],
    }


def _start(folder: Path) -> Any:
    """The weights that training began with, as the job has them."""
    try:
        return read_job(folder / JOB_FILE).get("start")
    except (OSError, ValueError):
        return None


def _inputs_of_job(root: Path, folder: Path) -> dict[str, Artifact]:
    """Those of its inputs that are still in the store."""
    job, found = read_job(folder / JOB_FILE), {}
    for name, key in zip(INPUTS, ("tokenizer", "shards", "plan"), strict=True):
        # A job has whole paths, and the store may have moved since: the last two parts are stage and fingerprint.
        path = root.joinpath(*Path(job[key]).parts[-2:])
        try:
            found[name] = Artifact.open(path)
        except ParakeetError:
            continue
    return found
