"""Stage `checkpoint`: prepares a run, trains it in a process of its own, and collects the finished model."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.command_line import command_line
from parakeet.earlier import earlier_run_key
from parakeet.errors import ParakeetError, ProcessDied
from parakeet.home import runs_folder
from parakeet.locking import exclusive
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.stage import Check, Figures, MakeContext, Picture, Stage, Verdict
from parakeet.tokenizer import Tokenizer
from parakeet.training.changeable import CHANGEABLE, PLANNED, STARTED_FROM, run_settings
from parakeet.training.forecast import bytes_on_disk, run_bytes, unmet
from parakeet.training.job import (
    CURVE_FILE,
    FAILURE_FILE,
    JOB_FILE,
    LAUNCH_LOCK_FILE,
    LOCK_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    TRAINED,
    TrainingJob,
)
from parakeet.training.record import PATCH_FILE, RUN_FILE, lineage
from parakeet.training.start import KEY, Start, with_start


def run_key(recipe: Recipe, inputs: Mapping[str, Artifact], start: Start | None = None) -> str:
    """First 16 hex digits of a sha256 over everything that identifies a training run.

    Only the packing plan of the first sequence length counts, so that adding a later length continues the same run.
    """
    content = {name: artifact.content for name, artifact in inputs.items()}
    plans = _plan_digests(inputs["packing_plan"], [recipe.packing.sequence_length])
    values = {**run_settings(recipe), "inputs": content | {"packing_plan": plans}}
    if start is not None:
        values["start"] = start.weights_sha256
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def run_folder(recipe: Recipe, inputs: Mapping[str, Artifact], root: Path, start: Start | None) -> Path:
    """The run's folder; one that the version before this began under its own key is continued."""
    runs = runs_folder(root)
    folder = runs / run_key(recipe, inputs, start)
    first = recipe.packing.sequence_length
    earlier = earlier_run_key(recipe, inputs, _plan_digests(inputs["packing_plan"], [first]))
    return runs / earlier if earlier and (runs / earlier).is_dir() and not folder.is_dir() else folder


def with_planned_tokens(recipe: Recipe, inputs: Mapping[str, Artifact]) -> Recipe:
    """The recipe with the exact tokens of a retraining, whose training.tokens was estimated before the text was read.

    A recipe without packing.replay stays as it is.
    """
    replay, plan = recipe.packing.replay, inputs["packing_plan"].counts
    if replay is None:
        return recipe
    tokens = replay.passes * plan["rows"] * plan["row_tokens"]
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"tokens": tokens})})


def _plan_digests(plan: Artifact, lengths: Sequence[int]) -> dict[str, str]:
    """sha256 of each length's plan file, by the length in digits."""
    from parakeet.data.tokens.packing import plan_file

    return {
        str(sequence_length): plan.manifest["files"][plan_file(sequence_length)]["sha256"]
        for sequence_length in lengths
    }


def _clear(run: Path, progress: Progress) -> None:
    """Delete everything of a run but its locks, once no process trains it.

    The trainer of a killed build may still be saving. If its lock file were deleted, a second trainer would lock
    another file of the same name, and both would write here.
    """
    launched, trained = run / LAUNCH_LOCK_FILE, run / LOCK_FILE
    kept = {launched, trained, launched.with_suffix(".holder"), trained.with_suffix(".holder")}
    with exclusive(launched, TRAINED, progress), exclusive(trained, TRAINED, progress):
        # Checkpoints first: a run would resume from one that is left, even without its metrics.
        for path in sorted(run.iterdir(), key=lambda path: not path.is_dir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path not in kept:
                path.unlink()


def _why(job: TrainingJob, problem: str, before: int | None) -> ParakeetError:
    """Why the trainer ended. `before`: the time of a failure file that an earlier trainer may have left."""
    failure = job.run / FAILURE_FILE
    if (job.output / FAILURE_FILE).is_file():
        return ParakeetError((job.output / FAILURE_FILE).read_text(encoding="utf-8"))
    if _time_of(failure) not in (None, before):
        return ParakeetError(failure.read_text(encoding="utf-8"))
    return ProcessDied(
        f"The training process ended early ({problem}). Run the same command again: it continues from its last "
        f"checkpoint in {job.run}."
    )


def _time_of(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _refuse_other_tokenizer(start: Start, tokenizer: Artifact) -> None:
    ours, theirs = Tokenizer.load(tokenizer.path).sha256, start.tokenizer.sha256
    if ours != theirs:
        raise ParakeetError(
            f"{KEY}: {start.folder} has another tokenizer (sha256 {theirs[:12]}) than the text was cut into tokens "
            f"with ({ours[:12]}), so the ids have other meanings. Run the same build again."
        )


class CheckpointStage(Stage):
    name = "checkpoint"
    group = "model"
    summary = "The trained weights, with the run's metrics and its loss curve."
    detail = "Trained in a process of its own, which saves and stops on SIGINT or SIGTERM and resumes from there."
    kinds = frozenset({"pytorch", "safetensors"})
    records = (METRICS_FILE, SUMMARY_FILE, CURVE_FILE, RUN_FILE, PATCH_FILE)
    pool = "training"
    verifies_files = True

    def __init__(self, find_start: Callable[[Recipe, Path], Start | None]) -> None:
        """`find_start` finds the model that a recipe's training starts from."""
        self._find_start = find_start

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return ("token_shards", "packing_plan", "tokenizer")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """With PLANNED, which may change while a run is unfinished but decide its weights.

        Without `start`, whose weights are one of the files.
        """
        without = {*(set(CHANGEABLE) - PLANNED), STARTED_FROM}
        return {
            "model": settings_of(recipe.model),
            "packing": settings_of(recipe.packing),
            "training": settings_of(recipe.training, without=without),
        }

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        """The weights that training starts from, if not from random ones. Raises ParakeetError if they do not fit."""
        start = self._find_start(recipe, root)
        return {} if start is None else {f"{KEY}/{WEIGHTS_FILE}": start.weights}

    def check_requirements(self, recipe: Recipe) -> None:
        training, cuda = recipe.training, recipe.training.device != "cpu"
        if training.attention == "flex" and training.device == "auto":
            import torch

            cuda = torch.cuda.is_available()
        for problem in unmet(training, cuda):
            raise ParakeetError(problem)

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        """What training still needs, beyond what its run takes already."""
        config = ModelConfig.from_recipe(recipe.model, Tokenizer.load(inputs["tokenizer"].path).rows)
        run = run_folder(recipe, inputs, root, self._find_start(recipe, root))
        return max(0, run_bytes(config, recipe.training) - bytes_on_disk(run))

    def run_folders(self, recipe: Recipe, inputs: Mapping[str, Artifact], root: Path) -> list[Path]:
        return [run_folder(recipe, inputs, root, self._find_start(recipe, root))]

    def run_folders_of(self, artifact: Artifact, root: Path) -> list[Path]:
        return [runs_folder(root) / str(artifact.counts["run"])]

    def make(self, context: MakeContext) -> dict[str, Any]:
        """Train, or continue training, in the run's own folder; `force` first deletes what the run has done."""
        recipe, inputs, output = with_planned_tokens(context.recipe, context.inputs), context.inputs, context.output
        start = self._find_start(recipe, context.root)
        context.refuse_changed()
        if start is not None:
            _refuse_other_tokenizer(start, inputs["tokenizer"])
        run = run_folder(recipe, inputs, context.root, start)
        if not (run / JOB_FILE).exists():
            from parakeet.training.recorded import left_unfinished

            for line in left_unfinished(context.root, recipe):
                context.progress.say(line)
        run.mkdir(parents=True, exist_ok=True)
        if context.force:
            _clear(run, context.progress)
        made_from, source_files = lineage(context.root, inputs)
        job = TrainingJob(
            recipe=recipe if start is None else with_start(recipe, str(start.folder)),
            tokenizer=inputs["tokenizer"].path,
            shards=inputs["token_shards"].path,
            shards_content=inputs["token_shards"].content,
            plan=inputs["packing_plan"].path,
            plan_digests=_plan_digests(inputs["packing_plan"], recipe.packing.lengths),
            run=run,
            output=output,
            try_anyway=context.try_anyway,
            start=None if start is None else start.lineage(),
            command=command_line(),
            lineage=made_from,
            source_files=source_files,
        )
        before = _time_of(run / FAILURE_FILE)
        problem = context.launch([sys.executable, "-m", "parakeet.training", str(job.save()), str(os.getpid())])
        if problem is not None:
            raise _why(job, problem, before)
        shutil.copy2(run / METRICS_FILE, output / METRICS_FILE)
        for name in (RUN_FILE, PATCH_FILE):
            if (run / name).is_file():
                shutil.copy2(run / name, output / name)
        summary: dict[str, Any] = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
        return {"run": run.name, **summary, **({} if start is None else {"start": start.lineage()})}

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['parameters']:,} parameters, {counts['tokens']:,} tokens, loss {counts['final_loss']:.3f}"

    def figures(self, artifact: Artifact) -> Figures:
        shown = {name: artifact.counts[key] for key, name in SHOWN.items() if artifact.counts.get(key) is not None}
        files = {"metrics": artifact.path / METRICS_FILE, "loss_curve": Picture(artifact.path / CURVE_FILE)}
        return {**shown, **({} if "mfu" in shown else {"mfu": "unknown"}), **files}

    def checks(self) -> tuple[Check, ...]:
        converged = "Every weight is finite and the loss has fallen from where it began."
        reloads = "Read back from its file, the model gives the logits that the trained one gave."
        return (
            Check("training_converged", converged, _training_converged, blocking=True),
            Check("reload_gives_equal_logits", reloads, _reload_gives_equal_logits, blocking=True),
        )


SHOWN = {
    "final_loss": "final_loss",
    "validation_loss": "validation_loss",
    "tokens": "tokens",
    "steps": "steps",
    "parameters": "parameters",
    "seconds": "training_seconds",
    "tokens_per_second": "tokens_per_second",
    "mfu": "mfu",
    "memory_bytes": "peak_memory_bytes",
    "forecast_bytes": "forecast_memory_bytes",
    "skipped": "skipped",
    "rolled_back": "rolled_back",
    "device": "device",
    "processes": "processes",
    "run": "run",
}
"""What of the trainer's summary is shown, and under which name: the stage has a time of its own."""


STARTED_SLACK = 1.25
"""A model that starts from trained weights may have little left to learn. In a season of retrainings one on good text
went from 1.517, the loss of one batch, to 1.666."""


def _training_converged(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    import numpy as np
    from safetensors import safe_open

    fault = None
    with safe_open(artifact.path / WEIGHTS_FILE, framework="numpy") as file:
        broken = [name for name in file.keys() if not np.isfinite(file.get_tensor(name)).all()]  # noqa: SIM118
    first, last = artifact.counts["first_loss"], artifact.counts["final_loss"]
    if broken:
        fault = f"{broken[0]} holds values that are not finite. Lower training.learning_rate and build again."
    elif not last < first * (STARTED_SLACK if "start" in artifact.counts else 1.0):
        fault = f"The loss went from {first:.3f} to {last:.3f}. Lower training.learning_rate, or train on more tokens."
    return Verdict(fault is None, fault, {"first_loss": first, "final_loss": last})


def _reload_gives_equal_logits(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    recorded = artifact.counts.get("logits")
    if recorded is None:
        return Verdict(True, "It was trained before logits were recorded, so there is nothing to compare with.")
    from parakeet.model.reload import differ, probe_logits
    from parakeet.model.transformer import load_model

    try:
        found = probe_logits(load_model(artifact.path, "cpu"))
    except ParakeetError as error:
        return Verdict(False, str(error))
    difference = differ(found, recorded)
    if difference is None:
        return Verdict(True, figures={"logits": len(recorded)})
    fault = (
        f"A logit differs by {difference:.3g} from that of the trained model: the file does not hold its weights. Run "
        "the same build again with: --force checkpoint"
    )
    return Verdict(False, fault, {"difference": difference})
