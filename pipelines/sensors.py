"""New source files, a disk that fills, and runs that failed."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg

from assets_defs.keys import asset_key
from assets_defs.resources import HOME_TAG, SHELL_TAG
from parakeet.dagster_history import CHECK_FAILED
from parakeet.errors import ParakeetError
from parakeet.gates.stage import ComparisonStage
from parakeet.home import home
from parakeet.notify import tell
from parakeet.release.history import REFUSED, decisions
from parakeet.release.promotion import begins_refusal
from parakeet.sanitise import sanitise
from parakeet.stages import active_recipe, who_is_told
from pipelines.dagster_internals import WILL_RETRY_TAG
from pipelines.interrupted_runs import is_interrupted
from pipelines.jobs import PREPARE_DATA
from pipelines.notices import tell_failed
from pipelines.source_files import FAILURES_TAG, watch

LOW = "low"
"""The cursor of `disk_low` after a notice was sent."""


@dg.sensor(
    job_name=PREPARE_DATA,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Prepares the data again when a file of the sources or evaluation sets is new, was "
    "changed, removed or restored, and all of them have stood still for half a minute.",
)
def new_source_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    return watch(home(), context.cursor, context.instance, time.time())


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends a notice (`notify:` of the recipe in use), once, when the disk has less space than the training "
    "still needs.",
)
def disk_low(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    from parakeet.space import on_one_disk, space_for, training_space

    root = home()
    try:
        recipe = active_recipe(root)
        spaces = [training_space(root, recipe)]
        history = Path(context.instance.root_directory)
        if not on_one_disk(history, root):
            spaces.append(space_for(history, 0, ""))
    except (ParakeetError, OSError) as error:
        return dg.SkipReason(sanitise(f"The free space is not known: {error}"))
    low = [space for space in spaces if space.is_low]
    words = "; ".join(str(space) for space in low or spaces)
    if low and context.cursor != LOW:
        text = f"The disk is nearly full. {words}. `parakeet clean` lists what nothing refers to."
        facts = {"recipe": recipe.name, "free_bytes": low[0].free, "needed_bytes": low[0].needed}
        tell(who_is_told(root, recipe), "disk_low", text, facts)
        return dg.SensorResult(skip_reason=dg.SkipReason(sanitise(text)), cursor=LOW)
    if context.cursor == LOW and all(space.has_recovered for space in spaces):
        return dg.SensorResult(skip_reason=dg.SkipReason(sanitise(f"There is space again. {words}")), cursor="enough")
    return dg.SkipReason(sanitise(f"{'Still low, the notice was sent before. ' if low else ''}{words}"))


@dg.run_failure_sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends a notice (`notify:` of the recipe in use) when a run failed and is not retried. A refused "
    "release is reported as such, and what fails in `parakeet build` is on the terminal.",
)
def run_failed(context: dg.RunFailureSensorContext) -> dg.SkipReason:
    run, root = context.dagster_run, home()
    name = f"Run {run.run_id[:8]} of {run.job_name}"
    if run.tags.get(HOME_TAG, str(root)) != str(root):
        return dg.SkipReason(f"{name} is of another home.")
    if SHELL_TAG.items() <= run.tags.items():
        return dg.SkipReason(f"{name} failed in a shell, where a person sees it.")
    if run.tags.get(WILL_RETRY_TAG) == "true" or is_interrupted(context.instance, run):
        return dg.SkipReason(f"{name} was interrupted. A notice is sent only if no other run resumes it.")
    if run.tags.get(FAILURES_TAG, "0") != "0":
        return dg.SkipReason(f"{name} failed again. A notice was sent of the first failure.")
    failures, checks = context.get_step_failure_events(), _failed_checks(context.instance, run)
    if failures and _ended_by_a_refusal(root, checks, list(map(_reason, failures))):
        return dg.SkipReason(f"{name} ended with a refused release, of which a notice was sent.")
    reasons = [*map(_check_words, checks), *filter(None, map(_reason, failures))]
    text = " ".join([f"{name} failed.", *(reasons or [context.failure_event.message or "No reason is recorded."])])
    tell_failed(root, run, text)
    return dg.SkipReason(sanitise(text))


def _failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[dg.AssetCheckEvaluation]:
    """The blocking checks of a run that found something wrong."""
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event is not None]
    return [check for check in checks if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR]


def _check_words(check: dg.AssetCheckEvaluation) -> str:
    asset = check.asset_key.to_user_string()
    return f"Check {check.check_name} of {asset} failed. {check.description or ''}".strip()


def _ended_by_a_refusal(root: Path, checks: Sequence[dg.AssetCheckEvaluation], reasons: Sequence[str]) -> bool:
    """Whether a gate, or the refusal of a release by `promotion`, is all that failed in a run.

    `reasons` has one text for each step that failed, as `_reason` returns it. Another error of the same steps is none.
    """
    if any(check.asset_key != asset_key(ComparisonStage.name) for check in checks) or not (checks or all(reasons)):
        return False
    with suppress(ParakeetError):
        refused = [one.release for one in decisions(root)[0] if one.action == REFUSED]
        return all(not reason or reason.startswith(tuple(map(begins_refusal, refused))) for reason in reasons)
    return not any(reasons)


def _reason(event: dg.DagsterEvent) -> str:
    """Why a step failed; empty if its check did, which `_failed_checks` tells."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None or error.cls_name == CHECK_FAILED:
        return ""
    return error.message.strip()
