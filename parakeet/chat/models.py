"""The models that a chat can open: releases, by folder or name, and checkpoints of training runs.

Everything here only reads, but hashes of weights are remembered. A run may be training: its trainer removes old
checkpoints at any time.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from parakeet.errors import ParakeetError
from parakeet.formatting import format_count, render_table
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, runs_folder
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.release.foreign import refuse_foreign, refuse_missing
from parakeet.release.listing import ListedModel, find_model, latest_model_folder, preferred, released_models
from parakeet.release.pointers import way_back
from parakeet.release.verify import SUMS_FILE, Release, open_release, recorded_sum
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.generation.choice import Candidates
    from parakeet.generation.engine import Engine
    from parakeet.model.transformer import Parakeet
    from parakeet.training.job import TrainingJob
    from parakeet.training.runs import Run, SavedStep

T = TypeVar("T")

SPINS = "10000"
"""How often an idle thread of torch looks for work before it sleeps: for about 0.2 ms, longer than any pause between
products. By default it is 300,000 times. While another program has the core of one thread, all others then burn theirs:
on two busy cores, the first token of the demo took 2.8 CPU seconds instead of 1.7."""

TRIES = 5
"""How often a checkpoint is looked for while the trainer removes the one that is being read."""


@dataclass(frozen=True)
class OpenedModel:
    release: Release
    engine: "Engine"
    notes: list[str] = field(default_factory=list)
    """Messages for the user, such as that the newest checkpoint is damaged, or the dtype slow here."""


@dataclass(frozen=True)
class LoadedModel:
    release: Release
    model: "Parakeet"
    tokenizer: Tokenizer
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ModelOpener:
    """Opens the models under a root with the precision, device, threads and prompt lookup of one chat."""

    root: Path
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    cache_dtype: str = "auto"
    prompt_lookup: bool = True
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """A session's header or event `model`, for what is left to `auto`: see `choice.candidates`."""

    def open(self, name: str | None = None, run: str | None = None) -> OpenedModel:
        """The model called `name`, the checkpoint `run` (KEY or KEY@STEP), or without either the latest release."""
        if run is not None:
            return self._open_run(run)
        return self._open_release(latest_model_folder(self.root) if name is None else find_release(self.root, name))

    def tokenizer(self, name: str | None = None, run: str | None = None) -> Tokenizer:
        """The tokenizer of the model that `open` would open. Needs no torch."""
        if run is not None:
            found = _run_of(self.root, _parse_run(run)[0])
            return Tokenizer.load(_job(found).tokenizer_in(found.path))
        return Tokenizer.load(latest_model_folder(self.root) if name is None else find_release(self.root, name))

    def open_any(self, name: str) -> OpenedModel:
        """What a name in the chat means: a model, or else a run (KEY or KEY@STEP)."""
        return self.open(**self._meant(name))

    def load_any(self, name: str | None) -> LoadedModel:
        """The same in fp32 on the best device, and not ready to generate; without a name the latest release.

        Of the opener, only its root matters.
        """
        meant = self._meant(name) if name is not None else {}
        _import_torch()
        from parakeet.model.transformer import best_device, load_model

        if "run" in meant:
            loaded = self._load_checkpoint(meant["run"], lambda config: None)[0]
            return replace(loaded, model=loaded.model.to(best_device()))

        directory = find_release(self.root, meant["name"]) if meant else latest_model_folder(self.root)
        release = open_release(directory, HashCache(hashes_file(self.root)).sha256_for_reader)
        return LoadedModel(release, load_model(directory, best_device()), Tokenizer.load(directory))

    def _meant(self, name: str) -> dict[str, str]:
        """A name as an argument of `open`."""
        if os.sep in name or _is_release(Path(name)):
            return {"name": name}
        key = name.removeprefix("run ").strip()
        if key != name or "@" in name:
            return {"run": key}
        models = [*released_models(self.root)]
        is_model = any(each.startswith(name) for model in models for each in (model.name, model.directory.name))
        if not is_model and any(run.key.startswith(name) for run in _runs(self.root)):
            return {"run": name}
        return {"name": name}

    def as_recorded(self, recorded: Mapping[str, Any]) -> "ModelOpener":
        """Opens models with the device, dtype and threads of a session's header, or its event `model`."""
        return replace(self, recorded=recorded)

    def open_recorded(self, recorded: Mapping[str, Any]) -> OpenedModel | None:
        """The model that a session's header, or its event `model`, identifies, with its device, dtype and threads.

        None if the model is no longer here.
        """
        opener = self.as_recorded(recorded)
        sha256 = recorded.get("model_sha256")
        if (folder := recorded_release(self.root, sha256)) is not None:
            return opener._open_release(folder)
        key = str(recorded.get("model", "")).removeprefix("run ")
        try:
            opened = opener._open_run(key) if "@" in key else None
        except ParakeetError:
            return None
        return opened if opened and opened.release.weights_sha256 == sha256 else None

    def _open_release(self, directory: Path) -> OpenedModel:
        # To hash the weights again takes longer than to load them: 0.8 s for 1.5 GB.
        try:
            release = open_release(directory, HashCache(hashes_file(self.root)).sha256_for_reader)
        except ParakeetError as error:
            if (command := way_back(self.root, directory)) is None:
                raise
            raise ParakeetError(f"{error} Or go back to the release before it: {command}") from None
        _import_torch()
        from parakeet.generation.engine import load_engine

        engine = load_engine(directory, self.device, self.dtype, self.threads, self.cache_dtype, self.recorded)
        engine.prompt_lookup = self.prompt_lookup
        return OpenedModel(release, engine, _notes(engine))

    def _open_run(self, text: str) -> OpenedModel:
        _import_torch()
        from parakeet.generation.choice import candidates
        from parakeet.generation.engine import Engine

        def possible_for(config: ModelConfig) -> "Candidates":
            return candidates(config, self.device, self.dtype, self.threads, self.cache_dtype, self.recorded)

        loaded, possible = self._load_checkpoint(text, possible_for)
        choice = possible.choose(loaded.model)
        engine = Engine(choice.decoder(loaded.model), loaded.tokenizer, choice)
        engine.prompt_lookup = self.prompt_lookup
        return OpenedModel(loaded.release, engine, loaded.notes + _notes(engine))

    def _load_checkpoint(self, text: str, prepare: Callable[[ModelConfig], T]) -> tuple[LoadedModel, T]:
        """A run's checkpoint, and what `prepare` makes of its shape before anything is loaded."""
        from parakeet.training.checkpoint import load_checkpoint_model

        key, step = _parse_run(text)
        for _ in range(TRIES):
            run = _run_of(self.root, key)
            saved_steps = _candidates(run, step)
            job = _job(run)
            tokenizer = Tokenizer.load(job.tokenizer_in(run.path))
            config = ModelConfig.from_recipe(job.recipe.model, tokenizer.rows)
            prepared = prepare(config)
            notes: list[str] = []
            for saved in saved_steps:
                version = _version(saved.path)
                try:
                    model, sha256 = load_checkpoint_model(saved.path, config)
                except ParakeetError as error:
                    if _version(saved.path) != version:
                        break  # removed or replaced meanwhile: look again
                    if step is not None:
                        raise
                    notes.append(f"{error} Using the checkpoint before it.")
                    continue
                release = Release(
                    saved.path,
                    f"run {run.key[:8]}@{saved.step}",
                    SamplingSettings(**job.recipe.generation.model_dump()),
                    sha256,
                )
                return LoadedModel(release, model, tokenizer, notes), prepared
            else:
                raise ParakeetError(f"No checkpoint of the run {run.key} is usable. {' '.join(notes)}")
        raise ParakeetError(
            f"The checkpoints of the run {run.key} were removed as fast as they could be read: try again, or name one "
            f"that is kept: {run.key}@{run.last_saved}"
        )


def _import_torch() -> None:
    """Import torch for a chat, if nothing has imported it yet.

    Without the cyclic garbage collector, because the million objects of an import stay: to look through them time and
    again takes a sixth of its CPU time, and to do so when the process ends as much again. Frozen, no collection visits
    them. An engine must not be made before that, or it would be kept in memory forever.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def find_release(root: Path, name: str) -> Path:
    """The folder of the model that a name means: a release's folder, or a name or ID that `parakeet models` lists."""
    path = Path(os.path.expanduser(name))
    # An export to Hugging Face's format has sums too.
    refuse_foreign(path, released_models(root))
    if _is_release(path):
        return path
    if name and (os.path.isdir(path) or os.sep in name):
        refuse_missing(path, name)
        why = f"it has no {SUMS_FILE}" if os.path.isdir(path) else "it is a file. Name the folder of a release"
        raise ParakeetError(f"{path} is not a release: {why}.")
    return find_model(root, name).directory


def recorded_release(root: Path, model_sha256: str | None) -> Path | None:
    """The folder of the release with these weights, or None. A session identifies its models by them."""
    folders = [listed.directory for listed in released_models(root)]
    with suppress(ParakeetError):
        folders.append(latest_model_folder(root))
    return next((folder for folder in folders if model_sha256 is not None and _sum(folder) == model_sha256), None)


def render_models(root: Path, present: Release, width: int) -> str:
    """The models that `/model` can switch to, as a table; the `present` one is marked."""
    rows: list[tuple[object, ...]] = []
    for model in _newest_of_each_name(root):
        rows.append((_mark(model.directory, present), model.name, format_count(model.parameters), "release"))
    for run, short in _saved_runs(root):
        mark = "*" if present.directory.parent == run.path else ""
        rows.append((mark, short, run.model, f"run at step {run.last_saved:,}, {run.state}"))
    if not rows:
        return f"No other model in {root}."
    return render_table(("", "model", "parameters", "what"), rows, right=(2,), width=width)


def model_names(root: Path) -> Iterator[tuple[str, str]]:
    """Names that `/model` takes, each with what it means."""
    for model in _newest_of_each_name(root):
        yield model.name, f"{format_count(model.parameters)} parameters"
    yield from ((short, f"run, {run.state}") for run, short in _saved_runs(root))


def _notes(engine: "Engine") -> list[str]:
    return list(engine.choice.notes) if engine.choice else []


def _is_release(path: Path) -> bool:
    return os.path.isfile(path / SUMS_FILE)  # False, too, for a name that no file can have


def _newest_of_each_name(root: Path) -> list[ListedModel]:
    named: dict[str, list[ListedModel]] = {}
    for model in released_models(root):
        named.setdefault(model.name, []).append(model)
    return [preferred(models) for models in named.values()]


def _mark(directory: Path, present: Release) -> str:
    return "*" if directory.resolve() == present.directory.resolve() else ""


def _sum(directory: Path) -> str | None:
    try:
        return recorded_sum(directory, WEIGHTS_FILE)
    except (OSError, ValueError, StopIteration):
        return None


def _parse_run(text: str) -> tuple[str, int | None]:
    key, at, step = text.partition("@")
    digits = step.replace(",", "").replace("_", "").removeprefix("step-")
    if not key or (at and not (digits.isascii() and digits.isdigit())):
        raise ParakeetError(f"{text!r} is not a run: give KEY or KEY@STEP, such as 3fa9@1200. All: parakeet runs")
    return key, int(digits) if at else None


# Imported within: most chats open a release, and need nothing of runs.


def _job(run: "Run") -> "TrainingJob":
    from parakeet.training.job import JOB_FILE, TrainingJob

    return TrainingJob.load(run.path / JOB_FILE)


def _run_of(root: Path, key: str) -> "Run":
    from parakeet.training.runs import find_run

    return find_run(runs_folder(root), key)


def _runs(root: Path) -> "list[Run]":
    from parakeet.training.runs import list_runs

    return list_runs(runs_folder(root))[0]


def _saved_runs(root: Path) -> "list[tuple[Run, str]]":
    """The runs that have a checkpoint, each with its key in short."""
    from parakeet.training.runs import short_keys

    runs = [run for run in _runs(root) if run.last_saved is not None]
    return list(zip(runs, short_keys(runs), strict=True))


def _candidates(run: "Run", step: int | None) -> "list[SavedStep]":
    """The checkpoints to try, the best first. Raises ParakeetError if there is none."""
    own = [saved for saved in run.saved if not saved.abandoned]
    if not run.saved:
        raise ParakeetError(
            f"The run {run.key} has no checkpoint yet (it is at step {run.step:,} of {run.total_steps:,}). "
            "Try again when `parakeet runs` shows that one was saved."
        )
    if step is None:
        return list(reversed(own or run.saved))
    found = [saved for saved in (*own, *run.saved) if saved.step == step][:1]
    if not found:
        there = ", ".join(f"{saved.step}" for saved in run.saved)
        raise ParakeetError(f"The run {run.key} has no checkpoint of step {step:,}. It has: {there}.")
    return found


def _version(checkpoint: Path) -> tuple[int, int] | None:
    """Changes when a checkpoint is removed or replaced."""
    from parakeet.training.job import STATE_FILE

    try:
        status = (checkpoint / STATE_FILE).stat()
        return status.st_ino, status.st_mtime_ns
    except OSError:
        return None
