"""What becomes of a run: its recipe, when it is lost, and when it is started again."""

import json
import multiprocessing
import multiprocessing.process
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
from filelock import FileLock

from assets_defs.assets import asset_key
from assets_defs.pipes import ObservingTrainer
from assets_defs.resources import (
    HOME_TAG,
    RECIPE_TAG,
    ParakeetHome,
    recorded_recipe,
    release_run_lock,
    run_config,
    run_lock,
)
from parakeet.clean import leftovers
from parakeet.data.reading.sources import find_files
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import active_recipe, recipe_built_last, use_recipe
from pipelines.build import run_build
from pipelines.definitions import make_definitions
from pipelines.interrupted_runs import MOST_ATTEMPTS, Reached, interrupted_runs, resume_interrupted
from pipelines.lost_runs import INTERRUPTED_TAG, SECONDS_OF_GRACE, fail_lost_runs
from pipelines.one_daemon import ArtifactStorage

DEMO = load_recipe("demo")
defs = make_definitions(DEMO)
STARTED, STARTING = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def write_recipe(folder: Path, name: str) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    words = (" ".join(f"word{(n * 7919 + i * i) % 997}" for i in range(200)) for n in range(20))
    (folder / f"{name}.txt").write_text("\n\n".join(words), encoding="utf-8")
    path = folder / f"{name}.yaml"
    sources = [{"name": name, "path": f"{name}.txt", "near_duplicates": False}]
    values = {"extends": "own-text", "name": name, "executor": {"workers": 1}, "sources": sources}
    path.write_text(json.dumps(values), encoding="utf-8")
    return load_recipe(str(path))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def seen_recipe(instance: dg.DagsterInstance, config: dict[str, Any], tags: dict[str, str]) -> tuple[Any, Any]:
    """The recipe that a run of the demo's code location builds, and how it ended."""
    found: list[Recipe] = []

    @dg.asset(name="documents")
    def asset(parakeet_home: dg.ResourceParam[ParakeetHome]) -> None:
        found.append(parakeet_home.recipe)

    resources = defs.resources
    assert resources is not None
    result = dg.materialize(
        [asset],
        instance=instance,
        resources={"parakeet_home": resources["parakeet_home"]},
        run_config=config,
        tags=tags,
        raise_on_error=False,
    )
    return (found[0] if found else None), result


def test_a_run_builds_the_recipe_in_its_config_whatever_is_in_use(
    home: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    first, second = write_recipe(tmp_path, "first"), write_recipe(tmp_path, "second")
    use_recipe(home, first)
    config = run_config(first)
    use_recipe(home, second)
    seen, result = seen_recipe(instance, config, {})
    assert seen == first
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[RECIPE_TAG] == "first"
    notes = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("which it was launched with. Now recipe second is in use" in note for note in notes)
    # One that Dagster's page makes of it, without a config of its own.
    again = dg.DagsterRun("job", run_id="x", root_run_id=run.run_id, parent_run_id=run.run_id)
    assert recorded_recipe(instance, again) == first
    release_run_lock(home, result.run_id)


def test_a_resumed_run_starts_from_the_model_that_the_first_one_did(
    home: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    recipe = write_recipe(tmp_path, "first")
    training = recipe.training.model_copy(update={"start": "latest"})
    config = run_config(recipe.model_copy(update={"training": training}))
    (home / "releases").mkdir(parents=True, exist_ok=True)
    seen, result = seen_recipe(instance, config, {})
    assert seen.training.start == "latest", "there is none: the stage that needs one says so"
    for name in ("a-0", "b-0"):
        (home / "releases" / name).mkdir()
    (home / "releases" / "latest").symlink_to("a-0")
    seen, result = seen_recipe(instance, config, {})
    assert seen.training.start == str((home / "releases" / "a-0").resolve())
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    (home / "releases" / "latest").unlink()
    (home / "releases" / "latest").symlink_to("b-0")
    recorded = recorded_recipe(instance, run)
    assert recorded is not None
    assert recorded.training.start == seen.training.start
    # The tags are what `interrupted_runs`, a retry and the page's button copy.
    assert seen_recipe(instance, config, run.tags)[0] == seen
    assert seen_recipe(instance, config, {})[0].training.start.endswith("b-0")
    other = run_config(recipe.model_copy(update={"training": training.model_copy(update={"start": None})}))
    assert seen_recipe(instance, other, run.tags)[0] == recipe


def test_a_build_from_the_shell_leaves_the_recipe_in_use_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    first, second = write_recipe(tmp_path, "first"), write_recipe(tmp_path, "second")
    use_recipe(home, first)
    assert run_build(home, second, ["documents"], [], False, Progress()) == 0
    assert (active_recipe(home), load_recipe(recipe_built_last(home))) == (first, second)
    # What it made is no leftover.
    assert leftovers(home).unreferenced == []
    use_recipe(home, second)
    assert run_build(home, second, ["documents"], [], False, Progress()) == 0
    assert not list((home / ".locks" / "runs").iterdir())
    use_recipe(home, first)
    assert len(leftovers(home).unreferenced) == 1


def test_a_run_that_holds_no_recipe_does_not_build_another(home: Path, instance: dg.DagsterInstance) -> None:
    """As queued by an earlier version of Parakeet."""
    seen, result = seen_recipe(instance, {}, {RECIPE_TAG: "mine"})
    assert (seen, result.success) == (None, False)
    (failure,) = (event for event in result.all_events if event.event_type is dg.DagsterEventType.RUN_FAILURE)
    assert "begun with recipe mine, which it does not hold, and demo is in use" in str(failure.job_failure_data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "The recipe of run"),
        ("name: x", "Field required"),
        ("no recipe", "a recipe is a YAML mapping"),
        ("extends: demo", "unknown key extends"),
    ],
)
def test_a_recipe_of_a_run_that_cannot_be_read_is_one_message(
    home: Path, instance: dg.DagsterInstance, text: str, message: str
) -> None:
    config = {"resources": {"parakeet_home": {"config": {"recipe": text}}}}
    seen, result = seen_recipe(instance, config, {})
    assert (seen, result.success) == (None, False)
    assert any(message in str(event.event_specific_data) for event in result.all_events)


def test_the_code_location_remembers_its_recipe_for_its_runs(home: Path, tmp_path: Path) -> None:
    """As Dagster does it: the location is loaded with one recipe, and a run's process after another is in use."""
    recipes = [write_recipe(tmp_path, name) and str(tmp_path / f"{name}.yaml") for name in ("first", "second")]
    script = tmp_path / "load.py"
    script.write_text(
        """
import sys
import dagster as dg
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.definitions.reconstruct import (
    initialize_repository_def_from_pointer, reconstruct_repository_def_from_pointer)
from parakeet.home import home
from parakeet.recipe_file import load_recipe
from parakeet.stages import active_recipe, recipe_built_last, use_recipe
from pipelines.build import run_build
from pipelines.definitions import defs

def show(repository):
    print(repository.asset_graph.get(dg.AssetKey("documents")).code_version)

pointer = ModuleCodePointer("pipelines.definitions", "defs", None)
use_recipe(home(), load_recipe(sys.argv[1]))
location = initialize_repository_def_from_pointer(pointer)
show(location)
use_recipe(home(), load_recipe(sys.argv[2]))
show(reconstruct_repository_def_from_pointer(pointer, None))
show(reconstruct_repository_def_from_pointer(pointer, location.repository_load_data))
show(initialize_repository_def_from_pointer(pointer))
""",
        encoding="utf-8",
    )
    run = subprocess.run(
        [sys.executable, str(script), *recipes],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    shown, in_server, in_run, reloaded = run.stdout.split()
    assert shown == in_server == in_run
    assert reloaded != shown


def make_run(instance: dg.DagsterInstance, **settings: Any) -> str:
    return instance.create_run_for_job(defs.resolve_job_def("full_build"), **settings).run_id


def age(instance: dg.DagsterInstance, run_id: str, seconds: float) -> None:
    """Let Dagster have launched a run's process so long ago."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    event = dg.DagsterEvent(event_type_value="PIPELINE_STARTING", job_name=run.job_name)
    entry = dg.EventLogEntry(
        error_info=None, level=10, user_message="", run_id=run_id, timestamp=time.time() - seconds,
        job_name=run.job_name, dagster_event=event,
    )  # fmt: skip
    instance.handle_new_event(entry)


def statuses(instance: dg.DagsterInstance, *run_ids: str) -> list[str]:
    found = [instance.get_run_by_id(run_id) for run_id in run_ids]
    return [run.status.value for run in found if run is not None]


def test_a_run_is_lost_by_its_lock_or_by_the_time_since_its_launch(home: Path, instance: dg.DagsterInstance) -> None:
    tags = {HOME_TAG: str(home)}
    free, held, canceling, no_file, young, elsewhere = (
        make_run(instance, tags=tags, status=dg.DagsterRunStatus.NOT_STARTED) for _ in range(6)
    )
    instance.add_run_tags(elsewhere, {HOME_TAG: "/elsewhere"})
    for run_id in (free, held, canceling, no_file, elsewhere):
        age(instance, run_id, SECONDS_OF_GRACE + 10)
    # It was created long ago, and waited in the queue.
    age(instance, young, SECONDS_OF_GRACE - 60)
    canceled = instance.get_run_by_id(canceling)
    assert canceled is not None
    instance.report_run_canceling(canceled)
    for run_id in (free, held, canceling):
        run_lock(home, run_id).parent.mkdir(parents=True, exist_ok=True)
        run_lock(home, run_id).touch()
    with FileLock(run_lock(home, held)):
        assert set(fail_lost_runs(instance, home)) == {free, canceling, no_file}
        assert fail_lost_runs(instance, home) == []
        assert run_lock(home, held).exists()
    assert statuses(instance, free, no_file) == ["FAILURE", "FAILURE"]
    assert statuses(instance, canceling) == ["CANCELED"]
    assert statuses(instance, held, young, elsewhere) == ["STARTING"] * 3
    assert not run_lock(home, free).exists()


def test_a_run_whose_start_takes_minutes_is_not_lost(
    home: Path, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of its sources are on a slow disk: while it looks at them, a tick comes."""
    recipe = write_recipe(tmp_path, "mine")
    lost: list[str] = []

    def slow(source: Any) -> Any:
        (run,) = instance.get_runs()
        age(instance, run.run_id, SECONDS_OF_GRACE + 10)
        lost.extend(fail_lost_runs(instance, home))
        return find_files(source)

    monkeypatch.setattr("assets_defs.sources.find_files", slow)
    seen, result = seen_recipe(instance, run_config(recipe), {})
    release_run_lock(home, result.run_id)
    assert (seen, lost) == (recipe, [])


def test_retrain_launched_by_hand_trains_nothing(home: Path, instance: dg.DagsterInstance) -> None:
    assert not retrain_by_hand(instance, {})
    assert retrain_by_hand(instance, run_config(DEMO))


def retrain_by_hand(instance: dg.DagsterInstance, config: dict[str, Any]) -> bool:
    """Whether a run of the job begins with this config. What it makes of assets is no part of it."""

    @dg.op
    def begin_retraining(parakeet_home: dg.ResourceParam[ParakeetHome]) -> None: ...

    assert defs.resources is not None

    @dg.job(name="retrain", resource_defs={"parakeet_home": defs.resources["parakeet_home"]})
    def job() -> None:
        begin_retraining()

    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    said = [str(event.event_specific_data) for event in result.all_events if event.is_failure]
    assert result.success or any("Run: parakeet retrain" in text for text in said)
    return result.success


def test_a_run_that_waited_in_the_queue_is_not_lost_while_it_starts(home: Path, tmp_path: Path) -> None:
    """Its record is hours old, and its process was launched just now."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        run_id = make_run(instance, tags={HOME_TAG: str(home)}, status=dg.DagsterRunStatus.NOT_STARTED)
        storage = instance.run_storage
        with storage.connect() as connection:  # type: ignore[attr-defined]
            import sqlalchemy

            connection.execute(sqlalchemy.text("UPDATE runs SET create_timestamp = '2020-01-01 00:00:00'"))
            connection.commit()
        age(instance, run_id, 5)
        assert fail_lost_runs(instance, home) == []
        assert statuses(instance, run_id) == ["STARTING"]


def test_the_lock_is_held_until_the_end_is_recorded(home: Path, instance: dg.DagsterInstance) -> None:
    _, result = seen_recipe(instance, {}, {})
    assert statuses(instance, result.run_id) == ["SUCCESS"]
    assert run_lock(home, result.run_id).exists(), "it was free before Dagster had recorded the end"
    # As when the process has ended.
    release_run_lock(home, result.run_id)
    run_lock(home, result.run_id).touch()
    assert fail_lost_runs(instance, home) == []
    assert not run_lock(home, result.run_id).exists()


def test_without_a_lock_file_a_run_says_why_and_makes_nothing(home: Path, instance: dg.DagsterInstance) -> None:
    (home / ".locks").write_text("in the way", encoding="utf-8")
    seen, result = seen_recipe(instance, {}, {})
    assert (seen, result.success) == (None, False)
    assert any("making the lock file of the run" in str(event.event_specific_data) for event in result.all_events)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance as `dagster dev` has it: what is launched waits in a queue, which no daemon empties here."""
    folder = tmp_path_factory.mktemp("queue")
    coordinator = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}
    with dg.instance_for_test(temp_dir=str(folder), overrides={"run_coordinator": coordinator}) as instance:
        yield instance


def launched(instance: dg.DagsterInstance, home: Path, recipe: Recipe, **tags: str) -> dg.DagsterRun:
    """A run that was launched from the code location, and whose process runs."""
    from dagster._core.remote_origin import (
        RegisteredCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )

    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("parakeet"), "__repository__"), "full_build"
    )
    run = instance.create_run_for_job(
        defs.resolve_job_def("full_build"),
        run_config=run_config(recipe),
        tags={HOME_TAG: str(home), RECIPE_TAG: recipe.name, **tags},
        asset_selection=frozenset({asset_key("documents"), asset_key("checkpoint")}),
        remote_job_origin=origin,
    )
    age(instance, run.run_id, 1000)
    return run


def after(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """The run that resumes an interrupted one."""
    found = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run.run_id}))
    assert len(found) <= 1
    return found[0] if found else None


def save_step(home: Path, instance: dg.DagsterInstance, run: dg.DagsterRun, stage_number: int) -> None:
    """Let a run have finished the first stages of its recipe."""
    from parakeet.progress import Progress
    from parakeet.stages import Build

    recipe = recorded_recipe(instance, run)
    assert recipe is not None
    build = Build(home, recipe)
    for name in list(build.stages)[:stage_number]:
        build.ensure(name, Progress(), lambda command: None)


def test_an_interrupted_run_is_resumed_with_its_recipe_until_there_is_no_progress(
    home: Path, tmp_path: Path, queue: dg.DagsterInstance
) -> None:
    recipe = write_recipe(tmp_path, "mine")
    run = launched(queue, home, recipe, **{"dagster/schedule_name": "weekly", "mine": "kept", "dagster/tick": "1"})
    root, attempts = run.run_id, 0
    for stages_made in (0, 1, 2, 2, 2, 2):
        attempts += 1
        save_step(home, queue, run, stages_made)
        assert fail_lost_runs(queue, home) == [run.run_id]
        told = resume_interrupted(queue, home, LONG_AGO).told
        assert len(told) == 1
        if (following := after(queue, run)) is None:
            break
        assert following.status is dg.DagsterRunStatus.QUEUED
        assert following.run_config == run.run_config
        assert following.asset_selection == run.asset_selection
        assert following.execution_plan_snapshot_id == run.execution_plan_snapshot_id
        assert (following.root_run_id, following.parent_run_id) == (root, run.run_id)
        assert (following.tags["mine"], following.tags["dagster/schedule_name"]) == ("kept", "weekly")
        assert not {INTERRUPTED_TAG, "dagster/tick", "dagster/failure_reason"} & set(following.tags)
        assert recorded_recipe(queue, following) == recipe
        assert resume_interrupted(queue, home, LONG_AGO).told == [], "it was started twice"
        run = following
        age(queue, run.run_id, 1000)
    assert attempts == 3 + MOST_ATTEMPTS
    assert f"not started again: {MOST_ATTEMPTS} attempts made no progress" in told[0]
    assert any("no progress" in entry.message for entry in queue.all_logs(run.run_id))
    assert resume_interrupted(queue, home, LONG_AGO).told == []


def end(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> None:
    from dagster._core.events import JobFailureData, RunFailureReason

    instance.report_run_failed(run, job_failure_data=JobFailureData(None, RunFailureReason(reason)))


def test_a_tick_that_was_killed_before_it_queued_the_run_is_made_good(
    home: Path, tmp_path: Path, queue: dg.DagsterInstance
) -> None:
    run = launched(queue, home, write_recipe(tmp_path, "mine"))
    end(queue, run, "UNEXPECTED_TERMINATION")
    tags = {**run.tags, "dagster/parent_run_id": run.run_id, "parakeet/progress": "[0, 0, 0, 0]"}
    created = queue.create_run_for_job(
        defs.resolve_job_def("full_build"), tags=tags, remote_job_origin=run.remote_job_origin
    )
    resume_interrupted(queue, home, LONG_AGO)
    assert statuses(queue, created.run_id) == ["QUEUED"]
    resumed = after(queue, run)
    assert resumed is not None
    assert resumed.run_id == created.run_id


def test_one_run_that_cannot_be_resumed_stops_no_other_and_is_tried_again(
    home: Path, tmp_path: Path, queue: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [launched(queue, home, write_recipe(tmp_path, "mine")) for _ in range(2)]
    for run in runs:
        end(queue, run, "UNEXPECTED_TERMINATION")
    submit, asked = queue.run_coordinator.submit_run, []

    def fail_once(context: Any) -> dg.DagsterRun:
        asked.append(context)
        if len(asked) == 1:
            raise OSError("database is locked")
        return submit(context)

    monkeypatch.setattr(queue.run_coordinator, "submit_run", fail_once)

    def tick(cursor: datetime) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=queue, definitions=defs, cursor=cursor.isoformat())
        result = interrupted_runs(context)
        assert isinstance(result, dg.SensorResult)
        return result

    hours_ago = datetime.now(UTC) - timedelta(hours=3)
    result = tick(hours_ago)
    said = str(result.skip_reason)
    assert f"Run {runs[0].run_id[:8]} cannot be resumed now, and is tried again: database is locked" in said
    assert f"Run {runs[1].run_id[:8]} was interrupted: run " in said
    assert result.cursor is not None
    assert hours_ago < datetime.fromisoformat(result.cursor)
    created = after(queue, runs[0])
    assert created is not None
    assert created.status is dg.DagsterRunStatus.NOT_STARTED
    tick(datetime.fromisoformat(result.cursor))
    assert statuses(queue, created.run_id) == ["QUEUED"]


def test_without_a_queue_it_is_said_once(home: Path, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    run = launched(instance, home, write_recipe(tmp_path, "mine"))
    end(instance, run, "UNEXPECTED_TERMINATION")
    (told,) = resume_interrupted(instance, home, LONG_AGO).told
    assert "Without Dagster's queue of runs" in told
    assert resume_interrupted(instance, home, LONG_AGO).told == []


@pytest.mark.parametrize(
    ("now", "best", "beyond", "kept"),
    [
        ((3, 100), (3, 200), False, (3, 200)),  # an older checkpoint was found, the newest is damaged
        ((3, 150), (3, 200), False, (3, 200)),
        ((4, 0, 0, 0), (3, 200, 9, 5), True, (4, 0, 0, 0)),  # what counts inside a stage begins again
        ((3, 200, 1), (3, 200), True, (3, 200, 1)),
        ((2, 0, 9, 0), (3, 200, 0, 7), True, (3, 200, 9, 7)),
    ],
)
def test_progress_is_measured_against_the_best_of_all_attempts(
    now: tuple[int, ...], best: tuple[int, ...], beyond: bool, kept: tuple[int, ...]
) -> None:
    assert Reached(*now).is_beyond(Reached(*best)) == beyond
    assert Reached(*now).and_best(Reached(*best)) == Reached(*kept)


@pytest.mark.parametrize(
    ("reason", "resumed"),
    [
        ("UNEXPECTED_TERMINATION", True),  # Ctrl-C of `dagster dev`
        ("UNKNOWN", True),  # its process was killed, and the code server saw it
        ("START_TIMEOUT", True),
        ("RUN_EXCEPTION", False),
        ("JOB_INITIALIZATION_FAILURE", False),
        ("STEP_FAILURE", False),
    ],
)
def test_what_failed_by_itself_is_not_started_again(
    home: Path, tmp_path: Path, queue: dg.DagsterInstance, reason: str, resumed: bool
) -> None:
    run = launched(queue, home, write_recipe(tmp_path, "mine"))
    end(queue, run, reason)
    resume_interrupted(queue, home, LONG_AGO)
    assert (after(queue, run) is not None) == resumed


@pytest.mark.parametrize(
    ("tags", "canceled"),
    [
        ({HOME_TAG: "/elsewhere"}, False),
        ({"dagster/will_retry": "true"}, False),  # by Dagster, as an older dagster.yaml lets it
        ({}, True),  # Terminate
        ({"dagster/max_runtime": "60"}, True),  # Dagster's monitoring reports it as failed, without a reason
    ],
)
def test_runs_that_others_decide_on(
    home: Path, tmp_path: Path, queue: dg.DagsterInstance, tags: dict[str, str], canceled: bool
) -> None:
    run = launched(queue, home, write_recipe(tmp_path, "mine"), **tags)
    if canceled:
        queue.report_run_canceling(run)
        if tags:
            queue.report_run_failed(run)
        else:
            fail_lost_runs(queue, home)
    else:
        end(queue, run, "UNEXPECTED_TERMINATION")
    assert resume_interrupted(queue, home, LONG_AGO).told == []
    assert after(queue, run) is None


def test_the_crash_of_a_process_is_told_from_other_failures(home: Path, instance: dg.DagsterInstance) -> None:
    """With the definitions' own trainer, and a process that is killed."""
    resources = defs.resources
    assert resources is not None
    told: list[str | None] = []

    @dg.asset
    def checkpoint(
        context: dg.AssetExecutionContext, trainer: dg.ResourceParam[ObservingTrainer]
    ) -> dg.MaterializeResult:
        for script in ("import os; os.kill(os.getpid(), 9)", "raise SystemExit(3)", "pass"):
            told.append(trainer.launch(context, [sys.executable, "-c", script]))
        return dg.MaterializeResult()

    dg.materialize([checkpoint], instance=instance, resources={"trainer": resources["trainer"]})
    assert [one and one.rpartition(" ")[2] for one in told] == ["-9", "3", None]


@pytest.mark.parametrize(("died", "resumed"), [(True, True), (False, False)])
def test_a_trainer_that_crashed_goes_on_and_one_that_gave_up_does_not(
    home: Path, instance: dg.DagsterInstance, died: bool, resumed: bool
) -> None:
    from assets_defs.assets import failures_explained
    from parakeet.errors import ParakeetError, ProcessDied
    from pipelines.interrupted_runs import is_interrupted

    @dg.asset
    def checkpoint() -> None:
        with failures_explained("making checkpoint", home):
            raise (ProcessDied if died else ParakeetError)("The loss is not finite.")

    result = dg.materialize([checkpoint], instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert is_interrupted(instance, run) == resumed


def test_the_sensor_goes_on_where_its_last_tick_ended(home: Path, tmp_path: Path, queue: dg.DagsterInstance) -> None:
    """It looks a day back at first, and later as far back as its last tick is, however long ago."""
    context = dg.build_sensor_context(instance=queue, definitions=defs)
    first = interrupted_runs(context)
    assert isinstance(first, dg.SensorResult)
    assert first.cursor is not None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first.cursor)) < timedelta(minutes=6)
    run = launched(queue, home, write_recipe(tmp_path, "mine"))
    end(queue, run, "UNEXPECTED_TERMINATION")
    ahead = (datetime.now(UTC) + timedelta(days=1)).isoformat()  # the clock was set back
    told = interrupted_runs(dg.build_sensor_context(instance=queue, definitions=defs, cursor=ahead))
    assert isinstance(told, dg.SensorResult)
    assert after(queue, run) is not None


@pytest.mark.parametrize("origin", ["everything", "original_checkpoint"])
def test_materialize_all_leaves_the_original_out(
    home: Path, tmp_path: Path, instance: dg.DagsterInstance, origin: str
) -> None:
    """As the page asks for it: the job of all assets, with each of them in the selection."""
    recipe = write_recipe(tmp_path, "mine")
    missing = {"drive_id": None, "mirrors": [str(tmp_path / "missing.tar")]}
    recipe = recipe.model_copy(update={"original": recipe.original.model_copy(update=missing)})
    names = {"everything": ("documents", "original_checkpoint", "original_model")}.get(origin, (origin,))
    job = make_definitions(recipe).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, asset_selection=[asset_key(name) for name in names], raise_on_error=False
    )
    release_run_lock(home, result.run_id)
    made = [event.asset_key.to_user_string() for event in result.all_events if event.is_step_materialization]  # type: ignore[union-attr]
    if origin == "everything":
        assert result.success
        assert made == ["documents"]
        notes = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert sum("Launch the job import_original" in note for note in notes) == 1
        return
    assert made == []
    assert "missing.tar" in str([event.event_specific_data for event in result.all_events])


def begin(base_dir: Path, arguments: list[str], of_dev: bool, pipe: Connection) -> None:
    """One of Dagster's processes as it starts: what it ends with, or nothing and it lives on."""
    sys.argv = arguments
    os.environ.update({"DAGSTER_IS_DEV_CLI": "1"} if of_dev else {})
    try:
        ArtifactStorage.from_config_value(None, {"base_dir": str(base_dir)})
        pipe.send("")
    except click.ClickException as error:
        pipe.send(error.message)
    pipe.recv()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("not noted yet", "already runs on the history in .*: another process"),
        ("a file", "locking the history of runs"),
    ],
)
def test_what_is_wrong_with_the_locks_of_a_history_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["dagster", "dev"])
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    history = tmp_path / "history"
    if fault == "a file":
        history.write_text("", encoding="utf-8")
    else:
        history.mkdir()
    held = FileLock(tmp_path / "history" / "dagster_daemon.lock") if history.is_dir() else nullcontext()
    with held, pytest.raises(click.ClickException, match=message):
        ArtifactStorage.from_config_value(None, {"base_dir": str(history / "artifacts")})


def test_a_history_has_one_daemon(tmp_path: Path) -> None:
    """`dagster dev` and daemons end with one message; other processes of Dagster are none of them."""
    processes = multiprocessing.get_context("fork")
    begun: list[multiprocessing.process.BaseProcess] = []

    def start(arguments: list[str], of_dev: bool = False) -> str:
        here, there = processes.Pipe()
        begun.append(processes.Process(target=begin, args=(tmp_path / "artifacts", arguments, of_dev, there)))
        begun[-1].start()
        return str(here.recv())

    def stop(number: int) -> None:
        begun[number].kill()
        begun[number].join()

    dev, daemon = ["/x/bin/dagster", "dev"], ["/x/bin/dagster-daemon", "run"]
    try:
        assert start(dev, of_dev=True) == ""
        assert f"process {begun[0].pid} since" in start(dev, of_dev=True)
        assert start(["/x/dagster/_daemon/__main__.py", "run"], of_dev=True) == ""
        assert start(["/x/bin/dagster", "api", "grpc"], of_dev=True) == ""
        stop(0)
        # Its daemon outlived it.
        assert f"process {begun[2].pid} since" in start(dev, of_dev=True)
        assert f"process {begun[2].pid} since" in start(daemon)
        stop(4)
        stop(2)
        assert start(daemon) == ""
        assert f"process {begun[6].pid} since" in start(dev, of_dev=True)
    finally:
        for number in range(len(begun)):
            stop(number)
