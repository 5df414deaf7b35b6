"""`parakeet build`: the same assets as `dagster dev`, materialised from the shell."""

import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from assets_defs.keys import asset_key, op_name
from assets_defs.resources import HOME_TAG, RECIPE_TAG, SHELL_TAG, release_run_lock, run_config
from parakeet.dagster_history import CHECK_FAILED
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.failures import explain_unforeseen
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.start import pinned
from parakeet.stages import PROMOTION, Build, asset_names, note_build, stages_of
from parakeet.training.recorded import Begun, left_unfinished
from pipelines.dagster_internals import SerializableErrorInfo, UserFailureData
from pipelines.definitions import make_definitions
from pipelines.instance import open_instance
from pipelines.jobs import DATA, MODEL
from pipelines.lost_runs import fail_lost_runs

TRAINED, JUDGED = "checkpoint", "comparison"
"""The stage whose work a run's folder is, and the last one that follows from it."""


def run_build(
    root: Path, recipe: Recipe, select: Sequence[str], force: Sequence[str], try_anyway: bool, progress: Progress
) -> int:
    """Materialise a recipe's assets. Returns the exit status for the shell.

    `select` names assets: they and everything before them are built. Those in `force` are built again.
    `try_anyway` trains although the forecast exceeds the memory. Raises ParakeetError if the recipe's files or
    something else that the stages need is missing.
    """
    defs = make_definitions(recipe)
    chosen = dg.AssetSelection.assets(*map(asset_key, select)).upstream() if select else DATA | MODEL
    graph = defs.get_repository_def().asset_graph
    keys = (chosen | dg.AssetSelection.assets(*map(asset_key, force))).materializable().resolve(graph)
    for stage in stages_of(recipe):
        if asset_key(stage.name) in keys:
            stage.check_requirements(recipe)
        if asset_key(stage.name) in keys and stage.is_possible(recipe, root):
            stage.files(recipe, root)
    note_build(root, recipe)
    if asset_key(TRAINED) in keys and recipe.training.start is not None:
        # Another build may change meanwhile what `latest` means.
        recipe = pinned(recipe, root)
        defs = make_definitions(recipe)
    build = Build(root, recipe)
    if asset_key(TRAINED) in keys and any(build.find(name) is None for name in build.stage(TRAINED).inputs(recipe)):
        # The stage names them too, but its text may take hours to make first.
        for line in left_unfinished(root, recipe, other_settings=True):
            progress.say(line)
    return _materialise(root, recipe, defs, keys, force, try_anyway, progress)


def finish_run(root: Path, begun: Begun, try_anyway: bool, progress: Progress) -> int:
    """Finish a run as it was begun, and make what follows from it. Returns the exit status for the shell.

    Nothing of its text is read or made again, whatever recipe is in use.
    """
    recipe = begun.recipe
    build = Build(root, recipe, begun.artifacts)
    folders = build.stage(TRAINED).run_folders(recipe, build.inputs(TRAINED), root)
    if begun.run not in folders:
        raise ParakeetError(
            f"This version of Parakeet cannot continue run {begun.run.name}: it gives the run's recipe another key "
            f"({folders[0].name}). Finish it with the version that began it."
        )
    build.stage(TRAINED).check_requirements(recipe)
    made_before = {name for given in begun.artifacts for name in (given, *build.upstream(given))}
    # Not the data card: it reads the sources again, and was made before training began.
    keys = {asset_key(name) for name in (*build.upstream(JUDGED), JUDGED, PROMOTION) if name not in made_before}
    return _materialise(root, recipe, make_definitions(recipe, begun.artifacts), keys, (), try_anyway, progress)


def _materialise(
    root: Path,
    recipe: Recipe,
    defs: dg.Definitions,
    keys: Set[dg.AssetKey],
    force: Sequence[str],
    try_anyway: bool,
    progress: Progress,
) -> int:
    """Materialise the assets of these keys. Returns the exit status for the shell."""
    graph = defs.get_repository_def().asset_graph
    config = {
        op_name(name): {"config": {"force": name in force, "try_anyway": try_anyway}}
        for name in asset_names(recipe)
        if asset_key(name) in keys and name != PROMOTION
    }
    whole = keys <= (DATA | MODEL).resolve(graph)
    job = defs.resolve_job_def("full_build") if whole else defs.resolve_implicit_global_asset_job_def()
    run_id = str(uuid.uuid4())
    with open_instance(root, progress) as instance, warnings.catch_warnings():
        # Dagster's own Pipes client warns of one of Dagster's own preview functions.
        warnings.simplefilter("ignore")
        for lost in fail_lost_runs(instance, root):
            progress.say(f"Run {lost[:8]} had died; its place is free again.")
        try:
            result = job.execute_in_process(
                run_id=run_id,
                instance=instance,
                asset_selection=sorted(keys),
                run_config={
                    **run_config(recipe),
                    "ops": config,
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                raise_on_error=False,
                tags={RECIPE_TAG: recipe.name, HOME_TAG: str(root), **SHELL_TAG},
            )
        finally:
            release_run_lock(root, run_id)
        raise_database_error(result.all_events)
    return _conclude(result.all_events, result.success, root, progress)


def raise_database_error(events: Sequence[dg.DagsterEvent]) -> None:
    """Raise what kept Dagster from writing its history, for `open_instance` to explain."""
    for error in _errors(events):
        if "sqlite3." in error.message:
            raise sqlite3.OperationalError(error.message)
        if "psycopg" in error.message:
            raise SQLAlchemyError(error.message)


def _errors(events: Sequence[dg.DagsterEvent]) -> Iterator[SerializableErrorInfo]:
    """The causes of failures, of the steps and of the run itself (an executor or a resource that cannot start)."""
    for event in events:
        error = None
        if event.is_step_failure:
            error = event.step_failure_data.error
        elif event.event_type is dg.DagsterEventType.RUN_FAILURE:
            error = event.job_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            yield error


def _conclude(events: Sequence[dg.DagsterEvent], success: bool, root: Path, progress: Progress) -> int:
    for event in events:
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                progress.say(
                    f"Check {check.check_name} of {check.asset_key.to_user_string()} failed. {check.description or ''}"
                )
    if success:
        return 0
    if was_interrupted(events):
        progress.say("Interrupted. What was made is kept; run the same command to continue.")
        return INTERRUPTED
    messages = reasons_of(events, root)
    for message in messages:
        progress.say(f"Error: {message}")
    # A blocking check that failed has been reported above.
    return 1 if messages or any(cause.cls_name == CHECK_FAILED for cause in _errors(events)) else INTERRUPTED


def was_interrupted(events: Sequence[dg.DagsterEvent]) -> bool:
    """Whether a run that failed was ended by a signal."""
    return any(cause.cls_name == dg.DagsterExecutionInterruptedError.__name__ for cause in _errors(events))


def reasons_of(events: Sequence[dg.DagsterEvent], root: Path) -> list[str]:
    """Why a run failed, for the user: but for blocking checks, whose evaluations tell."""
    messages = [data.description for event in events if (data := _failure_of(event)) is not None and data.description]
    others = [cause for cause in _errors(events) if cause.cls_name != CHECK_FAILED]
    return messages or [str(_unforeseen(cause, root)) for cause in others]


def _failure_of(event: dg.DagsterEvent) -> UserFailureData | None:
    return event.step_failure_data.user_failure_data if event.is_step_failure else None


def _unforeseen(cause: SerializableErrorInfo, root: Path) -> ParakeetError:
    what = cause.message.strip().splitlines()[0]
    return explain_unforeseen(what, "", cause.to_string(), "running the build", root)
