"""The schedules in each state, evaluated as Dagster's daemon does."""

import datetime
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml
from filelock import FileLock

from assets_defs.keys import asset_key
from assets_defs.resources import HOME_TAG, RECIPE_TAG
from parakeet.errors import ParakeetError
from parakeet.recipe import Notify, Recipe
from parakeet.stages import use_recipe
from pipelines.definitions import make_definitions
from pipelines.schedules import SECONDS_TO_QUEUE, local_time_zone

from ..released import RELEASE, RUN, recipe_of, write_release

SUNDAY = datetime.datetime(2026, 11, 22, 3, tzinfo=datetime.UTC)


class Operator:
    """A home with a promoted release and an active recipe, and a Dagster instance."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.text, self.instance = folder / "home", folder / "text", instance
        self.text.mkdir()
        (self.text / "a.txt").write_text("word " * 800, encoding="utf-8")
        self.recipe = recipe_of(self.text)
        write_release(self.home, self.recipe)
        use_recipe(self.home, self.recipe)
        self.repository = make_definitions(self.recipe).get_repository_def()

    def tick(self, schedule: str = "weekly_retraining", when: datetime.datetime = SUNDAY):  # type: ignore[no-untyped-def]
        context = dg.build_schedule_context(
            instance=self.instance, repository_def=self.repository, scheduled_execution_time=when
        )
        return self.repository.get_schedule_def(schedule).evaluate_tick(context)

    def add_text(self) -> None:
        (self.text / f"{time.time_ns()}.txt").write_text("more " * 200, encoding="utf-8")

    def run(
        self, job: str, status: dg.DagsterRunStatus, home: Path | None = None, only: list[str] | None = None
    ) -> dg.DagsterRun:
        return self.instance.create_run_for_job(
            make_definitions(self.recipe).resolve_job_def(job),
            status=status,
            tags={HOME_TAG: str(home or self.home)},
            asset_selection=frozenset(map(asset_key, only)) if only is not None else None,
        )


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("history"))) as instance:
        yield instance


@pytest.fixture
def operator(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    for run in instance.get_runs():
        instance.delete_run(run.run_id)
    return Operator(tmp_path, instance)


def test_both_are_off_and_weekly_retraining_starts_retrain_on_sunday_night(operator: Operator) -> None:
    for name in ("weekly_retraining", "source_looks"):
        schedule = operator.repository.get_schedule_def(name)
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
        assert schedule.execution_timezone == local_time_zone()
        assert schedule.job_name == "retrain"
    assert operator.repository.get_schedule_def("weekly_retraining").cron_schedule == "0 3 * * 0"


def test_without_new_text_the_tick_says_so(operator: Operator) -> None:
    ticked = operator.tick()
    assert not ticked.run_requests
    assert ticked.skip_message == f"Nothing is new since release {RELEASE}: 1 file, none new or changed."


def test_with_enough_new_text_the_run_has_the_derived_recipe(operator: Operator) -> None:
    operator.add_text()
    (request,) = operator.tick().run_requests
    recipe = Recipe.model_validate(yaml.safe_load(request.run_config["resources"]["parakeet_home"]["config"]["recipe"]))
    assert recipe.name == operator.recipe.name
    assert recipe.training.start == str(operator.home / "releases" / RELEASE)
    assert recipe.packing.replay is not None
    assert request.tags[RECIPE_TAG] == "notes"
    assert "About 250 tokens are new" in request.tags["parakeet/why"]
    job = make_definitions(operator.recipe).resolve_job_def("retrain")
    assert dg.validate_run_config(job, request.run_config)


def test_one_tick_is_one_run_however_often_it_is_evaluated(operator: Operator) -> None:
    """Also by a daemon whose clock was set back, or that lives in another time zone."""
    operator.add_text()
    elsewhere = SUNDAY.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    keys = [operator.tick(when=when).run_requests[0].run_key for when in (SUNDAY, SUNDAY, elsewhere)]
    assert len(set(keys)) == 1
    later = operator.tick(when=SUNDAY + datetime.timedelta(weeks=1)).run_requests[0].run_key
    assert later not in keys


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ("full_build", dg.DagsterRunStatus.NOT_STARTED),
        ("train_model", dg.DagsterRunStatus.STARTING),
        ("retrain", dg.DagsterRunStatus.STARTED),
    ],
)
def test_a_training_in_flight_is_waited_for(operator: Operator, job: str, status: dg.DagsterRunStatus) -> None:
    operator.add_text()
    operator.run(job, status)
    ticked = operator.tick()
    assert not ticked.run_requests
    assert "A training or a fetch is in flight" in ticked.skip_message
    assert f"({job}, {status.value.lower()})" in ticked.skip_message


def test_a_look_at_the_sources_is_waited_for(operator: Operator) -> None:
    """It has the job of the retraining, and the assets of the sources alone."""
    operator.add_text()
    operator.run("retrain", dg.DagsterRunStatus.STARTED, only=["documents"])
    assert "(retrain, started)" in operator.tick().skip_message


def test_a_run_that_was_never_queued_is_not_waited_for(
    operator: Operator, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.add_text()
    operator.run("full_build", dg.DagsterRunStatus.NOT_STARTED)
    assert not operator.tick().run_requests
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SECONDS_TO_QUEUE + 10)
    assert operator.tick().run_requests


def test_a_build_in_a_shell_is_waited_for(operator: Operator) -> None:
    operator.add_text()
    with FileLock(operator.home / "training_runs" / RUN / "run.lock"):
        assert "training run bbbbbbbb" in operator.tick().skip_message
    assert operator.tick().run_requests


def test_runs_that_train_nothing_here_do_not_matter(operator: Operator) -> None:
    operator.add_text()
    operator.run("prepare_data", dg.DagsterRunStatus.STARTED)
    operator.run("retrain", dg.DagsterRunStatus.STARTED, home=operator.home.parent / "elsewhere")
    assert operator.tick().run_requests


@pytest.mark.parametrize("fault", ["sources", "recipe", "shards"])
def test_what_cannot_be_built_is_a_failed_tick(operator: Operator, fault: str) -> None:
    operator.add_text()
    if fault == "sources":
        shutil.rmtree(operator.text)
    elif fault == "recipe":
        (operator.home / "recipe.yaml").write_text("name: [", encoding="utf-8")
    else:
        shutil.rmtree(operator.home / "token_shards")
    said = {"sources": "does not exist", "recipe": "cannot be read as a recipe", "shards": "no longer in"}[fault]
    with pytest.raises(dg.DagsterUserCodeExecutionError) as raised:
        operator.tick()
    assert isinstance(raised.value.user_exception, ParakeetError)
    assert said in str(raised.value.user_exception)


@pytest.mark.parametrize("schedule", ["weekly_retraining", "source_looks"])
def test_a_notice_of_a_failed_tick_is_sent_once_for_each_reason(operator: Operator, schedule: str) -> None:
    """Also if the recipe, which says where it is sent, cannot be read."""
    path, recipe = operator.home / "told", operator.home / "recipe.yaml"
    command = f'printf "%s: %s\\n" "$PARAKEET_EVENT" "$PARAKEET_TEXT" >> {path}'
    use_recipe(operator.home, operator.recipe.model_copy(update={"notify": Notify(command=command)}))
    good = recipe.read_text(encoding="utf-8")

    def lines(text: str) -> int:
        recipe.write_text(text, encoding="utf-8")
        with suppress(dg.DagsterUserCodeExecutionError):
            operator.tick(schedule)
        return path.read_text(encoding="utf-8").count("failed: ") if path.exists() else 0

    torn, other = good + "\nsources: [\n", good.replace("training:", "traning:")
    assert [lines(text) for text in (good, torn, torn, other, good, torn)] == [0, 1, 1, 2, 2, 3]
    line = path.read_text(encoding="utf-8").splitlines()[0]
    assert line.startswith(f"failed: A tick of {schedule} failed, and nothing was started. ")
    assert "recipe.yaml" in line


def test_the_first_model_is_trained_too(operator: Operator) -> None:
    shutil.rmtree(operator.home / "releases")
    (request,) = operator.tick().run_requests
    assert "There is no promoted release of recipe notes yet" in request.tags["parakeet/why"]


def test_no_look_is_due_without_sources_that_are_downloaded(operator: Operator) -> None:
    assert operator.tick("source_looks").skip_message == "No source of recipe notes can change on its server."


@pytest.mark.parametrize(
    ("variable", "zone"),
    [("Europe/Berlin", "Europe/Berlin"), (":Asia/Tokyo", "Asia/Tokyo"), ("No/Where", None), ("../etc", None)],
)
def test_the_time_zone_is_the_machines(monkeypatch: pytest.MonkeyPatch, variable: str, zone: str | None) -> None:
    monkeypatch.delenv("TZ", raising=False)
    own = local_time_zone()
    monkeypatch.setenv("TZ", variable)
    assert local_time_zone() == (zone or own)


def test_runs_of_jobs_have_their_recipe_before_they_begin(operator: Operator) -> None:
    others = ("__ASSET_JOB", "tidy", "study_")
    jobs = [job for job in operator.repository.get_all_jobs() if not job.name.startswith(others)]
    assert {job.name for job in jobs} >= {"prepare_data", "train_model", "full_build", "retrain", "import_original"}
    for job in jobs:
        assert (job.run_tags[RECIPE_TAG], job.run_tags[HOME_TAG]) == (operator.recipe.name, str(operator.home))
    operator.add_text()
    assert operator.tick().run_requests[0].tags[RECIPE_TAG] == operator.recipe.name
