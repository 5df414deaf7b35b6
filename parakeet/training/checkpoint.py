"""Checkpoints of a training run: `step-00000100/`, written whole or not at all, and never as pickle."""

import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from parakeet.artifact import explain_os_error, sha256_of, sync_directory, sync_file, write_synced
from parakeet.errors import ParakeetError
from parakeet.model.config import WEIGHTS_FILE
from parakeet.model.transformer import Parakeet, save_tensors
from parakeet.progress import Progress
from parakeet.training.schedule import Schedule

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True)
class RunState:
    """What a run is, beside its tensors: steps and tokens done, and where the data stands."""

    step: int
    tokens: int
    loader: dict[str, Any]
    schedule: Schedule


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(path for path in run.glob("step-*") if path.is_dir())


def save_checkpoint(run: Path, model: Parakeet, optimizer: torch.optim.Optimizer, state: RunState) -> Path:
    """Write one checkpoint: tensors, then `state.json` with their hashes, then the rename that makes it count."""
    final = run / f"step-{state.step:08d}"
    partial = run / f".partial-{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(model.state_dict(), partial / WEIGHTS_FILE)
        tensors, plain = _flatten_optimizer(optimizer)
        save_tensors(tensors | _random_tensors(), partial / OPTIMIZER_FILE)
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
            sync_file(partial / name)
        values = {
            **asdict(state),
            "optimizer": plain,
            "python_random": random.getstate(),
            "files": {name: sha256_of(partial / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)},
        }
        write_synced(partial / STATE_FILE, json.dumps(values) + "\n")
        sync_directory(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_directory(run)
    except OSError as error:
        raise explain_os_error(error, f"saving the checkpoint of step {state.step:,}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def prune_checkpoints(run: Path, keep: int, schedule: Schedule) -> None:
    """Remove all but the newest `keep` and the newest from before the decay, which longer runs go on from.

    Only what a run of `schedule` could go on from is counted: the checkpoints of a longer run in the same
    folder are newer by their step, and would otherwise push out the one just written.
    """
    states = {path: read_state(path) for path in checkpoints(run)}
    mine = [path for path, state in states.items() if schedule.shares_past(state.step, state.schedule)]
    stable = [path for path in mine if states[path].step <= states[path].schedule.decay_start]
    for path in set(mine) - {*mine[-keep:], *stable[-1:]}:
        shutil.rmtree(path)


def read_state(checkpoint: Path) -> RunState:
    values = _read_values(checkpoint)
    return RunState(values["step"], values["tokens"], values["loader"], Schedule(**values["schedule"]))


def restore_newest(
    run: Path, model: Parakeet, optimizer: torch.optim.Optimizer, schedule: Schedule, progress: Progress
) -> RunState | None:
    """Load the newest whole checkpoint that a run of `schedule` can go on from, or None.

    A torn or edited checkpoint is said and passed over for the one before it.
    """
    for path in reversed(checkpoints(run)):
        try:
            state = read_state(path)
            if not schedule.shares_past(state.step, state.schedule):
                continue
            _restore(path, model, optimizer)
        except ParakeetError as error:
            progress.say(f"{error} Going back to the checkpoint before it.")
            continue
        return state
    return None


def _restore(path: Path, model: Parakeet, optimizer: torch.optim.Optimizer) -> None:
    values = _read_values(path)
    for name, expected in values["files"].items():
        if not (path / name).is_file() or sha256_of(path / name) != expected:
            raise ParakeetError(f"{path / name} was changed after it was written.")
    device = str(model.embedding.weight.device)
    weights = load_file(path / WEIGHTS_FILE, device=device)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise ParakeetError(f"{path / WEIGHTS_FILE} is of another model.")
    tensors = load_file(path / OPTIMIZER_FILE, device=device)
    random_tensors = {name: tensors.pop(name).cpu() for name in list(tensors) if name.startswith("random.")}
    model.load_state_dict(weights)
    optimizer.load_state_dict(_unflatten_optimizer(tensors, values["optimizer"]))
    version, numbers, gauss = values["python_random"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(random_tensors["random.cpu"])
    for index in range(torch.cuda.device_count()):
        if f"random.cuda.{index}" in random_tensors:
            torch.cuda.set_rng_state(random_tensors[f"random.cuda.{index}"], index)


def _read_values(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / STATE_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Schedule(**values["schedule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParakeetError(f"{path} cannot be read ({error}).") from None
    return values


def _random_tensors() -> dict[str, Tensor]:
    """Random states of torch: the CPU's and every CUDA device's. Nothing here draws from numpy's global state."""
    devices = {f"random.cuda.{index}": torch.cuda.get_rng_state(index) for index in range(torch.cuda.device_count())}
    return {"random.cpu": torch.get_rng_state(), **devices}


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State tensors by `state.<parameter>.<name>`, and what is left as JSON values."""
    values = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in values["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                # bitsandbytes shares one quantisation map between parameters; safetensors refuses shared memory.
                tensors[f"state.{index}.{name}"] = value.clone()
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"groups": values["param_groups"], "state": plain}


def _unflatten_optimizer(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in plain["state"].items()}
    for key, tensor in tensors.items():
        _, index, name = key.split(".", 2)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": plain["groups"]}
