"""Studies in Dagster: a partitioned asset and a partitioned job each, one partition a run.

The asset is external, and the job reports its materializations. Beside the unpartitioned assets of a build, one that
could be executed would make *Materialize all* ask for partitions, in whatever code location it is.
"""

import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets_defs.assets import failures_explained
from assets_defs.code import code_references
from assets_defs.keys import OWNER, asset_key
from assets_defs.metadata import metadata_of
from assets_defs.resources import HOME_TAG, RECIPE_TAG, hold_run_lock, tags_of
from parakeet.home import runs_folder
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.stages import Build
from parakeet.studies.records import Record, make_run, record_file
from parakeet.studies.stage import MeasurementsStage
from parakeet.studies.state import perform_run, study_of_home
from parakeet.studies.study import Study, StudyFile, StudyRun

GROUP = "studies"
POOL = "studies"
"""Runs of studies wait for each other, and not for the training of a build."""
STUDY_TAG = "parakeet/study"
"""Tag of a run of a study's job: the name of the study."""
SECONDS_TO_SAVE = 300


def study_job_name(name: str) -> str:
    """`study_size`. Dagster allows letters, digits and underscores."""
    return "study_" + re.sub("[^A-Za-z0-9_]", lambda found: f"_{ord(found[0]):x}_", name)


def partition_of(scale: str, run: str) -> str:
    return f"{scale}.{run}"


def planned_run(root: Path, name: str, partition: str) -> tuple[Study, StudyRun]:
    """The study of a partition, as it was begun in this home, and its run. Raises ParakeetError."""
    scale, _, run = partition.partition(".")
    study = study_of_home(root, name, scale)
    return study, study.run_named(run)


def build_of(root: Path, name: str, partition: str) -> Build:
    """The stages of a partition's run. Raises ParakeetError."""
    study, run = planned_run(root, name, partition)
    return Build(root, run.recipe, measurements=MeasurementsStage(study.file.measures))


def study_asset(name: str, file: StudyFile, partitions: Sequence[str]) -> dg.AssetSpec:
    """The asset of a study. Its job materialises it."""
    return dg.AssetSpec(
        asset_key(f"{GROUP}/{name}"),
        group_name=GROUP,
        description=f"{file.title} {file.question}\n\nTo make its runs, launch partitions of the job "
        f"{study_job_name(name)}, or run: parakeet study run {name}.",
        owners=[OWNER],
        kinds={"pytorch"},
        partitions_def=dg.StaticPartitionsDefinition(list(partitions)),
        metadata={"dagster/code_references": code_references(make_run)},
    )


def study_job(
    name: str, partitions: Sequence[str], root: Path, heard: Callable[[], None] = lambda: None
) -> dg.JobDefinition:
    """A job whose partitions are the runs of a study. `heard` is called when a run's text is ready."""

    @dg.op(
        name=f"run_of_{study_job_name(name)}",
        pool=POOL,
        description="Makes what is missing of one run: its text, its model, what is measured of it, and its record.",
    )
    def train(context: dg.OpExecutionContext) -> None:
        with failures_explained(f"making a run of study {name}", root):
            # Without it, `interrupted_runs` would call a long run lost and start another one beside it.
            hold_run_lock(root, context.run_id)
            study, run = planned_run(root, name, context.partition_key)
            tags = {HOME_TAG: str(root), RECIPE_TAG: run.recipe.name, **tags_of(run.recipe)}
            context.instance.add_run_tags(context.run_id, tags)
            _same_threads(run.recipe)

            def launch(command: Sequence[str]) -> str | None:
                heard()
                return _train(command)

            record, made = perform_run(root, study, run, Progress(), launch)
        context.log_event(
            dg.AssetMaterialization(
                asset_key(f"{GROUP}/{name}"),
                partition=context.partition_key,
                metadata=_metadata(record, record_file(root, study, run), root, made),
                tags={"dagster/data_version": str(record.values["checkpoint"])},
            )
        )

    @dg.job(
        name=study_job_name(name),
        partitions_def=dg.StaticPartitionsDefinition(list(partitions)),
        executor_def=dg.in_process_executor,
        description=f"Study {name}: each partition is a run. What is already made is found, not made again.",
        # Until the run begins and has the name of its own recipe.
        run_tags={HOME_TAG: str(root), STUDY_TAG: name, RECIPE_TAG: name},
    )
    def job() -> None:
        train()

    return job


def _same_threads(recipe: Recipe) -> None:
    """Measure with the threads of the training: with others, the last digits of a figure differ."""
    if recipe.training.threads:
        import torch

        torch.set_num_threads(recipe.training.threads)


def _train(command: Sequence[str]) -> str | None:
    """Run the trainer to its end; how it failed, or None. If this run is ended, the trainer saves first."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as trainer:
        try:
            status = trainer.wait()
        except BaseException:  # Dagster's and Python's interruptions
            trainer.send_signal(signal.SIGINT)
            try:
                trainer.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                trainer.kill()
            raise
    return None if status == 0 else f"exit status {status}"


def _metadata(record: Record, file: Path, root: Path, made: bool) -> dict[str, Any]:
    """What is shown of a run. All numbers have one name in all partitions, which Dagster plots against each other."""
    training = record.training
    bits = record.bits_per_byte
    figures = {
        "final_loss": training["final_loss"],
        **({"bits_per_byte": bits} if bits is not None else {}),
        "parameters": training["parameters"],
        "tokens": training["tokens"],
        "training_seconds": training.get("seconds", 0.0),
        "training_run": runs_folder(root) / str(training["run"]),
        "record": file,
        "checkpoint": str(record.values["checkpoint"]),
    }
    return {"made": made, **metadata_of(figures, "")}
