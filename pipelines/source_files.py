"""Whether the files that a recipe's data stages read have changed, and whether a run has taken account of it.

No content is hashed: see `file_states`.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg

from assets_defs.resources import HOME_TAG, RECIPE_TAG, run_config
from assets_defs.sources import file_states, local_sources_of
from parakeet.data.reading.sources import find_files, source_root
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_duration
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise
from parakeet.stages import active_recipe
from pipelines.dagster_internals import WILL_RETRY_TAG
from pipelines.interrupted_runs import DECISION_TAG, GIVEN_UP, is_interrupted

SECONDS_TO_SETTLE = 30
"""A change is asked for once the files have stood still for so long, and over two ticks. A copy that pauses for longer
only costs another run."""
SECONDS_TO_START = 120
"""Dagster has launched what it was asked for by then, or never will."""
SECONDS_BEFORE_ANOTHER_TRY = 60
"""After the second failure; doubled after each further one. The first is asked for again at the next tick."""
MOST_SECONDS_BEFORE_ANOTHER_TRY = 6 * 3600
MOST_RECIPES = 20
"""Recipes that the cursor remembers."""

RUN_KEY_TAG, ROOT_TAG = "dagster/run_key", "dagster/root_run_id"
FAILURES_TAG = "parakeet/failures_before"
"""Tag of a run that was asked for: how many runs for the same files failed for good before it."""
OVER = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Snapshot:
    """The files as they are now. `newest` is the one that was written, moved or added last, at `changed`."""

    digest: str
    files: int
    newest: str
    changed: float


@dataclass(frozen=True)
class Watched:
    """What is known of one recipe's files, in the sensor's cursor. Times are in Unix seconds.

    seen       digest of the last look, for the first time at `since`
    requested  digest that the last request was for, or that the sensor began with
    run_key    of the last request, made at `asked`; `tries` requests were made for `requested`
    failures   so many of their runs failed for good, of which a notice was sent
    is_over    whether a run of them succeeded or was ended by a person: it may be deleted later
    """

    seen: str
    since: float
    requested: str
    run_key: str | None = None
    asked: float = 0.0
    tries: int = 0
    failures: int = 0
    is_over: bool = False


def look(recipe: Recipe) -> Snapshot | None:
    """The files of a recipe's sources, evaluation sets and benchmarks on this machine; None if it has none.

    Raises ParakeetError if a source has no file or a folder cannot be listed, OSError if a file vanishes meanwhile.
    """
    digest, files, newest, changed = hashlib.sha256(), 0, "", 0
    sources = local_sources_of(recipe)
    for source in sources:
        states = file_states(source)
        digest.update(json.dumps([source.path, states]).encode())
        files += len(states)
        last = max(states, key=lambda state: state.entry_changed, default=None)
        if last is not None and last.entry_changed >= changed:
            newest, changed = str(source_root(source) / last.name), last.entry_changed
    return Snapshot(digest.hexdigest(), files, newest, changed / 1e9) if sources else None


def unreadable(recipe: Recipe) -> Path | None:
    """The first of the files that may not be read."""
    files = (file for source in local_sources_of(recipe) for file in find_files(source).files)
    return next((file for file in files if not os.access(file, os.R_OK)), None)


def watch(root: Path, cursor: str | None, instance: dg.DagsterInstance, now: float) -> dg.SensorResult | dg.SkipReason:
    """One tick of the sensor: asks for a run if files of the recipe in use have changed and stand still.

    The first look at a recipe only remembers its files. A request whose run failed, or was never launched, is made
    again, later each time; one that a person ended is not. Run keys never repeat.
    """
    known = _read(cursor)
    try:
        recipe = active_recipe(root)
        snapshot = look(recipe)
    except (ParakeetError, OSError) as error:
        return dg.SkipReason(sanitise(f"The sources cannot be read, so nothing is asked for: {error}"))
    if snapshot is None:
        return dg.SkipReason(f"Recipe {recipe.name} reads no files of this machine.")
    before = known.pop(recipe.name, None)
    if before is None:
        watched = Watched(snapshot.digest, now, snapshot.digest)
        words, request = f"Watching {counted(snapshot.files, 'file')} of recipe {recipe.name} from now on.", None
    else:
        watched, words, request = _decide(root, recipe, snapshot, before, instance, now)
    known[recipe.name] = watched
    kept = dict(list(known.items())[-MOST_RECIPES:])
    return dg.SensorResult(
        run_requests=[request] if request else [],
        skip_reason=None if request else dg.SkipReason(sanitise(words)),
        cursor=json.dumps({name: asdict(one) for name, one in kept.items()}),
    )


def _decide(
    root: Path, recipe: Recipe, snapshot: Snapshot, before: Watched, instance: dg.DagsterInstance, now: float
) -> tuple[Watched, str, dg.RunRequest | None]:
    files = counted(snapshot.files, "file")
    run = _last_run(before, instance)
    if run is not None and run.status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED):
        before = replace(before, is_over=True)
    if snapshot.digest == before.requested:
        watched = replace(before, seen=snapshot.digest)
        words = _why_not_again(before, run, instance, now)
        if words is not None:
            return watched, f"No change in {files}. {words}".strip(), None
        failures = before.failures + (run is not None and _has_failed_for_good(run, instance))
        return _ask(root, recipe, replace(watched, tries=before.tries + 1, failures=failures), now)
    if snapshot.digest != before.seen or before.since > now:
        return (
            replace(before, seen=snapshot.digest, since=now),
            f"There is a change in {files}, the newest {snapshot.newest}: waiting until they stand still for "
            f"{SECONDS_TO_SETTLE} s.",
            None,
        )
    # A time in the future is from another machine's clock, or from before this one was set back.
    still = now - max(before.since, snapshot.changed if snapshot.changed <= now else 0.0)
    if still < SECONDS_TO_SETTLE:
        return before, f"Waiting: {snapshot.newest} was changed {format_duration(still)} ago.", None
    if run is not None and run.status not in OVER:
        return before, f"There is a change in {files}. It is asked for when run {run.run_id[:8]} has ended.", None
    if (file := unreadable(recipe)) is not None:
        return before, f"There is a change in {files}, but {file} may not be read: change its permissions.", None
    return _ask(root, recipe, Watched(snapshot.digest, before.since, snapshot.digest, tries=1), now)


def _ask(root: Path, recipe: Recipe, watched: Watched, now: float) -> tuple[Watched, str, dg.RunRequest]:
    # Dagster starts no second run with a key that it has seen, so the same files have another key each time.
    run_key = f"{watched.requested[:12]}-{time.time_ns()}"
    tags = {HOME_TAG: str(root), RECIPE_TAG: recipe.name, FAILURES_TAG: str(watched.failures)}
    request = dg.RunRequest(run_key=run_key, run_config=run_config(recipe), tags=tags)
    return replace(watched, run_key=run_key, asked=now), "", request


def _last_run(watched: Watched, instance: dg.DagsterInstance) -> dg.DagsterRun | None:
    """The run of the last request, or the newest of those that resumed it."""
    if watched.run_key is None:
        return None
    runs = list(instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: watched.run_key}), limit=1))
    if runs:
        root = runs[0].root_run_id or runs[0].run_id
        runs = [*instance.get_runs(dg.RunsFilter(tags={ROOT_TAG: root}), limit=1), *runs]
    return runs[0] if runs else None


def _why_not_again(watched: Watched, run: dg.DagsterRun | None, instance: dg.DagsterInstance, now: float) -> str | None:
    """Why the last request is not made again now; None if it has to be."""
    if watched.run_key is None:
        return ""
    if run is None and watched.is_over:
        return ""
    if run is None:
        return "The run for the last change is being launched." if 0 <= now - watched.asked < SECONDS_TO_START else None
    name = f"Run {run.run_id[:8]} for the last change"
    if run.status is dg.DagsterRunStatus.SUCCESS:
        return ""
    if run.status is dg.DagsterRunStatus.CANCELED:
        return f"{name} was ended by a person, so it is not asked for again. Start prepare_data yourself."
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return f"{name} is under way."
    record = instance.get_run_record_by_id(run.run_id)
    ended = (record.end_time if record is not None else None) or watched.asked
    is_retried = run.tags.get(WILL_RETRY_TAG) == "true" or (
        DECISION_TAG not in run.tags and is_interrupted(instance, run)
    )
    if is_retried and 0 <= now - ended < SECONDS_TO_START:
        return f"{name} was interrupted, and another one resumes it."
    wait = min(SECONDS_BEFORE_ANOTHER_TRY * 2 ** min(watched.tries - 2, 20), MOST_SECONDS_BEFORE_ANOTHER_TRY)
    left = ended + wait - now
    if watched.tries > 1 and 0 < left <= wait:
        return f"{name} failed, {watched.tries} times in a row. It is asked for again in {format_duration(left)}."
    return None


def _has_failed_for_good(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    """Whether a notice was sent of a run: by `run_failed`, or when `interrupted_runs` gave it up."""
    if run.status is not dg.DagsterRunStatus.FAILURE or run.tags.get(WILL_RETRY_TAG) == "true":
        return False
    return run.tags.get(DECISION_TAG, "").startswith(GIVEN_UP) or not is_interrupted(instance, run)


def _read(cursor: str | None) -> dict[str, Watched]:
    """The cursor's recipes, the last one looked at at the end. Empty for that of an earlier Parakeet."""
    try:
        values: Mapping[str, Any] = json.loads(cursor or "{}")
        return {str(name): Watched(**one) for name, one in values.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
