"""Checkpoints of a training run: `step-00000100/`, written whole or not at all, and never as pickle.

    model.safetensors       the weights
    optimizer.safetensors   the optimizer's tensors, named by their place in its state: `0/exp_avg`
    state.json              RunState, the rest of the optimizer's state, and the hashes of both files and its own

A checkpoint has no random state: the trainer seeds torch from (seed, step, rank) at every step.
"""

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import chain
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from parakeet.artifact import (
    PARTIAL_PREFIX,
    explain_os_error,
    replace_file,
    sha256_of,
    sync_directory,
    sync_file,
    write_synced,
)
from parakeet.errors import ParakeetError, os_reason
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.execution import Precision
from parakeet.model.transformer import Parakeet, load_weights, save_tensors
from parakeet.progress import Progress
from parakeet.training.device import is_out_of_memory
from parakeet.training.job import BEST_FILE, CHECKPOINT_PATTERN, STATE_FILE
from parakeet.training.optimizer import Optimizer
from parakeet.training.schedule import Schedule
from parakeet.training.state_file import read_values, with_own_hash

OPTIMIZER_FILE = "optimizer.safetensors"
_REPLACED_PREFIX = ".replaced-"
_NAME = re.compile(r"step-(\d+)(?:-of-\d+)?")


@dataclass(frozen=True)
class RunState:
    """The state of a run, apart from its tensors. The fields are the keys of `state.json`.

    step, tokens            steps made and targets trained on so far
    loaders                 the loaders' states, by the index of the schedule's phase as a string
    monitor                 StabilityMonitor.state()
    skipped, rolled_back    skipped steps and rollbacks so far
    validation_loss         nats a token, if it was measured at this step
    world_size              processes that shared the steps; a resume with another number is correct, but not bit-exact
    good_step               the step to roll back to, 0 for the beginning; equal to `step` if the schedule asked for
                            this checkpoint and its step was not skipped
    precision               of the products so far; None in checkpoints of versions without `precision: auto`
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
    precision: Precision | None = None


@dataclass(frozen=True)
class HostCopy:
    """What a checkpoint is written from, while later steps change the model: tensors in the host's memory, the rest as
    JSON values."""

    state: RunState
    values: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @classmethod
    def of(cls, model: Parakeet, optimizer: Optimizer, state: RunState) -> "HostCopy":
        tensors: dict[str, Tensor] = {}
        plain = _split_tensors(optimizer.state_dict()["state"], "", tensors)
        values = json.loads(json.dumps(asdict(state) | {"optimizer": _layout(optimizer) | {"state": plain}}))
        return cls(state, values, _copied(model.state_dict()), _copied(tensors))


def _layout(optimizer: Optimizer) -> dict[str, Any]:
    """Identifies an optimizer: its methods, and the number of parameters in each group."""
    return {"name": optimizer.name, "groups": [len(group["params"]) for group in optimizer.param_groups]}


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [(int(match[1]), path) for path in run.glob(CHECKPOINT_PATTERN) if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def write_checkpoint(run: Path, copy: HostCopy) -> Path:
    """Write one checkpoint: tensors, then `state.json` with their hashes, then the rename that makes it count.

    Raises OSError, for example on a full disk; nothing of the checkpoint remains then.
    """
    final = _folder_for(run, copy.state)
    partial = run / f"{PARTIAL_PREFIX}{final.name}"
    try:
        partial.mkdir()
        hashes = {}
        for name, tensors in ((WEIGHTS_FILE, copy.weights), (OPTIMIZER_FILE, copy.optimizer)):
            save_tensors(tensors, partial / name)
            sync_file(partial / name)
            hashes[name] = sha256_of(partial / name)
        values = copy.values | {"files": hashes}
        write_synced(partial / STATE_FILE, json.dumps(with_own_hash(values)) + "\n")
        sync_directory(partial)
        if final.exists():
            final.rename(run / f"{_REPLACED_PREFIX}{final.name}")
        partial.rename(final)
        sync_directory(run)
    finally:
        tidy(run)
    return final


def tidy(run: Path) -> None:
    """Clean up after a process that was killed while it wrote, replaced or removed a checkpoint."""
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
    """Remove the checkpoints that are no longer needed, after that of `written`; write the best one to `best.json`.

    Kept are the newest `keep_checkpoints`; those of every `keep_every` steps (0 for none); the newest that a run of
    more tokens can continue from; the same of each other schedule that was trained to its end here, since its model may
    be released, and a retraining begins there; the one with the lowest validation loss; and the one to roll back to,
    which is older than `written.good_step` if that one could not be saved.

    Only checkpoints on this run's own course up to `written` are considered. A longer run in the same folder has
    newer ones, and a newer one of this run is one that was found damaged.
    """
    states = [(path, state) for path in checkpoints(run) if (state := _readable_state(path))]
    mine = [
        (path, state)
        for path, state in states
        if state.step <= written.step and written.schedule.shares_past(state.step, state.schedule)
    ]
    newest = [path for path, _ in mine[-keep_checkpoints:]]
    for_good = [path for path, state in mine if keep_every and state.step % keep_every == 0]
    stable = _stable(mine, written.schedule)
    good = [path for path, state in mine if _is_good(state, written.good_step)]
    losses = [(state.validation_loss, state.step, path) for path, state in mine]
    best = min(((loss, *rest) for loss, *rest in losses if loss is not None and isfinite(loss)), default=None)
    finished = {state.schedule for _, state in states if state.step == state.schedule.total_steps}
    retrained_from = [_stable(states, schedule)[-1:] for schedule in finished]
    kept = {*newest, *for_good, *stable[-1:], *chain(*retrained_from), *good[-1:], *([best[2]] if best else [])}
    for path, _ in mine:
        if path not in kept:
            _remove(path)
    # After the removals, which may make room for it.
    if best:
        replace_file(run / BEST_FILE, json.dumps({"step": best[1], "validation_loss": best[0]}) + "\n")


def _stable(states: list[tuple[Path, RunState]], schedule: Schedule) -> list[Path]:
    """The checkpoints on the course of a run of `schedule` that one of more tokens can continue from."""
    return [
        path
        for path, state in states
        if state.step <= schedule.stable_until and schedule.shares_past(state.step, state.schedule)
    ]


def read_state(checkpoint: Path) -> RunState:
    """The state in `state.json`; keys that an earlier version did not write get their defaults.

    Raises ParakeetError if the file is missing, damaged, edited, or lacks a key without a default. The tensors are
    not read.
    """
    values = read_values(checkpoint)
    needed = {field.name for field in fields(RunState) if field.default is MISSING} | {"optimizer", "files"}
    missing = sorted(needed - values.keys())
    if missing:
        raise ParakeetError(
            f"{checkpoint / STATE_FILE} was written by another version of Parakeet: it has no {', '.join(missing)}."
        )
    chosen = {field.name: values[field.name] for field in fields(RunState) if field.name in values}
    # With 0, a rollback would start from the beginning and lose everything up to this checkpoint.
    chosen.setdefault("good_step", values["step"])
    try:
        return RunState(**chosen | {"schedule": Schedule.from_values(values["schedule"])})
    except (KeyError, TypeError) as error:
        path = checkpoint / STATE_FILE
        raise ParakeetError(f"{path} was written by another version of Parakeet ({error}).") from None


def restore_newest(
    run: Path, model: Parakeet, optimizer: Optimizer, schedule: Schedule, progress: Progress
) -> RunState | None:
    """Load the newest intact checkpoint that a run of `schedule` can continue from; None if none fits the schedule.

    A damaged checkpoint is reported, and the one before it is used. Raises ParakeetError if all that fit are damaged,
    or if the checkpoint belongs to another model or optimizer; `model` and `optimizer` are unchanged then.
    """
    found = checkpoints(run)
    newest, faults = _newest_intact(found, lambda state: schedule.shares_past(state.step, state.schedule), progress)
    if newest is not None:
        _restore(newest[0], model, optimizer)
        return newest[1]
    if faults:
        raise ParakeetError(
            f"No checkpoint in {run} is usable. {' '.join(faults)} Nothing was changed. Restore the files, or use the "
            "version of Parakeet that wrote them. "
            "To train from the beginning, run the same build again with: --force checkpoint"
        )
    if found:
        progress.say(
            f"None of the {len(found)} checkpoints in {run} fits this recipe: their warm-up, decay, or change of the "
            "sequence length or batch size came at other steps. Training starts from the beginning. They are kept, for "
            "a build with the settings that they were made with."
        )
    return None


def begun_precision(run: Path, schedule: Schedule) -> Precision | None:
    """The precision that a run of `schedule` was begun with; None if it has no checkpoint."""
    for path in reversed(checkpoints(run)):
        state = _readable_state(path)
        if state is not None and schedule.shares_past(state.step, state.schedule):
            return state.precision
    return None


def restore_good(
    run: Path, model: Parakeet, optimizer: Optimizer, schedule: Schedule, progress: Progress, good_step: int
) -> RunState:
    """Load the newest intact checkpoint up to `good_step` that the schedule asked for.

    Not one that was made because somebody stopped the run: the run would take another course than without the stop.
    Raises ParakeetError as `restore_newest` does, and if there is no such checkpoint.
    """
    newest, faults = _newest_intact(
        checkpoints(run),
        lambda state: _is_good(state, good_step) and schedule.shares_past(state.step, state.schedule),
        progress,
    )
    if newest is None:
        raise ParakeetError(
            f"Training has to roll back to the checkpoint of step {good_step:,}, but neither that one nor an earlier "
            f"one in {run} is usable. {' '.join(faults) or 'None was saved.'} Nothing was removed. Restore the files "
            "and run the same build again. To train from the beginning, run it with: --force checkpoint"
        )
    _restore(newest[0], model, optimizer)
    return newest[1]


def _newest_intact(
    found: list[Path], fits: Callable[[RunState], bool], progress: Progress
) -> tuple[tuple[Path, RunState] | None, list[str]]:
    """The newest of `found` that fits, and what is wrong with newer ones, which is reported if an older one fits."""
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
            progress.say(f"{fault} Using the checkpoint before it.")
        return (path, state), faults
    return None, faults


def load_checkpoint_model(checkpoint: Path, config: ModelConfig) -> tuple[Parakeet, str]:
    """The model of a checkpoint, on the CPU, and the sha256 of its weights. The optimizer's tensors are not read.

    Safe while the run is trained: nothing is locked or written. Raises ParakeetError if the weights are damaged, are
    those of another model, or were removed or replaced just now.
    """
    expected = str(read_values(checkpoint)["files"][WEIGHTS_FILE])
    return load_verified(checkpoint / WEIGHTS_FILE, expected, config), expected


def load_verified(path: Path, expected: str, config: ModelConfig) -> Parakeet:
    """The model whose weights file has the sha256 `expected`, on the CPU.

    Raises ParakeetError if the file is damaged, holds another model, or is removed or replaced while it is read.
    """
    try:
        before = path.stat()
        if sha256_of(path) != expected:
            raise ParakeetError(f"{path} was changed after it was written.")
        model = load_weights(config, path, "cpu")
        after = path.stat()
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {os_reason(error)}.") from None
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        raise ParakeetError(f"{path} was replaced while it was read.")
    return model


def discard_after(run: Path, schedule: Schedule, step: int) -> None:
    """Remove the checkpoints after `step` on the course of a run of `schedule`, the newest first.

    A run that is killed between two removals resumes from one that is left, and comes to the same rollback again.
    """
    for path in reversed(checkpoints(run)):
        state = _readable_state(path)
        if state is not None and state.step > step and schedule.shares_past(state.step, state.schedule):
            _remove(path)


def _is_good(state: RunState, good_step: int) -> bool:
    """Whether a run that rolls back to `good_step` may use this checkpoint."""
    return state.good_step == state.step <= good_step


def _restore(path: Path, model: Parakeet, optimizer: Optimizer) -> None:
    saved = read_values(path)["optimizer"]
    _check_model(path, model)
    here = _layout(optimizer)
    if here != {name: saved[name] for name in here}:
        there, ours = (f"{o['name']} over {' + '.join(map(str, o['groups']))} parameters" for o in (saved, here))
        raise ParakeetError(
            f"{path} was saved with another optimizer: {there}; the recipe's is {ours}. {_advice(path)}"
        )
    with safe_open(path / WEIGHTS_FILE, "pt") as file, torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.copy_(file.get_tensor(name))
    state: dict[str, Any] = saved["state"]
    with safe_open(path / OPTIMIZER_FILE, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            # A copy: a view would hold the file's space on the disk after the checkpoint is pruned.
            _insert(state, name, file.get_tensor(name).clone())
    # Learning rate and other settings come from the recipe; only the state is restored.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(index): state[index] for index in state}, "param_groups": groups})


def _check_model(path: Path, model: Parakeet) -> None:
    here = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path / WEIGHTS_FILE, "pt") as file:
        there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    wrong = [name for name in here | there if here.get(name) != there.get(name)]
    if wrong:
        name = wrong[0]
        raise ParakeetError(
            f"{path} was saved from another model: its {name} has the shape {there.get(name, 'none')}, the recipe's "
            f"{here.get(name, 'none')} ({len(wrong)} tensors differ). {_advice(path)}"
        )


def _advice(path: Path) -> str:
    return f"Move {path.parent} away, or train with the recipe that it was made with."


def _verify(path: Path) -> None:
    for name, expected in read_values(path)["files"].items():
        if not (path / name).is_file() or sha256_of(path / name) != expected:
            raise ParakeetError(f"{path / name} was changed after it was written.")


def _readable_state(path: Path) -> RunState | None:
    try:
        return read_state(path)
    except ParakeetError:
        return None


def _folder_for(run: Path, state: RunState) -> Path:
    """`step-00000100`; with the run's length added if a run of another schedule already has that name.

    Otherwise a decay branch would replace checkpoints that the longer run keeps for good.
    """
    path = run / f"step-{state.step:08d}"
    there = _readable_state(path) if path.exists() else None
    if there is None or state.schedule.shares_past(state.step, there.schedule):
        return path
    return run / f"{path.name}-of-{state.schedule.total_steps:08d}"


def _remove(path: Path) -> None:
    """Renamed first, so that a half-removed checkpoint is not mistaken for a damaged one."""
    shutil.rmtree(path.rename(path.with_name(f"{PARTIAL_PREFIX}old-{path.name}")), ignore_errors=True)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # bitsandbytes shares one quantisation map between parameters. safetensors refuses shared memory; copies share none.
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _split_tensors(values: Mapping[Any, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors of nested dictionaries into `tensors`, as `0/exp_avg`; returns the plain values.

    The nesting may be deeper: bitsandbytes keeps its tensors under `__bnb_optimizer_quant_state__`.
    """
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            plain[str(name)] = _split_tensors(value, f"{prefix}{name}/", tensors)
        else:
            plain[str(name)] = value
    return plain


def _insert(values: dict[str, Any], place: str, tensor: Tensor) -> None:
    *names, last = place.split("/")
    for name in names:
        values = values.setdefault(name, {})
    values[last] = tensor


class CheckpointWriter:
    """Writes one checkpoint at a time. Use it in a `with`, which waits for the last one.

    The outcome of a write is reported by the thread that calls `poll`, `save`, `wait` or `close`, never by the
    background thread. `report` is called with a kind, the step and a text, and may therefore use things that are not
    thread-safe, such as Dagster's pipes.

    A save that fails with an OSError (a full disk) or for lack of memory is reported once and dropped, since the next
    save writes everything again. Only if no later save succeeds does `close` raise it. Any other error is a bug, and
    is raised where it is noticed.

    Only one process may hold the writer of a run: it deletes what a killed one left half written. Ranks that do not
    lead have `enabled=False` and write nothing.
    """

    def __init__(
        self,
        run: Path,
        progress: Progress,
        *,
        keep_checkpoints: int,
        keep_every: int,
        report: Callable[[Literal["saved", "save_failed"], int, str], None],
        enabled: bool = True,
    ) -> None:
        self._run = run
        self._progress = progress
        self._keep_checkpoints = keep_checkpoints
        self._keep_every = keep_every
        self._report = report
        self._enabled = enabled
        self._write: _Write | None = None
        self._unsaved: ParakeetError | None = None
        if enabled:
            tidy(run)

    def save(self, model: Parakeet, optimizer: Optimizer, state: RunState) -> None:
        """Copy everything and start writing the copy; training may continue as soon as this returns.

        Waits for a write in progress before it copies, so that there are never two copies.
        """
        if not self._enabled:
            return
        self.wait()
        step = state.step
        try:
            copy = HostCopy.of(model, optimizer, state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._unsaved = ParakeetError(
                f"There was not enough memory to copy the checkpoint of step {step:,}. Earlier checkpoints are "
                "unchanged. Free some memory on this machine and run the same command again."
            )
            text = f"The checkpoint of step {step:,} could not be saved: there is not enough memory to copy it."
            self._report_failure(step, text, "free some memory on this machine")
            return
        self._write = _Write(self._run, copy, self._keep_checkpoints, self._keep_every)

    def poll(self) -> None:
        """Report the latest write if it has ended; returns at once."""
        if self._write is not None and not self._write.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in progress and report it. Raises errors that another save would not fix."""
        write, self._write = self._write, None
        if write is None:
            return
        write.thread.join()
        if write.error is not None:
            raise write.error
        self._unsaved = write.unsaved
        if write.unsaved is None:
            self._report("saved", write.step, f"Checkpoint of step {write.step:,} saved.")
        if write.failure:
            text = f"The checkpoint of step {write.step:,} {write.failure}."
            self._report_failure(write.step, text, f"free some space in {self._run}")

    def _report_failure(self, step: int, text: str, advice: str) -> None:
        self._progress.say(f"{text} Training continues and the next save retries: {advice}.")
        self._report("save_failed", step, text)

    def close(self) -> None:
        """Wait for the last write. ParakeetError if it failed: the run would resume from an earlier step."""
        self.wait()
        if self._unsaved is not None:
            raise self._unsaved

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If the training itself failed, its error is the one to raise; a write that failed too is only reported.
        (self.close if error is None else self.wait)()


class _Write:
    """A checkpoint being written by a daemon thread, which does not keep the interpreter from ending.

    An OSError is kept only as text: its traceback would hold the whole copy in memory.
    """

    def __init__(self, run: Path, copy: HostCopy, keep_checkpoints: int, keep_every: int) -> None:
        self.step = copy.state.step
        self.failure = ""
        self.unsaved: ParakeetError | None = None
        self.error: BaseException | None = None
        arguments = (run, copy, keep_checkpoints, keep_every)
        self.thread = threading.Thread(target=self._work, args=arguments, name="checkpoint", daemon=True)
        self.thread.start()

    def _work(self, run: Path, copy: HostCopy, keep_checkpoints: int, keep_every: int) -> None:
        try:
            try:
                write_checkpoint(run, copy)
            except OSError as error:
                self.failure = f"could not be saved: {os_reason(error)}"
                self.unsaved = explain_os_error(error, f"saving the checkpoint of step {self.step:,}")
                return
            try:
                prune(run, copy.state, keep_checkpoints, keep_every)
            except OSError as error:
                self.failure = f"was saved, but older ones could not be removed: {os_reason(error)}"
        except BaseException as error:
            self.error = error
