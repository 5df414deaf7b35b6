"""Checkpoints of a training run: `step-00000100/`, written whole or not at all, and never as pickle.

    model.safetensors       the weights
    optimizer.safetensors   the optimizer's tensors by their place in its state, `0/exp_avg`
    state.json              RunState, what else the optimizer keeps, the hashes of both files and its own

There is no random state in them: the trainer seeds torch from (seed, step, rank) at every step.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from parakeet.artifact import PARTIAL_PREFIX, replace_file, sha256_of, sync_directory, sync_file, write_synced
from parakeet.errors import ParakeetError
from parakeet.model.config import WEIGHTS_FILE
from parakeet.model.transformer import Parakeet, save_tensors
from parakeet.progress import Progress
from parakeet.training.job import BEST_FILE, CHECKPOINT_PATTERN, STATE_FILE
from parakeet.training.schedule import Schedule

OPTIMIZER_FILE = "optimizer.safetensors"
_REPLACED_PREFIX = ".replaced-"
_NAME = re.compile(r"step-(\d+)(?:-of-\d+)?")


@dataclass(frozen=True)
class RunState:
    """What a run is, beside its tensors.

    step, tokens        steps made and targets trained on so far
    loaders             where the data stands, by the index of the schedule's phase as a string
    monitor             Healing.state(), the spike monitor's window in it
    skipped             steps left out so far; rolled_back: returns to an earlier checkpoint so far
    validation_loss     nats a token, where it was measured at this step
    world_size          processes that shared the steps; another number goes on correctly, if not bit for bit
    good_step           the step that the run goes back to if it has to, 0 for the beginning; of a checkpoint that the
                        schedule asked for its own step
    """

    step: int
    tokens: int
    loaders: dict[str, Any]
    schedule: Schedule
    monitor: dict[str, Any]
    skipped: int
    rolled_back: int
    validation_loss: float | None
    world_size: int
    good_step: int = 0


@dataclass(frozen=True)
class Snapshot:
    """What one checkpoint is made of: the live model and optimizer, and the state that belongs to them now."""

    model: Parakeet
    optimizer: torch.optim.Optimizer
    state: RunState


@dataclass(frozen=True)
class HostCopy:
    """A snapshot that later steps do not change: every tensor copied to the host's memory, the rest as JSON values."""

    state: RunState
    values: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @classmethod
    def of(cls, snapshot: Snapshot) -> "HostCopy":
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(snapshot.optimizer.state_dict()["state"], "", tensors)
        optimizer = asdict(_Layout.of(snapshot.optimizer)) | {"state": plain}
        values = json.loads(json.dumps(asdict(snapshot.state) | {"optimizer": optimizer}))
        return cls(snapshot.state, values, _copied(snapshot.model.state_dict()), _copied(tensors))


@dataclass(frozen=True)
class _Layout:
    """What tells optimizers apart: the class or classes, and how many parameters each of the groups has."""

    name: str
    groups: list[int]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> "_Layout":
        # A JoinedOptimizer has the names of its parts.
        name = getattr(optimizer, "name", type(optimizer).__name__)
        return cls(name, [len(group["params"]) for group in optimizer.param_groups])

    def __str__(self) -> str:
        return f"{self.name} over {' + '.join(map(str, self.groups))} parameters"


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [(int(match[1]), path) for path in run.glob(CHECKPOINT_PATTERN) if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def write_checkpoint(run: Path, copy: HostCopy) -> Path:
    """Write one checkpoint: tensors, then `state.json` with their hashes, then the rename that makes it count.

    Raises OSError where the disk is full, say; nothing of this checkpoint is left then.
    """
    final = _place(run, copy.state)
    partial = run / f"{PARTIAL_PREFIX}{final.name}"
    try:
        partial.mkdir()
        hashes = {}
        for name, tensors in ((WEIGHTS_FILE, copy.weights), (OPTIMIZER_FILE, copy.optimizer)):
            save_tensors(tensors, partial / name)
            sync_file(partial / name)
            hashes[name] = sha256_of(partial / name)
        values = copy.values | {"files": hashes}
        write_synced(partial / STATE_FILE, json.dumps(values | {"sha256": _sha256_of_values(values)}) + "\n")
        sync_directory(partial)
        if final.exists():
            final.rename(run / f"{_REPLACED_PREFIX}{final.name}")
        partial.rename(final)
        sync_directory(run)
    finally:
        tidy(run)
    return final


def tidy(run: Path) -> None:
    """Take away what a process left behind that was killed while it wrote, replaced or removed a checkpoint."""
    for path in run.glob(f"{_REPLACED_PREFIX}*"):
        final = run / path.name.removeprefix(_REPLACED_PREFIX)
        if final.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(final)
    for path in run.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in run.glob(f".{BEST_FILE}.*"):
        path.unlink()


def prune(run: Path, written: RunState, keep_checkpoints: int, keep_every: int) -> None:
    """Remove the checkpoints that nothing needs any more, after that of `written`; `best.json` names the best.

    These stay: the newest `keep_checkpoints`; those of every `keep_every` steps (0 for none); the newest that
    a run of more tokens can go on from; the one with the lowest validation loss; the one that the run goes back to,
    which is an earlier one than that of `written.good_step` where that could not be saved.

    Only the way of this run up to `written` is counted. Others have checkpoints in the same folder, those of
    a longer run being newer by their step; and a later one of this run's own is one that was found torn.
    """
    states = [(path, state) for path in checkpoints(run) if (state := _readable_state(path))]
    mine = [
        (path, state)
        for path, state in states
        if state.step <= written.step and written.schedule.shares_past(state.step, state.schedule)
    ]
    stable = [path for path, state in mine if state.step <= written.schedule.stable_until]
    measured = [(loss, state.step, path) for path, state in mine if (loss := _comparable(state)) is not None]
    best = min(measured, default=None)
    kept = {path for path, state in mine if keep_every and state.step % keep_every == 0}
    good = [path for path, state in mine if _is_good(state, written.good_step)]
    kept |= {*[path for path, _ in mine[-keep_checkpoints:]], *stable[-1:], *good[-1:], *([best[2]] if best else [])}
    for path, _ in mine:
        if path not in kept:
            _remove(path)
    # After the removals, which may be what makes room for it.
    if best:
        replace_file(run / BEST_FILE, json.dumps({"step": best[1], "validation_loss": best[0]}) + "\n")


def read_state(checkpoint: Path) -> RunState:
    """What an earlier version did not write has its default.

    Raises ParakeetError where `state.json` is missing, torn, edited, or lacks what has no default. The tensors are not
    looked at.
    """
    values = _read_values(checkpoint)
    needed = {field.name for field in fields(RunState) if field.default is MISSING} | {"optimizer", "files"}
    missing = sorted(needed - values.keys())
    if missing:
        raise ParakeetError(
            f"{checkpoint / STATE_FILE} is of another version of Parakeet: it has no {', '.join(missing)}."
        )
    chosen = {field.name: values[field.name] for field in fields(RunState) if field.name in values}
    # 0 would be the beginning: a run that had to go back would forget all that such a checkpoint knows.
    chosen.setdefault("good_step", values["step"])
    try:
        return RunState(**chosen | {"schedule": Schedule.from_values(values["schedule"])})
    except (KeyError, TypeError) as error:
        raise ParakeetError(f"{checkpoint / STATE_FILE} is of another version of Parakeet ({error}).") from None


def restore_newest(
    run: Path, model: Parakeet, optimizer: torch.optim.Optimizer, schedule: Schedule, progress: Progress
) -> RunState | None:
    """Load the newest whole checkpoint that a run of `schedule` can go on from; None if all are of other runs.

    A torn or edited checkpoint is said and passed over for the one before it. Raises ParakeetError where no other is
    left, and where the checkpoint is whole, but of another model or optimizer; `model` and `optimizer` are untouched
    then.
    """
    found = checkpoints(run)
    newest, faults = _newest_whole(found, lambda state: schedule.shares_past(state.step, state.schedule), progress)
    if newest is not None:
        _restore(newest[0], model, optimizer)
        return newest[1]
    if faults:
        raise ParakeetError(
            f"No checkpoint in {run} can be gone on from. {' '.join(faults)} Nothing was changed. Put back what was "
            "there before, or the version of Parakeet that wrote it. "
            "To train from nothing, run the same build again with: --force checkpoint"
        )
    if found:
        progress.say(
            f"None of the {len(found)} checkpoints in {run} can be gone on from: their warm-up, decay or change of row "
            "length came at other steps. Training begins anew; they stay, for a build with the settings they had."
        )
    return None


def restore_good(
    run: Path, model: Parakeet, optimizer: torch.optim.Optimizer, schedule: Schedule, progress: Progress, good_step: int
) -> RunState:
    """Load the newest whole checkpoint up to `good_step` of those that the schedule asked for.

    Not those that were made because somebody stopped the run, or it would go another way than one that nobody stopped.
    Raises ParakeetError as `restore_newest` does, and where there is none at all.
    """
    newest, faults = _newest_whole(
        checkpoints(run),
        lambda state: _is_good(state, good_step) and schedule.shares_past(state.step, state.schedule),
        progress,
    )
    if newest is None:
        raise ParakeetError(
            f"Training has to go back to the checkpoint of step {good_step:,}, but neither that nor one before it in "
            f"{run} can be read. {' '.join(faults) or 'None was saved.'} Nothing was removed. Put back what was there "
            "before and run the same build again. To train from nothing, run it with: --force checkpoint"
        )
    _restore(newest[0], model, optimizer)
    return newest[1]


def _newest_whole(
    found: list[Path], fits: Callable[[RunState], bool], progress: Progress
) -> tuple[tuple[Path, RunState] | None, list[str]]:
    """The newest of `found` that fits, and what is wrong with those passed over for it: said if there is one."""
    faults: list[str] = []
    for path in reversed(found):
        try:
            state = read_state(path)
            if not fits(state):
                continue
            _verify(path)
        except ParakeetError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            progress.say(f"{fault} Going back to the checkpoint before it.")
        return (path, state), faults
    return None, faults


def _is_good(state: RunState, good_step: int) -> bool:
    """Whether a run that has to go back to `good_step` may go back to this one."""
    return state.good_step == state.step <= good_step


def _restore(path: Path, model: Parakeet, optimizer: torch.optim.Optimizer) -> None:
    saved = _read_values(path)["optimizer"]
    _refuse_other_model(path, model)
    _refuse_other_optimizer(path, _Layout(saved["name"], saved["groups"]), _Layout.of(optimizer))
    with safe_open(path / WEIGHTS_FILE, "pt") as file, torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.copy_(file.get_tensor(name))
    state: dict[str, Any] = saved["state"]
    with safe_open(path / OPTIMIZER_FILE, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            # A copy: what the file gives is a view of it, which would hold its space on the disk after it is pruned.
            _put(state, name, file.get_tensor(name).clone())
    # The settings of the groups are the recipe's and the device's; only the state was learnt.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(index): state[index] for index in state}, "param_groups": groups})


def _refuse_other_model(path: Path, model: Parakeet) -> None:
    here = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path / WEIGHTS_FILE, "pt") as file:
        there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    wrong = [name for name in here | there if here.get(name) != there.get(name)]
    if wrong:
        name = wrong[0]
        raise ParakeetError(
            f"{path} is of another model: its {name} has the shape {there.get(name, 'of nothing')}, the recipe's "
            f"{here.get(name, 'none')} ({len(wrong)} tensors differ). {_advice(path)}"
        )


def _refuse_other_optimizer(path: Path, there: _Layout, here: _Layout) -> None:
    if there != here:
        raise ParakeetError(f"{path} is of another optimizer: {there}; the recipe's is {here}. {_advice(path)}")


def _advice(path: Path) -> str:
    return f"Move {path.parent} away, or train with the recipe that made it."


def _verify(path: Path) -> None:
    for name, expected in _read_values(path)["files"].items():
        if not (path / name).is_file() or sha256_of(path / name) != expected:
            raise ParakeetError(f"{path / name} was changed after it was written.")


def _read_values(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / STATE_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        told = values.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{path} cannot be read ({error}).") from None
    if told != _sha256_of_values(values):
        raise ParakeetError(f"{path} was changed after it was written.")
    return values


def _readable_state(path: Path) -> RunState | None:
    try:
        return read_state(path)
    except ParakeetError:
        return None


def _sha256_of_values(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _comparable(state: RunState) -> float | None:
    loss = state.validation_loss
    return loss if loss is not None and isfinite(loss) else None


def _place(run: Path, state: RunState) -> Path:
    """`step-00000100`; with the run's length where a run that decays at another step has that name already.

    A decay branch that is cut from a run would else replace the checkpoints which that run keeps for good.
    """
    path = run / f"step-{state.step:08d}"
    there = _readable_state(path) if path.exists() else None
    if there is None or state.schedule.shares_past(state.step, there.schedule):
        return path
    return run / f"{path.name}-of-{state.schedule.total_steps:08d}"


def _remove(path: Path) -> None:
    """Renamed first, so that one that is half removed is not taken for one that was torn."""
    shutil.rmtree(path.rename(path.with_name(f"{PARTIAL_PREFIX}old-{path.name}")), ignore_errors=True)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # bitsandbytes shares one quantisation map between parameters. safetensors refuses shared memory; copies have none.
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _take_tensors(values: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the tensors of nested dictionaries into `tensors`, by `0/exp_avg`; what stays is plain.

    bitsandbytes nests its own a level deeper, under `__bnb_optimizer_quant_state__`.
    """
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{place}{name}"] = value
        else:
            plain[str(name)] = _take_tensors(value, f"{place}{name}/", tensors) if isinstance(value, Mapping) else value
    return plain


def _put(values: dict[str, Any], place: str, tensor: Tensor) -> None:
    *names, last = place.split("/")
    for name in names:
        values = values.setdefault(name, {})
    values[last] = tensor
