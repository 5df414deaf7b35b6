"""What of a run's surroundings is different now, and whether that may change its weights."""

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.data.reading.stage import DocumentsStage
from parakeet.errors import ParakeetError
from parakeet.formatting import format_time, render_table
from parakeet.hashes import HashCache
from parakeet.home import checkout, hashes_file
from parakeet.provenance import arithmetic_variables, git_patch, git_state, processor, software
from parakeet.recipe import Recipe
from parakeet.reproduction.trained import TrainedRun
from parakeet.training.device import choose_device, describe_device

UNKNOWN, NONE = "unknown", "none"
COMPUTING = ("torch", "triton", "bitsandbytes")
MOST_SHOWN = 6
"""Of names in one cell."""
SHORT = 12
"""Digits of a commit or sha256."""
CHOSEN = {"attention": ("reference", "fused", "flex"), "activation_checkpointing": ("none", "mlp", "block")}
"""Settings of training that may be auto, and what a recipe can prescribe in its place."""


@dataclass(frozen=True)
class Difference:
    """One thing, then and now. `may_change` is empty if it cannot change the weights."""

    what: str
    then: str
    now: str
    may_change: str


def pinned_recipe(trained: TrainedRun) -> tuple[Recipe, list[str]]:
    """The run's recipe with what it left to the machine set as it was then, and these settings for people."""
    first = trained.processes[0]
    hardware, training = first["hardware"], trained.recipe.training
    values: dict[str, Any] = {}
    if hardware.get("device") == "cpu":
        values["device"] = "cpu"
        if hardware.get("threads"):
            values["threads"] = hardware["threads"]
    elif hardware.get("device") == "cuda" and training.device == "cpu":
        values["device"] = "auto"
    if hardware.get("processes"):
        values["processes"] = hardware["processes"]
    lengths = list(first["execution"].values())
    if len({one.get("micro_batch_tokens") for one in lengths}) == 1:
        values["micro_batch_tokens"] = lengths[0]["micro_batch_tokens"]
    if lengths and training.precision == "auto" and lengths[0].get("precision"):
        values["precision"] = lengths[0]["precision"]
    for name, possible in CHOSEN.items():
        chosen = {one.get(name) for one in lengths}
        if getattr(training, name) == "auto" and len(chosen) == 1 and chosen <= {*possible}:
            values[name] = lengths[0][name]
    changed = {name: value for name, value in values.items() if getattr(training, name) != value}
    pinned = trained.recipe.model_copy(update={"training": training.model_copy(update=changed)})
    return pinned, [f"training.{name}={value}" for name, value in changed.items()]


def differences(trained: TrainedRun, recipe: Recipe, root: Path) -> list[Difference]:
    """Everything that is known to be different now, for training `recipe`: what may change the weights comes first."""
    found = [
        *_code(trained),
        *_software(trained),
        *_hardware(trained, recipe),
        *_environment(trained),
        *_source_files(trained, root),
    ]
    return sorted(found, key=lambda one: not one.may_change)


def _over_time(trained: TrainedRun, *keys: str) -> list[Any]:
    """The values that something had in the run's processes, in order, each once."""
    seen: list[Any] = []
    for process in trained.processes:
        value: Any = process
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in seen:
            seen.append(value)
    return seen


def _row(what: str, then: Sequence[Any], now: Any, may_change: str) -> list[Difference]:
    if list(then) == [now]:
        return []
    return [Difference(what, ", then ".join(map(_shown, then)), _shown(now), may_change)]


def _shown(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _code(trained: TrainedRun) -> list[Difference]:
    now = git_state()
    if now is None:
        commit, patch, untracked = None, None, list[str]()
    else:
        commit, (changes, untracked) = now["commit"], git_patch()
        patch = _digest(changes)
    then = _over_time(trained, "code", "commit")
    rows = _row("git commit", [one and one[:SHORT] for one in then], commit and commit[:SHORT], "yes")
    if then == [None]:
        return rows
    before = [NONE if one is None else one["sha256"][:SHORT] for one in _over_time(trained, "code", "patch")]
    rows += _row("uncommitted changes", before, NONE if patch is None else patch[:SHORT], "yes")
    # A module that is not in git is code as well.
    new = [name for name in untracked if name.endswith(".py")]
    old = [name for name in trained.processes[-1]["code"].get("untracked", []) if name.endswith(".py")]
    return rows + _row("untracked Python files", [_names(old)], _names(new), "yes")


def _digest(patch: bytes) -> str | None:
    return hashlib.sha256(patch).hexdigest() if patch else None


def _software(trained: TrainedRun) -> list[Difference]:
    now = software()
    rows = []
    for name in sorted({*now, *(key for process in trained.processes for key in process["software"])}):
        then = _over_time(trained, "software", name)
        # An earlier version recorded few of them; what is missing now as well says nothing.
        if then == [None] and not trained.recorded:
            continue
        rows += _row(name, [NONE if one is None else one for one in then], now.get(name) or NONE, _if_computing(name))
    return rows


def _if_computing(package: str) -> str:
    if package == "parakeet":
        return "yes"
    return "yes" if package in COMPUTING else ""


def _hardware(trained: TrainedRun, recipe: Recipe) -> list[Difference]:
    then = [process["hardware"] for process in trained.processes]
    rows = []
    try:
        # Threads are set as they were then, so those of this process do not count.
        here = describe_device(choose_device(recipe.training.device, 0, 1)) | {"threads": None}
    except ParakeetError:
        return [Difference("device", _names({str(one.get("name")) for one in then}), "no CUDA device", "yes")]
    for key in ("device", "name", "capability", "cpu_capability", "cuda", "cudnn", "driver"):
        before = [one for one in _over_time(trained, "hardware", key) if one is not None]
        if before and (key != "name" or here["device"] == "cuda"):
            rows += _row(LABELS.get(key, key), before, here.get(key), "yes")
    for key in ("threads", "processes"):
        before = [one for one in _over_time(trained, "hardware", key) if one is not None]
        if len(before) > 1:
            rows += _row(key, before, getattr(recipe.training, key), "yes")
    chips = [one["processor"] for one in then if "processor" in one]
    if chips:
        now = processor()
        rows += _row("processor", list(dict.fromkeys(chip["name"] for chip in chips)), now["name"], "yes")
        lost, new = ({*chips[0]["flags"]} - {*now["flags"]}, {*now["flags"]} - {*chips[0]["flags"]})
        if lost or new:
            rows.append(Difference("processor flags", _names(lost) if lost else "", _names(new) if new else "", "yes"))
    return rows


LABELS = {"name": "GPU", "cpu_capability": "torch's CPU kernels", "driver": "NVIDIA driver"}


def _environment(trained: TrainedRun) -> list[Difference]:
    if not trained.recorded:
        return []
    now, rows = arithmetic_variables(), []
    for name in sorted({*now, *(key for process in trained.processes for key in process["environment"])}):
        # The trainer sets it for itself, and threads are a setting of the run.
        if name in ("PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS"):
            continue
        then = [NONE if one is None else one for one in _over_time(trained, "environment", name)]
        rows += _row(name, then, now.get(name, NONE), "yes")
    return rows


def _source_files(trained: TrainedRun, root: Path) -> list[Difference]:
    """Text that was changed or removed since. Training reads the original token shards, so no weight depends on it."""
    wanted = trained.record["source_files"]
    try:
        paths = DocumentsStage().files(trained.recipe, root)
        hashed = HashCache(hashes_file(root)).hashed([path for label, path in paths.items() if label in wanted])
    except (ParakeetError, OSError) as error:
        return [Difference("text", f"{len(wanted):,} files", str(error), "")]
    rows = []
    for label, path in paths.items():
        now = hashed[path][0] if path in hashed else None
        if label in wanted and now != wanted[label]:
            rows.append(Difference(f"text {label}", wanted[label][:SHORT], _shown(now and now[:SHORT]), ""))
        elif label not in wanted and wanted:
            rows.append(Difference(f"text {label}", NONE, "new", ""))
    if len(rows) > MOST_SHOWN:
        return [Difference("text", f"{len(wanted):,} files", f"{len(rows):,} of them changed or new", "")]
    return rows


def _names(names: Iterable[str]) -> str:
    found = sorted(names)
    more = len(found) - MOST_SHOWN
    return " ".join(found[:MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "") if found else NONE


def render_differences(
    trained: TrainedRun, pinned: Sequence[str], found: Sequence[Difference], width: int | None
) -> str:
    """The run, what is different now, and what is set as it was then."""
    lines = [_heading(trained)]
    if not trained.recorded:
        lines.append(
            "An early version of Parakeet trained it and recorded less: its commit, its processor and its environment "
            "are not known."
        )
    starts = [process["from_step"] for process in trained.processes]
    if len(starts) > 1 or starts[0]:
        lines.append(f"Its processes began at step {', '.join(f'{step:,}' for step in starts)}.")
    for process in trained.processes:
        for key, (before, now) in (process.get("changed_settings") or {}).items():
            lines.append(f"From step {process['from_step']:,} on, {key} was {now} in place of {before}.")
    if found:
        rows = [(one.what, one.then, one.now, one.may_change or "no") for one in found]
        lines += ["", render_table(("DIFFERENT", "THEN", "NOW", "MAY CHANGE THE WEIGHTS"), rows, (), width)]
    else:
        lines.append("Nothing that is known is different now.")
    if any(one.what in CODE for one in found) and (commands := _original_code(trained)):
        lines += ["", *commands]
    if pinned:
        lines += ["", f"Set as it was then: {', '.join(pinned)}."]
    return "\n".join(lines)


CODE = ("git commit", "uncommitted changes")


def _heading(trained: TrainedRun) -> str:
    first, last = trained.processes[0], trained.processes[-1]
    ended = last.get("ended")
    when = (
        f", {format_time(first['started'])} to {format_time(ended) if ended else UNKNOWN}" if "started" in first else ""
    )
    return f"Run {trained.key} of recipe {trained.recipe.name}{when}."


def _original_code(trained: TrainedRun) -> list[str]:
    """The commands that bring back the code that began the run."""
    code, root = trained.processes[0]["code"], checkout()
    if code is None or root is None:
        return []
    git = f"git -C {shlex.quote(str(root))}"
    lines = ["To train with the original code:", f"  {git} checkout {code['commit']}"]
    patch = code.get("patch")
    file = trained.file(patch["file"]) if patch and patch["file"] else None
    if file is not None:
        lines.append(f"  {git} apply {shlex.quote(str(file))}")
    elif patch:
        lines.append(f"Its uncommitted changes were not kept ({patch['bytes']:,} bytes).")
    return lines
