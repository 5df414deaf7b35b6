"""What Dagster's history says of runs, schedules and sensors: read from its SQLite files, without Dagster.

Dagster itself would take 1.5 s to import, wait for a locked file, and write to what it opens. The tables and keys read
here are those of Dagster 1.13. One that is missing is reported, and the rest is shown.
"""

import datetime
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from parakeet.home import checkout
from parakeet.locking import is_held
from parakeet.sanitise import sanitise

SECONDS_TO_WAIT = 0.5
"""For a file that another program has locked."""
SECONDS_BETWEEN_HEARTBEATS = 180
"""A daemon writes one every 30 s. One of a process that was killed counts as alive for so long."""
RECIPE_METADATA = "parakeet/recipe"
"""Under this name the plan of a run holds the recipe of the code location that the run was launched from."""
LOCATION = "parakeet"
"""The location_name in workspace.yaml. Other projects may share a history."""
SCHEDULES: dict[str, tuple[int, int, int | None]] = {
    "weekly_retraining": (3, 0, 7),
    "source_looks": (2, 0, None),
    "weekly_tidy": (5, 30, 1),
}
"""Hour, minute and ISO weekday (None: daily) of the schedules in `pipelines`. All are off at first."""
SENSORS = {
    "new_source_files": False,
    "disk_low": True,
    "run_failed": True,
    "interrupted_runs": True,
    "recipe_in_use": True,
    "source_files_seen": True,
    "cheap_stages": False,
}
"""The sensors in `pipelines`, and whether each is on at first."""
HOME_TAG = "parakeet/home"
"""Tag of every run: the home that it builds in. One history may hold runs of several."""
RECIPE_TAG = "parakeet/recipe"
"""Tag of every run: the name of the recipe that it builds."""
IN_FLIGHT = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
DEV_LOCK, DAEMON_LOCK = "dagster_dev.lock", "dagster_daemon.lock"
"""In the folder of the history. `dagster dev` and Dagster's daemon hold them as long as they live."""

CHECK_FAILED, INTERRUPTED = "DagsterAssetCheckFailedError", "DagsterExecutionInterruptedError"
"""Classes of the errors by which Dagster ends a step."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class RecordedRun:
    """A run that waits or goes on, or the last one that ended. Times are in Unix seconds; `reason` is why it failed."""

    run_id: str
    job: str
    status: str
    recipe: str | None
    created: float
    started: float | None
    ended: float | None = None
    reason: str = ""
    was_interrupted: bool = False


@dataclass(frozen=True)
class Instigator:
    """A schedule or a sensor. `next` and the times of ticks are in Unix seconds.

    `words` is why the last tick skipped or failed, if it did; `seen` its status: success, skipped or failure.
    """

    name: str
    is_schedule: bool
    is_on: bool
    next: float | None
    seen: str | None
    ticked: float | None
    words: str


@dataclass
class History:
    """The history of one folder.

    `runs` wait or go on, the oldest first; `last` is the newest one that ended. `faults` say what could not be read.
    """

    folder: Path
    is_running: bool = False
    runs: list[RecordedRun] = field(default_factory=list)
    last: RecordedRun | None = None
    instigators: list[Instigator] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_history(root: Path, now: float) -> History:
    """The history of the runs that build in `root`. Never raises: what cannot be read is among the faults."""
    folder, settings = _folder(root)
    # The locks are beside the history, wherever the history itself is kept.
    locks = [folder / name for name in (DEV_LOCK, DAEMON_LOCK) if (folder / name).exists()]
    history = History(folder, any(map(_holds, locks)))
    place = _storage(folder, settings, history.faults)
    if place is None:
        return history
    if not locks:
        beat = _query(place / "history" / "runs.db", _heartbeat, history.faults) or 0.0
        history.is_running = abs(now - beat) < SECONDS_BETWEEN_HEARTBEATS
    runs = place / "history" / "runs.db"
    history.runs = _query(runs, lambda base: [*_runs(base, IN_FLIGHT, root)][::-1], history.faults) or []
    history.last = _query(runs, lambda base: next(_runs(base, ENDED, root), None), history.faults)
    if history.last is not None and history.last.status == "FAILURE":
        events = place / "history" / "runs" / f"{history.last.run_id}.db"
        reason, was_interrupted = _query(events, _ending, history.faults) or ("", False)
        history.last = replace(history.last, reason=reason, was_interrupted=was_interrupted)
    schedules = place / "schedules" / "schedules.db"
    if not schedules.is_file():
        history.instigators = _instigators(None, now)
    else:
        history.instigators = _query(schedules, lambda base: _instigators(base, now), history.faults) or []
    return history


def next_tick(schedule: str, now: datetime.datetime) -> datetime.datetime:
    """When a schedule of Parakeet is next due by the clock of `now`."""
    hour, minute, weekday = SCHEDULES[schedule]
    at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    while at <= now or weekday not in (None, at.isoweekday()):
        at += datetime.timedelta(days=1)
    return at


def _folder(root: Path) -> tuple[Path, Path]:
    """The folder of the history, and the dagster.yaml that it is opened with: as `pipelines.instance` has it."""
    named, source = os.environ.get("DAGSTER_HOME"), checkout()
    if named:
        folder = Path(os.path.realpath(os.path.expanduser(named)))
        return folder, folder / "dagster.yaml"
    beside = root / ".dagster"
    # `dagster dev` in the checkout keeps its history there, whatever PARAKEET_HOME says.
    if source is not None and (root == source / "assets" or not _was_opened(beside)):
        return source / ".dagster", source / "dagster.yaml"
    return beside, beside / "dagster.yaml"


def _was_opened(folder: Path) -> bool:
    """Whether Dagster was started on the history in a folder: `parakeet use` writes its settings before that."""
    return folder.is_dir() and any(not path.name.startswith("dagster.yaml") for path in folder.iterdir())


def _storage(folder: Path, settings: Path, faults: list[str]) -> Path | None:
    """Where the SQLite files are; None, with a fault, if the history is kept otherwise."""
    places = [folder / "storage", folder]
    try:
        values: Any = yaml.safe_load(settings.read_text(encoding="utf-8"))
        storage = values["storage"]
        if "sqlite" not in storage and "custom" not in storage:
            faults.append(f"{settings} keeps the history in {', '.join(map(str, storage))}: look at Dagster's page.")
            return None
        named = storage["sqlite"]["base_dir"] if "sqlite" in storage else storage["custom"]["config"]["base_dir"]
        # The last one: `parakeet build` writes the whole path, and a home may have been moved or copied since.
        places.append(settings.parent / named)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        pass
    return next((place for place in places if (place / "history").is_dir()), folder)


def _holds(lock: Path) -> bool:
    try:
        return is_held(lock)
    except OSError:
        return False


def _query(file: Path, read: Callable[[sqlite3.Connection], _T], faults: list[str]) -> _T | None:
    """What `read` finds in a database, which is opened for reading alone; None, with a fault, if it cannot be read."""
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", timeout=SECONDS_TO_WAIT, uri=True)) as base:
            base.row_factory = sqlite3.Row
            return read(base)
    # sqlite3.Row raises IndexError for a column that is not there.
    except (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, sqlite3.Error) else "it has another form than that of Dagster 1.13"
        fault = sanitise(f"{file} cannot be read: {reason}.")
        if fault not in faults:
            faults.append(fault)
        return None


def _heartbeat(base: sqlite3.Connection) -> float:
    row = base.execute("SELECT max(timestamp) AS latest FROM daemon_heartbeats").fetchone()
    return _seconds(row["latest"])


def _runs(base: sqlite3.Connection, statuses: Sequence[str], root: Path) -> Iterator[RecordedRun]:
    """Runs of this home in these statuses, the newest first. One without the tag has not begun."""
    marks = ", ".join("?" * len(statuses))
    for row in base.execute(f"SELECT * FROM runs WHERE status IN ({marks}) ORDER BY id DESC", tuple(statuses)):
        tags = dict(base.execute("SELECT key, value FROM run_tags WHERE run_id = ?", (row["run_id"],)).fetchall())
        if tags.get(HOME_TAG, str(root)) == str(root) and (HOME_TAG in tags or _location(row) in (None, LOCATION)):
            yield RecordedRun(
                run_id=row["run_id"],
                job=row["pipeline_name"],
                status=row["status"],
                recipe=tags.get(RECIPE_TAG) or _planned_recipe(base, row),
                created=_seconds(row["create_timestamp"]),
                started=row["start_time"],
                ended=row["end_time"],
            )


def _location(run: sqlite3.Row) -> str | None:
    """The code location that a run was launched from; None for one of `parakeet build`."""
    found = re.search('"location_name": "([^"]*)"', run["run_body"])
    return found[1] if found else None


def _planned_recipe(base: sqlite3.Connection, run: sqlite3.Row) -> str | None:
    """The name of the recipe in the plan of a run that was launched on the page: it gets the tag when it begins."""
    try:
        return _recipe_of_plan(base, run)
    except (zlib.error, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
        return None  # one damaged plan hides no run


def _recipe_of_plan(base: sqlite3.Connection, run: sqlite3.Row) -> str | None:
    plan = json.loads(run["run_body"]).get("execution_plan_snapshot_id")
    row = base.execute("SELECT snapshot_body FROM snapshots WHERE snapshot_id = ?", (plan,)).fetchone()
    if row is None:
        return None
    data = json.loads(zlib.decompress(row["snapshot_body"])).get("repository_load_data") or {}
    text = (data.get("reconstruction_metadata") or {}).get(RECIPE_METADATA, {}).get("data", "")
    # Of the whole recipe, only this: it may be one of an earlier version.
    name = re.search("^name: (.+)$", text, re.MULTILINE)
    return str(yaml.safe_load(name[1])) if name else None


def _ending(base: sqlite3.Connection) -> tuple[str, bool]:
    """Why a run failed, in one line: what its blocking checks found, else the first step that failed, else what ended
    the run. And whether a person stopped it (Ctrl-C).
    """
    rows = base.execute(
        "SELECT event FROM event_logs WHERE dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE') ORDER BY id"
    ).fetchall()
    events = [json.loads(row["event"])["dagster_event"] for row in rows]
    if not events:
        return "", False
    data = events[0].get("event_specific_data") or {}
    error = data.get("error") or {}
    given = data.get("user_failure_data") or {}
    text = given.get("description") or _words("", error) or events[0].get("message") or ""
    classes = set(_classes(error))
    if CHECK_FAILED in classes:
        text = " ".join(_failed_checks(base)) or text
    return sanitise(str(text).strip().partition("\n")[0]), INTERRUPTED in classes


def _classes(error: Any) -> Iterator[str]:
    """The classes of an error and its causes."""
    while isinstance(error, dict):
        yield str(error.get("cls_name"))
        error = error.get("cause")


def _failed_checks(base: sqlite3.Connection) -> Iterator[str]:
    rows = base.execute("SELECT event FROM event_logs WHERE dagster_event_type = 'ASSET_CHECK_EVALUATION' ORDER BY id")
    for row in rows:
        check = json.loads(row["event"])["dagster_event"]["event_specific_data"]
        if not check["success"] and "ERROR" in str(check.get("severity")):
            yield " ".join(str(check.get("description") or f"Check {check['check_name']} failed.").split())


def _instigators(base: sqlite3.Connection | None, now: float) -> list[Instigator]:
    """All of Parakeet's. Dagster has no row for one that was never switched nor evaluated."""
    rows: dict[str, sqlite3.Row] = {}
    query = "SELECT selector_id, status, instigator_body FROM instigators"
    for row in base.execute(query) if base is not None else ():
        origin = json.loads(row["instigator_body"])["origin"]
        location = origin["external_repository_origin"]["repository_location_origin"]["location_name"]
        if location == LOCATION:
            rows[origin["job_name"]] = row
    return [_instigator(base, name, rows.get(name), now) for name in (*SCHEDULES, *SENSORS)]


def _instigator(base: sqlite3.Connection | None, name: str, row: sqlite3.Row | None, now: float) -> Instigator:
    is_on = SENSORS.get(name, False)
    tick = None
    if base is not None and row is not None:
        if row["status"] != "DECLARED_IN_CODE":
            is_on = row["status"] == "RUNNING"
        tick = base.execute(
            "SELECT status, timestamp, tick_body FROM job_ticks WHERE selector_id = ? AND status != 'STARTED' "
            "ORDER BY id DESC LIMIT 1",
            (row["selector_id"],),
        ).fetchone()
    said = json.loads(tick["tick_body"]) if tick is not None else {}
    is_schedule = name in SCHEDULES
    return Instigator(
        name=name,
        is_schedule=is_schedule,
        is_on=is_on,
        # In the machine's own zone, which has no fixed distance from UTC: the clock may be changed before the tick.
        next=next_tick(name, datetime.datetime.fromtimestamp(now)).timestamp() if is_schedule and is_on else None,
        seen=str(tick["status"]).lower() if tick is not None else None,
        ticked=_seconds(tick["timestamp"]) if tick is not None else None,
        words=sanitise(_words(said.get("skip_reason"), said.get("error") or {})),
    )


def _words(skip_reason: object, error: Any) -> str:
    """Why a tick skipped, or the cause of its error."""
    while isinstance(error, dict) and error.get("cause"):
        error = error["cause"]
    message = error.get("message") if isinstance(error, dict) else None
    # Without the name of the class, by which it begins.
    return " ".join(re.sub(r"^[\w.]+: ", "", str(message or skip_reason or "")).split())


def _seconds(text: str | float | None) -> float:
    """A time of the database, which is UTC, in Unix seconds."""
    if text is None or isinstance(text, int | float):
        return float(text or 0.0)
    at = datetime.datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
