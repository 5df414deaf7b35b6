"""run.json: what a run was trained from and with. One entry in `processes` for each start and resume.

A trainer writes it while it holds the run's lock. It changes nothing of the training, so a disk that is full or a file
that was damaged costs the record and not the run. Imports no torch.
"""

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact, replace_file, sha256_of
from parakeet.errors import ParakeetError
from parakeet.model.config import WEIGHTS_FILE
from parakeet.provenance import (
    MOST_PATCH_BYTES,
    MOST_UNTRACKED,
    arithmetic_variables,
    git_patch,
    git_state,
    processor,
    software,
)
from parakeet.training.job import TrainingJob

RUN_FILE = "run.json"
PATCH_FILE = "run.patch"
"""Beside it: the code's uncommitted changes when the run began. `run-2.patch` if the second process had others."""
SCHEMA = 1
MOST_CHARACTERS = 300
"""Of an argument of the command line: Dagster passes a run's whole definition in one."""


class RunRecord:
    """The entry of one process in a run's record.

    `run_id` is Dagster's, or the trainer's process id. `hardware` is what torch knows of the device; `execution` is how
    each sequence length is computed.
    """

    def __init__(
        self,
        job: TrainingJob,
        step: int,
        run_id: str,
        hardware: Mapping[str, Any],
        execution: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._job = job
        self._say = say
        earlier = read_record(job.run) or {}
        recipe = job.recipe.model_dump(mode="json")
        processes: list[dict[str, Any]] = list(earlier.get("processes", []))
        self._values: dict[str, Any] = {
            "schema": SCHEMA,
            "run": job.run.name,
            "recipe": recipe,
            "inputs": job.lineage,
            "source_files": job.source_files,
            "start": job.start,
            "seeds": {"training": job.recipe.training.seed, "order": job.recipe.packing.seed},
            "processes": processes,
            "result": None,
        }
        number = len(processes) + 1
        self._entry: dict[str, Any] = {
            "from_step": step,
            "started": _now(),
            "ended": None,
            "outcome": None,
            "command": [argument[:MOST_CHARACTERS] for argument in job.command],
            "run_id": run_id,
            "changed_settings": _changed(earlier.get("recipe"), recipe) if earlier else {},
            "code": self._code(number, earlier),
            "software": software(),
            "hardware": {"system": platform.platform(), "processor": processor(), **hardware},
            "execution": dict(execution),
            "environment": arithmetic_variables(),
        }
        processes.append(self._entry)
        self._write()

    @contextmanager
    def ending(self) -> Iterator["RunRecord"]:
        """Note when and how the process ends; a process that is killed leaves both empty."""
        try:
            yield self
        except BaseException:
            self._end("failed")
            raise

    def end(self, finished: bool, step: int) -> None:
        """Note the end after `step`; of a finished run, the weights in the job's output folder."""
        if finished:
            try:
                weights = sha256_of(self._job.output / WEIGHTS_FILE)
                self._values["result"] = {"step": step, "weights_sha256": weights}
            except OSError as error:
                self._say(f"The weights cannot be read for {RUN_FILE} ({error.strerror or error}). They are trained.")
        self._end("finished" if finished else "stopped")

    def _end(self, outcome: str) -> None:
        self._entry |= {"ended": _now(), "outcome": outcome}
        self._write()

    def _write(self) -> None:
        try:
            replace_file(self._job.run / RUN_FILE, json.dumps(self._values, indent=2) + "\n")
        except OSError as error:
            self._say(f"{self._job.run / RUN_FILE} cannot be written ({error.strerror or error}). Training goes on.")

    def _code(self, number: int, earlier: Mapping[str, Any]) -> dict[str, Any] | None:
        """Commit, and the patch file that holds the uncommitted changes: an earlier one, if those are the same."""
        state = git_state()
        if state is None:
            return None
        patch, untracked = git_patch()
        code = {"commit": state["commit"], "untracked": untracked[:MOST_UNTRACKED]}
        if not patch:
            return {**code, "patch": None}
        digest = hashlib.sha256(patch).hexdigest()
        for before in earlier.get("processes", []):
            if (known := (before.get("code") or {}).get("patch")) and known["sha256"] == digest:
                return {**code, "patch": known}
        file = PATCH_FILE if number == 1 else f"{Path(PATCH_FILE).stem}-{number}.patch"
        values = {"file": file, "sha256": digest, "bytes": len(patch)}
        if len(patch) > MOST_PATCH_BYTES:
            return {**code, "patch": {**values, "file": None}}
        try:
            replace_file(self._job.run / file, patch)
        except OSError as error:
            self._say(f"{self._job.run / file} cannot be written ({error.strerror or error}). Training goes on.")
            values["file"] = None
        return {**code, "patch": values}


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a run's folder or of a checkpoint; None if there is none, or none that can be read."""
    try:
        values = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA or not isinstance(values["recipe"], dict):
            return None
        processes = values["processes"]
        complete = processes and all({"from_step", "software", "hardware", "code"} <= one.keys() for one in processes)
        return dict(values) if complete else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def lineage(root: Path, inputs: Mapping[str, Artifact]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """What a training is made from: every artefact by stage, and the sha256 of every source file by its label.

    An artefact has `path` (from `root`), `fingerprint` and `content`. One whose folder was removed is still named by
    what was made from it.
    """
    found = {
        name: {"path": Path(os.path.relpath(artifact.path, root)).as_posix(), "content": artifact.content}
        for name, artifact in inputs.items()
    }
    files: dict[str, str] = {}
    waiting = list(inputs.values())
    while waiting:
        manifest = waiting.pop().manifest
        files |= manifest["source_files"]
        for name, before in manifest["inputs"].items():
            if name not in found:
                found[name] = {"path": before["path"], "content": before["content"]}
                waiting += _opened(root / before["path"])
    for values in found.values():
        values["fingerprint"] = Path(values["path"]).name.rpartition("-")[0]
    return found, files


def _opened(path: Path) -> list[Artifact]:
    try:
        return [Artifact.open(path)] if (path / MANIFEST_FILE).is_file() else []
    except ParakeetError:
        return []


def _changed(before: Any, now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings of training and packing that a resume changed, by dotted key: [before, now]."""
    changed = {}
    for section in ("training", "packing"):
        old = before.get(section, {}) if isinstance(before, dict) else {}
        for key, value in now[section].items():
            if key in old and old[key] != value:
                changed[f"{section}.{key}"] = [old[key], value]
    return changed


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
