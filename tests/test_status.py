"""`parakeet status`: over homes in each state, and over histories of Dagster that are there, locked or damaged."""

import datetime
import json
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from filelock import FileLock

from parakeet.cli import main
from parakeet.dagster_history import DAEMON_LOCK, DEV_LOCK, SCHEDULES, SENSORS, next_tick, read_history
from parakeet.progress import Progress
from parakeet.recipe import Notify
from parakeet.recipe_file import load_recipe
from parakeet.release.history import FORCED, PROMOTED, REFUSED, Decision, history_file, record
from parakeet.stages import use_recipe
from parakeet.training.job import LOCK_FILE
from pipelines.dagster_internals import SerializableErrorInfo
from pipelines.definitions import make_definitions
from pipelines.instance import open_instance
from pipelines.schedules import local_time_zone

from .training.run_folders import Folder
from .training.run_folders import record as step

ROOT = Path(__file__).parents[1]
WORDS = "A training is in flight, so nothing else is started: training run ab12."


@pytest.fixture(autouse=True)
def _no_other_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def status(home: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setenv("PARAKEET_HOME", str(home))
    result = CliRunner().invoke(main, ["status", *options])
    assert result.exit_code == 0, result.output
    return result.output


def document(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = json.loads(status(home, monkeypatch, "--json"))
    assert isinstance(found, dict)
    return found


def failing() -> dg.JobDefinition:
    @dg.op
    def documents() -> None:
        raise dg.Failure("Source notes: 50 records cannot be used.\nThe first: …", allow_retries=False)

    @dg.job
    def prepare_data() -> None:
        documents()

    return prepare_data


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose history Dagster itself wrote: two runs in flight, one of another home, a schedule that skipped."""
    home = tmp_path_factory.mktemp("recorded") / "home"
    home.mkdir()
    job = dg.GraphDefinition("full_build", node_defs=[]).to_job()
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("parakeet"), "__repository__")
    with open_instance(home, Progress()) as instance:
        for state, tags in (
            (dg.DagsterRunStatus.STARTED, {"parakeet/recipe": "notes", "parakeet/home": str(home)}),
            (dg.DagsterRunStatus.NOT_STARTED, {"parakeet/recipe": "poems"}),
            (dg.DagsterRunStatus.STARTED, {"parakeet/home": "/elsewhere"}),
            (dg.DagsterRunStatus.SUCCESS, {}),
        ):
            instance.create_run_for_job(job, tags=tags, status=state)
        failing().execute_in_process(instance=instance, raise_on_error=False, tags={"parakeet/recipe": "essays"})
        origin = RemoteInstigatorOrigin(repository, "weekly_retraining")
        schedule = InstigatorState(
            origin,
            InstigatorType.SCHEDULE,
            InstigatorStatus.RUNNING,
            ScheduleInstigatorData("0 3 * * 0", start_timestamp=time.time()),
        )
        instance.add_instigator_state(schedule)
        instance.create_tick(
            TickData(
                schedule.instigator_origin_id,
                schedule.instigator_name,
                schedule.instigator_type,
                TickStatus.SKIPPED,
                time.time() - 3600,
                skip_reason=WORDS,
                selector_id=schedule.selector_id,
            )
        )
    return home


@pytest.fixture
def history(recorded: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    home = tmp_path / "home"
    shutil.copytree(recorded, home)
    for database in home.rglob("runs.db"):
        with closing(sqlite3.connect(database)) as base, base:
            base.execute("UPDATE run_tags SET value = ? WHERE value = ?", (str(home), str(recorded)))
    return home


def test_an_empty_home_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = status(tmp_path / "none", monkeypatch)
    assert "released    nothing yet. Make a model with: parakeet build" in printed
    assert "demo is in use, since `parakeet use` has chosen none" in printed
    assert "running     nothing" in printed
    assert not (tmp_path / "none").exists()


def test_everything_is_on_one_screen(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("demo").model_copy(update={"name": "notes", "notify": Notify(url="https://h.org/SECRET")})
    use_recipe(history, recipe)
    releases = history / "releases"
    for name in ("old-0", "new-0", "bad-0"):
        (releases / name).mkdir(parents=True)
        (releases / name / "manifest.json").write_text('{"schema": 1, "files": {}}', encoding="utf-8")
    (releases / "promoted").mkdir()
    (releases / "promoted" / "notes").symlink_to("../new-0")
    (releases / "latest").symlink_to("promoted/notes")
    figures = {"bits_per_byte": 1.25, "incumbent_bits_per_byte": 1.5}
    record(history, Decision(PROMOTED, "new-0", "c", "notes", "old-0", (), figures))
    record(history, Decision(REFUSED, "bad-0", "d", "notes", "new-0", ("2.2 bits per byte, new-0 needs 1.25.",), {}))
    run = Folder(history, "3fa94c1200000000").event("started").train(*(step(n) for n in range(1, 41)))
    stage = history / ".locks" / "source_files" / "books.lock"
    stage.parent.mkdir(parents=True)
    stage.with_suffix(".holder").write_text("process 7 since 12:00:00 (parakeet build)", encoding="utf-8")
    artefact = stage.with_name("books-0123456789abcdef.lock")
    artefact.with_suffix(".holder").write_text("process 7 since 12:00:01 (parakeet build)", encoding="utf-8")
    with FileLock(run.path / LOCK_FILE), FileLock(stage), FileLock(artefact):
        printed = status(history, monkeypatch)
        found = document(history, monkeypatch)
    assert "released    new-0 of notes, 1.250 bits per byte, promoted " in printed
    assert "in place of old-0, 1.500 bits per byte on the same text" in printed
    assert "refused     bad-0 of notes, " in printed
    assert "2.2 bits per byte, new-0 needs 1.25." in printed
    assert "notes is in use\n" in printed
    assert "making      source_files/books, by process 7 since 12:00:0" in printed
    assert printed.count("process 7") == 1
    assert "(full_build, notes), since " in printed
    assert "waiting     run " in printed
    assert "failed      run " in printed
    assert "(prepare_data, essays), " in printed
    assert "ago). Source notes: 50 records cannot be used.\n" in printed
    assert "dagster dev is not running" in printed
    assert "weekly_retraining " in printed
    assert ", if dagster dev runs then; last " in printed
    assert f"it skipped. {WORDS}" in printed
    assert "notices     https://h.org/…" in printed
    assert "SECRET" not in printed + json.dumps(found)
    assert [one["recipe"] for one in found["dagster"]["runs"]] == ["notes", "poems"]
    assert found["faults"] == []
    assert len(printed.splitlines()) < 24


def test_a_training_is_shown_with_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Folder(tmp_path, "3fa94c1200000000").event("started").train(*(step(n) for n in range(1, 41)))
    with FileLock(run.path / LOCK_FILE):
        printed = status(tmp_path, monkeypatch)
    assert "training    run 3fa94c12, step 40 of 100 (40%), loss " in printed
    assert "tokens/s, ETA " in printed
    assert "\ntraining" not in status(tmp_path, monkeypatch)


def damage(file: Path, how: str) -> None:
    if how == "garbage":
        file.write_bytes(b"no database" * 100)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        with closing(sqlite3.connect(file)) as base, base:
            for table in ("runs", "instigators"):
                if base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None:
                    base.execute(f"ALTER TABLE {table} RENAME TO other")


@pytest.mark.parametrize("how", ["garbage", "cut", "empty", "other tables"])
@pytest.mark.parametrize("name", ["runs.db", "schedules.db"])
def test_a_damaged_history_is_reported_and_the_rest_is_shown(
    history: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(next(history.rglob(name)), how)
    printed = status(history, monkeypatch)
    assert "unreadable" in printed
    assert f"{name} cannot be read: " in printed
    assert ("it skipped" in printed) == (name == "runs.db")
    assert ("waiting" in printed) == (name == "schedules.db")


def test_a_row_in_another_form_is_reported(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(next(history.rglob("schedules.db")))) as base, base:
        base.execute("UPDATE instigators SET instigator_body = '[]'")
    assert "it has another form than that of Dagster 1.13" in status(history, monkeypatch)


def test_a_locked_history_is_not_waited_for(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(next(history.rglob("runs.db")), isolation_level=None)) as base:
        base.execute("PRAGMA locking_mode = EXCLUSIVE")
        base.execute("BEGIN EXCLUSIVE")
        base.execute("UPDATE runs SET mode = 'x'")
        began = time.monotonic()
        printed = status(history, monkeypatch)
    assert time.monotonic() - began < 20
    assert "runs.db cannot be read: database is locked" in printed
    assert "weekly_retraining" in printed


def test_a_history_in_postgres_is_named(history: Path) -> None:
    settings = history / ".dagster" / "dagster.yaml"
    settings.write_text("storage: {postgres: {postgres_url: 'postgres://u:SECRET@h/d'}}\n", encoding="utf-8")
    (fault,) = read_history(history, time.time()).faults
    assert "keeps the history in postgres" in fault
    assert "SECRET" not in fault


@pytest.mark.parametrize("name", [DEV_LOCK, DAEMON_LOCK])
@pytest.mark.parametrize("storage", ["{postgres: {postgres_url: x}}", "{sqlite: {base_dir: history}}"])
def test_the_lock_of_a_daemon_says_that_dagster_runs_wherever_the_history_is(
    history: Path, name: str, storage: str
) -> None:
    (history / ".dagster" / "dagster.yaml").write_text(f"storage: {storage}\n", encoding="utf-8")
    with FileLock(history / ".dagster" / name):
        assert read_history(history, time.time()).is_running
    (history / ".dagster" / name).touch()
    assert not read_history(history, time.time()).is_running


def test_a_heartbeat_says_that_dagster_runs(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with closing(sqlite3.connect(next(history.rglob("runs.db")))) as base, base:
        base.execute("INSERT INTO daemon_heartbeats (daemon_type, timestamp) VALUES ('SENSOR', ?)", (str(at),))
    printed = status(history, monkeypatch)
    assert "dagster     runs" in printed
    assert "if dagster dev runs then" not in printed
    # A lock file that nobody holds is that of a daemon which was killed.
    (history / ".dagster" / "dagster_dev.lock").touch()
    assert "dagster dev is not running" in status(history, monkeypatch)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ("recipe.yaml", "recipe.yaml"),
        ("releases/history.jsonl", "line 2 is torn"),
        ("training_runs/abc/job.json", "cannot be read as a job"),
    ],
)
def test_a_damaged_home_is_reported(tmp_path: Path, damaged: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, Decision(FORCED, "a-0", "c", "notes", None, ("because",), {}))
    path = tmp_path / damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"a": [')
    printed = status(tmp_path, monkeypatch)
    assert words in printed
    assert "disk" in printed
    assert history_file(tmp_path).exists()


def test_status_imports_neither_dagster_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from parakeet.cli import main; main(['status'], standalone_mode=False); "
        "print(*{'dagster', 'torch', 'matplotlib'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PARAKEET_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert finished.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        ("weekly_retraining", "2026-11-28 13:40", "2026-11-29 03:00"),
        ("weekly_retraining", "2026-11-29 02:59", "2026-11-29 03:00"),
        ("weekly_retraining", "2026-11-29 03:00", "2026-12-06 03:00"),
        ("source_looks", "2026-11-28 01:59", "2026-11-28 02:00"),
        ("source_looks", "2026-12-31 02:00", "2027-01-01 02:00"),
        ("weekly_tidy", "2026-11-28 13:40", "2026-11-30 05:30"),
    ],
)
def test_the_next_tick(schedule: str, now: str, due: str) -> None:
    assert f"{next_tick(schedule, datetime.datetime.fromisoformat(now)):%Y-%m-%d %H:%M}" == due


def test_the_schedules_and_sensors_are_those_of_dagster() -> None:
    repository = make_definitions(load_recipe("demo")).get_repository_def()
    crons = {name: f"{m} {h} * * {'*' if day is None else day % 7}" for name, (h, m, day) in SCHEDULES.items()}
    assert {one.name: one.cron_schedule for one in repository.schedule_defs} == crons
    assert all(one.default_status is dg.DefaultScheduleStatus.STOPPED for one in repository.schedule_defs)
    assert {one.execution_timezone for one in repository.schedule_defs} == {local_time_zone()}
    on = {one.name: one.default_status is dg.DefaultSensorStatus.RUNNING for one in repository.sensor_defs}
    assert on == SENSORS


def switch(home: Path, name: str, location: str, status: InstigatorStatus, fails: bool = False) -> None:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    kind = InstigatorType.SCHEDULE if name in SCHEDULES else InstigatorType.SENSOR
    data = (
        ScheduleInstigatorData("0 3 * * 0", start_timestamp=time.time())
        if name in SCHEDULES
        else SensorInstigatorData(sensor_type=SensorType.STANDARD)
    )
    state = InstigatorState(RemoteInstigatorOrigin(repository, name), kind, status, data)
    with open_instance(home, Progress()) as instance:
        instance.add_instigator_state(state)
        if fails:
            tick = TickData(
                *(state.instigator_origin_id, state.instigator_name, kind, TickStatus.FAILURE, time.time()),
                error=SerializableErrorInfo("It broke.", [], "Broken"),
                selector_id=state.selector_id,
            )
            instance.create_tick(tick)


def test_only_parakeets_own_are_listed_and_those_never_touched_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = "weekly_retraining, source_looks, weekly_tidy are off (turn them on under Automation)"
    assert off in status(tmp_path, monkeypatch)
    for name, location in (("weekly_retraining", "other"), ("of_last_year", "parakeet"), ("disk_low", "other")):
        switch(tmp_path, name, location, InstigatorStatus.RUNNING, fails=True)
    switch(tmp_path, "run_failed", "parakeet", InstigatorStatus.STOPPED, fails=True)
    printed = status(tmp_path, monkeypatch)
    assert off in printed
    assert "fails" not in printed
    switch(tmp_path, "weekly_tidy", "parakeet", InstigatorStatus.RUNNING)
    switch(tmp_path, "source_looks", "parakeet", InstigatorStatus.DECLARED_IN_CODE)
    switch(tmp_path, "interrupted_runs", "parakeet", InstigatorStatus.DECLARED_IN_CODE, fails=True)
    printed = status(tmp_path, monkeypatch)
    assert "next        weekly_tidy " in printed
    assert "weekly_retraining, source_looks are off (turn them on" in printed
    assert "interrupted_runs fails" in printed
    assert {one["name"]: one["is_on"] for one in document(tmp_path, monkeypatch)["dagster"]["schedules"]} == {
        "weekly_retraining": False,
        "source_looks": False,
        "weekly_tidy": True,
    }


def test_a_refusal_is_shown_until_the_next_decision_on_its_own_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action, release, recipe in (
        (REFUSED, "a-0", "notes"),
        (REFUSED, "b-0", "poems"),
        (PROMOTED, "c-0", "essays"),
        (PROMOTED, "d-0", "poems"),
    ):
        record(tmp_path, Decision(action, release, "c", recipe, None, ("It is worse.",), {}))
    assert [one["release"] for one in document(tmp_path, monkeypatch)["refused"]] == ["a-0"]
    assert "refused     a-0 of notes, " in status(tmp_path, monkeypatch)


def test_a_run_that_was_launched_on_the_page_waits_with_the_recipe_of_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_instance(tmp_path, Progress()) as instance:
        run = instance.create_run_for_job(stopped, status=dg.DagsterRunStatus.NOT_STARTED)
        plan = instance.get_run_by_id(run.run_id).execution_plan_snapshot_id  # type: ignore[union-attr]
    kept = {"parakeet/recipe": {"data": "name: 'poems'\ndescription: A recipe.\n  name: no\n"}}
    body = json.dumps({"repository_load_data": {"reconstruction_metadata": kept}}).encode()
    (database,) = tmp_path.rglob("runs.db")
    with closing(sqlite3.connect(database)) as base, base:
        changed = base.execute(
            "UPDATE snapshots SET snapshot_body = ? WHERE snapshot_id = ?", (zlib.compress(body), plan)
        )
        assert changed.rowcount == 1
    assert "(stopped, poems), since " in status(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [b"no archive", zlib.compress(b"{"), zlib.compress(b"[]")])
def test_a_run_whose_plan_is_damaged_is_shown_without_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    with open_instance(tmp_path, Progress()) as instance:
        instance.create_run_for_job(stopped, status=dg.DagsterRunStatus.NOT_STARTED)
    (database,) = tmp_path.rglob("runs.db")
    with closing(sqlite3.connect(database)) as base, base:
        base.execute("UPDATE snapshots SET snapshot_body = ?", (name,))
    assert "(stopped, recipe unknown), since " in status(tmp_path, monkeypatch)


def test_runs_of_another_project_in_the_same_history_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_instance(tmp_path, Progress()) as instance:
        instance.create_run_for_job(stopped, status=dg.DagsterRunStatus.STARTED)
    (database,) = tmp_path.rglob("runs.db")
    assert "stopped" in status(tmp_path, monkeypatch)
    with closing(sqlite3.connect(database)) as base, base:
        (body,) = base.execute("SELECT run_body FROM runs").fetchone()
        origin = {"repository_location_origin": {"location_name": "nightly"}}
        values = json.loads(body) | {"external_pipeline_origin": {"external_repository_origin": origin}}
        base.execute("UPDATE runs SET run_body = ?", (json.dumps(values),))
    assert "stopped" not in status(tmp_path, monkeypatch)


@dg.op
def interrupted() -> None:
    raise dg.DagsterExecutionInterruptedError


@dg.job
def stopped() -> None:
    interrupted()


@dg.asset
def essay() -> None: ...


@dg.asset_check(asset=essay, blocking=True)
def essay_is_long() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="It has 3 words,\nand needs 300.")


def test_how_the_last_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_instance(tmp_path, Progress()) as instance:
        dg.materialize([essay, essay_is_long], instance=instance, raise_on_error=False)
    printed = status(tmp_path, monkeypatch)
    assert "It has 3 words, and needs 300." in printed
    assert "AssetCheckFailed" not in printed
    with open_instance(tmp_path, Progress()) as instance:
        stopped.execute_in_process(instance=instance, raise_on_error=False)
    printed = status(tmp_path, monkeypatch)
    assert "interrupted run " in printed
    assert "failed" not in printed
    assert "Interrupted" not in printed
