"""Sensors: source files that change in every way, a disk that fills, runs that fail."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets_defs.resources import SHELL_TAG
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.release.history import REFUSED, Decision, record
from parakeet.release.promotion import begins_refusal
from parakeet.space import LEAST_FREE_FILES, Space, on_one_disk, space_for
from parakeet.stages import active_recipe, use_recipe
from pipelines.dagster_internals import WILL_RETRY_TAG
from pipelines.definitions import make_definitions
from pipelines.interrupted_runs import DECISION_TAG, GIVEN_UP
from pipelines.lost_runs import INTERRUPTED_TAG
from pipelines.sensors import LOW, disk_low, new_source_files, run_failed
from pipelines.source_files import FAILURES_TAG, ROOT_TAG, RUN_KEY_TAG, SECONDS_TO_SETTLE, SECONDS_TO_START, look, watch

from ..conftest import without_root_rights

ROOT = Path(__file__).parents[2]
defs = make_definitions(load_recipe("demo"))
JOB = defs.resolve_job_def("prepare_data")


class Watch:
    """The sensor over a folder `text`, a glob, an archive and an evaluation set. A tick is a minute later each time."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.text = folder / "text"
        self.home = folder / "home"
        self.instance = instance
        self.cursor: str | None = None
        self.now = time.time()
        self.words = ""
        self.failures = ""
        """Before the run that is asked for."""
        (self.text / "inner").mkdir(parents=True)
        (self.text / "a.txt").write_text("one", encoding="utf-8")
        (folder / "more").mkdir()
        (folder / "more" / "x.md").write_text("x", encoding="utf-8")
        (folder / "tested.jsonl").write_text('{"text": "a question"}\n', encoding="utf-8")
        with zipfile.ZipFile(folder / "old.zip", "w") as archive:
            archive.writestr("old.txt", "old")
        self.write("mine")
        use_recipe(self.home, load_recipe(str(folder / "mine.yaml")))

    def write(self, name: str) -> None:
        folder = self.text.parent
        sources = [{"name": n, "path": p} for n, p in (("a", "text"), ("b", "more/*.md"), ("c", "old.zip"))]
        decontamination = {"sets": [{"name": "tested", "path": "tested.jsonl"}]}
        values = {"extends": "demo", "name": name, "sources": sources, "decontamination": decontamination}
        (folder / "mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def tick(self, seconds: float = 60) -> str | None:
        """The run key that is asked for."""
        self.now += seconds
        result = watch(self.home, self.cursor, self.instance, self.now)
        if isinstance(result, dg.SkipReason):
            self.words = str(result.skip_message)
            return None
        self.cursor = result.cursor
        self.words = str(result.skip_reason.skip_message) if result.skip_reason else ""
        (request,) = result.run_requests or [None]
        self.failures = request.tags[FAILURES_TAG] if request else ""
        return str(request.run_key) if request else None

    def settled(self) -> str:
        """The run key after a change and two ticks."""
        assert self.tick() is None, "a change is asked for while it may still go on"
        run_key = self.tick()
        assert run_key is not None, self.words
        return run_key

    def run(self, run_key: str, status: dg.DagsterRunStatus, tags: dict[str, str] | None = None) -> dg.DagsterRun:
        """What Dagster makes of a request: a run with its key as a tag."""
        failed = status is dg.DagsterRunStatus.FAILURE
        begun = dg.DagsterRunStatus.STARTED if failed else status
        tags = {DECISION_TAG: f"{GIVEN_UP}3 attempts"} if tags is None else tags
        run = self.instance.create_run_for_job(JOB, tags={RUN_KEY_TAG: run_key, **tags}, status=begun)
        if failed:
            self.instance.report_run_failed(run)
        return run


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def watched(tmp_path: Path, instance: dg.DagsterInstance) -> Watch:
    watched = Watch(tmp_path, instance)
    assert watched.tick() is None
    assert watched.words == "Watching 4 files of recipe mine from now on."
    return watched


def move_away(watched: Watch) -> None:
    shutil.move(watched.text / "a.txt", watched.text.parent / "a.txt")
    (watched.text / "b.txt").write_text("another", encoding="utf-8")


def same_size_and_time(watched: Watch) -> None:
    path = watched.text / "a.txt"
    before = path.stat()
    path.write_text("two", encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Watch], object]] = {
    "a new file": lambda w: (w.text / "b.txt").write_text("two", encoding="utf-8"),
    "a new file in a subfolder": lambda w: (w.text / "inner" / "b.txt").write_text("two", encoding="utf-8"),
    "a new file of a glob": lambda w: (w.text.parent / "more" / "y.md").write_text("y", encoding="utf-8"),
    "a changed file": lambda w: (w.text / "a.txt").write_text("two words", encoding="utf-8"),
    "a file changed with the same size and its old time": same_size_and_time,
    "a renamed file": lambda w: (w.text / "a.txt").rename(w.text / "c.txt"),
    "a removed file beside a new one": move_away,
    "a changed archive": lambda w: zipfile.ZipFile(w.text.parent / "old.zip", "a").writestr("b.txt", "b"),
    "a changed evaluation set": lambda w: (w.text.parent / "tested.jsonl").write_text('{"text": "b"}', "utf-8"),
    "a new file behind a link": lambda w: (w.text / "link.txt").symlink_to(w.text.parent / "more" / "x.md"),
    "an older file": lambda w: (shutil.copy2(w.text / "a.txt", w.text / "b.txt"), os.utime(w.text / "b.txt", (1, 1))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_asked_for_once_it_stands_still(watched: Watch, change: Callable[[Watch], object]) -> None:
    assert watched.tick() is None
    assert "No change in 4 files" in watched.words
    change(watched)
    run_key = watched.settled()
    assert watched.tick(10) is None
    watched.run(run_key, dg.DagsterRunStatus.SUCCESS)
    assert watched.tick() is None
    assert "No change in" in watched.words


UNREAD: dict[str, Callable[[Watch], object]] = {
    "a hidden file": lambda w: (w.text / ".b.txt").write_text("two", encoding="utf-8"),
    "a file that is not read": lambda w: (w.text / "b.pdf").write_bytes(b"%PDF"),
    "an empty folder": lambda w: (w.text / "new").mkdir(),
    "a file that came and went": lambda w: ((w.text / "b.txt").touch(), (w.text / "b.txt").unlink()),
    "a file beside a glob": lambda w: (w.text.parent / "more" / "y.txt").write_text("y", encoding="utf-8"),
}


@pytest.mark.parametrize("change", UNREAD.values(), ids=UNREAD.keys())
def test_what_no_stage_reads_is_no_change(watched: Watch, change: Callable[[Watch], object]) -> None:
    change(watched)
    assert [watched.tick() for _ in range(3)] == [None, None, None]
    assert "No change in 4 files" in watched.words


def test_a_file_that_is_added_moved_away_and_moved_back_is_asked_for_each_time(watched: Watch) -> None:
    """Case 22: Dagster starts no second run with a run key that it has seen."""
    b, away = watched.text / "b.jsonl", watched.text.parent / "b.jsonl"
    run_keys = []
    for change in (lambda: b.write_text('{"text": "b"}\n', "utf-8"), lambda: b.rename(away), lambda: away.rename(b)):
        change()
        run_keys.append(watched.settled())
        watched.run(run_keys[-1], dg.DagsterRunStatus.SUCCESS)
    # A cursor that a person has reset does not bring a key back.
    watched.cursor = None
    watched.tick()
    b.rename(away)
    run_keys.append(watched.settled())
    assert len(set(run_keys)) == 4


def test_a_slow_copy_is_asked_for_when_it_is_whole(watched: Watch) -> None:
    path = watched.text / "b.txt"
    for part in range(4):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{part}\n" * 100)
        assert watched.tick() is None
        assert "waiting until they stand still" in watched.words
    assert watched.tick(SECONDS_TO_SETTLE / 2) is None
    assert str(path) in watched.words
    assert watched.tick(SECONDS_TO_SETTLE) is not None


def test_a_clock_that_is_set_back_only_delays(watched: Watch) -> None:
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    os.utime(watched.text / "b.txt", (2e9, 2e9))
    assert watched.tick() is None
    assert watched.tick(-86_400) is None
    assert watched.tick() is not None


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, None])
def test_a_run_that_failed_or_vanished_is_asked_for_again_later_each_time(
    watched: Watch, status: dg.DagsterRunStatus | None
) -> None:
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    run_key, waits = watched.settled(), []
    for _ in range(4):
        if status is not None:
            watched.run(run_key, status)
        watched.now, asked, ticks = time.time(), None, 0
        while asked is None:
            asked, ticks = watched.tick(61), ticks + 1
        assert asked != run_key
        run_key = asked
        waits.append(ticks)
    if status is None:
        assert max(waits) * 61 < 2 * SECONDS_TO_START
    else:
        assert waits == [1, 1, 2, 4]
        watched.run(run_key, status)
        assert watched.tick(0) is None
        assert "failed, 5 times in a row. It is asked for again in" in watched.words
    # A further change is asked for at once.
    (watched.text / "c.txt").write_text("three", encoding="utf-8")
    assert watched.settled() != run_key


@pytest.mark.parametrize(
    ("status", "tags", "words"),
    [
        (dg.DagsterRunStatus.NOT_STARTED, {}, "is under way"),
        (dg.DagsterRunStatus.STARTED, {}, "is under way"),
        (dg.DagsterRunStatus.CANCELED, {}, "was ended by a person"),
        (dg.DagsterRunStatus.FAILURE, {WILL_RETRY_TAG: "true"}, "another one resumes it"),
        (dg.DagsterRunStatus.FAILURE, {INTERRUPTED_TAG: ""}, "another one resumes it"),
        (dg.DagsterRunStatus.SUCCESS, {}, "No change"),
    ],
)
def test_a_run_that_goes_on_or_was_ended_by_hand_is_not_asked_for_again(
    watched: Watch, status: dg.DagsterRunStatus, tags: dict[str, str], words: str
) -> None:
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    run = watched.run(watched.settled(), status, tags)
    watched.now = time.time()
    assert [watched.tick(10) for _ in range(3)] == [None, None, None]
    assert words in watched.words
    (watched.text / "c.txt").write_text("three", encoding="utf-8")
    watched.tick()
    if status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED):
        assert watched.tick() is None
        assert f"when run {run.run_id[:8]} has ended" in watched.words
        watched.instance.report_run_failed(run)
    assert watched.tick() is not None


def test_a_run_that_goes_on_with_an_interrupted_one_counts_for_it(watched: Watch) -> None:
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    run_key = watched.settled()
    first = watched.run(run_key, dg.DagsterRunStatus.FAILURE)
    watched.run("none", dg.DagsterRunStatus.SUCCESS, {ROOT_TAG: first.run_id})
    assert watched.tick(1_000) is None
    assert "No change" in watched.words


def test_only_a_failure_of_which_a_notice_was_sent_is_counted(watched: Watch) -> None:
    """The first run was never launched, the second was interrupted, the third was deleted, the fourth failed."""
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    run_key, failures = watched.settled(), []
    for tags in (None, {INTERRUPTED_TAG: ""}, {"deleted": ""}, {DECISION_TAG: f"{GIVEN_UP}3 attempts"}):
        if tags is not None:
            run = watched.run(run_key, dg.DagsterRunStatus.FAILURE, tags)
            if "deleted" in tags:
                watched.instance.delete_run(run.run_id)
        watched.now = time.time()
        while (again := watched.tick(SECONDS_TO_START + 60)) is None:
            assert watched.now < time.time() + 10_000, watched.words
        run_key = again
        failures.append(watched.failures)
    assert failures == ["0", "0", "0", "1"]


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED])
def test_a_run_that_is_deleted_after_its_end_is_not_asked_for_again(
    watched: Watch, status: dg.DagsterRunStatus
) -> None:
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    run = watched.run(watched.settled(), status)
    assert watched.tick() is None
    watched.instance.delete_run(run.run_id)
    assert [watched.tick(1_000) for _ in range(3)] == [None, None, None]
    (watched.text / "c.txt").write_text("three", encoding="utf-8")
    watched.settled()


FAULTS: dict[str, tuple[Callable[[Watch], object], str]] = {
    "a folder that is gone": (lambda w: w.text.rename(w.text.parent / "gone"), "text does not exist"),
    "a folder without its files": (lambda w: (w.text / "a.txt").unlink(), "holds no file"),
    "a broken link": (lambda w: (w.text / "b.txt").symlink_to("nothing"), "broken link"),
    "an evaluation set that is gone": (lambda w: (w.text.parent / "tested.jsonl").unlink(), "tested.jsonl does not"),
    "a recipe that cannot be read": (lambda w: (w.home / "recipe.yaml").write_text("[", "utf-8"), "recipe.yaml"),
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_read_is_a_message_and_no_removed_file(
    watched: Watch, fault: Callable[[Watch], object], words: str
) -> None:
    cursor = watched.cursor
    fault(watched)
    assert [watched.tick() for _ in range(3)] == [None, None, None]
    assert "cannot be read" in watched.words
    assert words in watched.words
    assert watched.cursor == cursor


UNREADABLE = """
import sys, time
from pathlib import Path
import dagster as dg
from pipelines.source_files import watch
home, cursor, *places = sys.argv[1:]
instance = dg.DagsterInstance.ephemeral()
for place in map(Path, places):
    place.chmod(0)
    (place.parent / "b.txt").write_text(place.name)
    kept, now = cursor, time.time()
    for tick in range(3):
        result = watch(Path(home), kept, instance, now + 60 * tick)
        skipped = isinstance(result, dg.SkipReason)
        kept = kept if skipped else result.cursor
    print(result.skip_message if skipped else result.skip_reason.skip_message)
    place.chmod(0o755)
"""


def test_what_may_not_be_read_is_a_message(watched: Watch) -> None:
    """Not a removed file: a folder that cannot be listed, and a file that cannot be read beside one that is new."""
    places = [str(watched.text / "inner"), str(watched.text / "a.txt")]
    command = [sys.executable, "-c", UNREADABLE, str(watched.home), str(watched.cursor), *places]
    prefix = [argument.replace("-dac_override", "-dac_override,-dac_read_search") for argument in without_root_rights()]
    finished = subprocess.run([*prefix, *command], capture_output=True, text=True, cwd=ROOT)
    folder, file = finished.stdout.splitlines()
    assert "inner cannot be listed (Permission denied)" in folder
    assert file.endswith("a.txt may not be read: change its permissions.")


def test_each_recipe_is_watched_from_its_own_last_look(watched: Watch) -> None:
    mine = active_recipe(watched.home)
    use_recipe(watched.home, mine.model_copy(update={"name": "other"}))
    watched.tick()
    assert watched.words == "Watching 4 files of recipe other from now on."
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    use_recipe(watched.home, mine)
    watched.settled()
    (watched.home / "recipe.yaml").unlink()
    assert watched.tick() is None
    assert "demo reads no files of this machine" in watched.words


@pytest.mark.parametrize("cursor", ["0" * 64, "[]", "{", '{"mine": 1}', '{"mine": {"seen": 1}}'])
def test_a_cursor_of_an_earlier_version_or_a_damaged_one_begins_anew(watched: Watch, cursor: str) -> None:
    watched.cursor = cursor
    assert watched.tick() is None
    assert watched.words.startswith("Watching 4 files")


def test_a_tick_over_many_files_is_short(tmp_path: Path) -> None:
    """20,000 files take 0.5 s; here are a quarter of them."""
    for number in range(50):
        (tmp_path / str(number)).mkdir()
        for name in range(100):
            os.close(os.open(tmp_path / str(number) / f"{name}.txt", os.O_CREAT))
    recipe = load_recipe("demo").all_values() | {"sources": [{"name": "many", "path": str(tmp_path)}]}
    began = time.process_time()
    snapshot = look(Recipe.model_validate(recipe))
    assert time.process_time() - began < 0.5
    assert snapshot is not None
    assert snapshot.files == 5_000


def test_the_sensor_itself_asks_with_the_recipe_in_the_run_config(
    watched: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(watched.home))
    (watched.text / "b.txt").write_text("two", encoding="utf-8")
    watched.tick()

    def evaluate(cursor: str | None) -> tuple[list[dg.RunRequest], str | None]:
        context = dg.build_sensor_context(
            instance=watched.instance, cursor=cursor, repository_def=defs.get_repository_def()
        )
        data = new_source_files.evaluate_tick(context)
        return list(data.run_requests or []), data.cursor

    assert evaluate(watched.cursor)[0] == []  # the tick in the future was in this minute
    state = json.loads(watched.cursor or "")
    state["mine"]["since"] = 0.0
    stood_still = time.time() + 60
    result = watch(watched.home, json.dumps(state), watched.instance, stood_still)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    config = request.run_config["resources"]["parakeet_home"]["config"]
    assert Recipe.model_validate(yaml.safe_load(config["recipe"])) == active_recipe(watched.home)
    assert request.tags["parakeet/recipe"] == "mine"
    requests, cursor = evaluate(None)
    assert requests == []
    assert cursor is not None


def notified(watched: Watch) -> Path:
    """The active recipe tells a command, which writes what it is told to this file."""
    path = watched.home / "told.txt"
    mine = active_recipe(watched.home).all_values()
    command = f'printf "%s: %s\\n" "$PARAKEET_EVENT" "$PARAKEET_TEXT" >> {path}'
    use_recipe(watched.home, Recipe.model_validate(mine | {"notify": {"command": command}}))
    return path


def test_a_low_disk_is_told_once_until_it_recovers(watched: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(watched.home))
    told = notified(watched)

    def tick(cursor: str | None, checkpoints: int) -> tuple[str | None, str]:
        """With a training that keeps so many checkpoints."""
        values = active_recipe(watched.home).all_values()
        training = {**values["training"], "keep_checkpoints": checkpoints}
        use_recipe(watched.home, Recipe.model_validate(values | {"training": training}))
        data = disk_low.evaluate_tick(dg.build_sensor_context(instance=watched.instance, cursor=cursor))
        return data.cursor or cursor, data.skip_message or ""

    cursor, words = tick(None, 2)
    assert cursor is None
    assert "needed for" in words
    cursor, words = tick(cursor, 10**7)
    assert cursor == LOW
    assert "The disk is nearly full" in words
    assert "needed for the next training of mine" in words
    cursor, words = tick(cursor, 10**7)
    assert "Still low, the notice was sent before" in words
    cursor, words = tick(cursor, 2)
    assert "There is space again" in words
    cursor, words = tick(cursor, 10**7)
    assert cursor == LOW
    assert [line.partition(":")[0] for line in told.read_text(encoding="utf-8").splitlines()] == ["disk_low"] * 2


@pytest.mark.parametrize(
    ("free", "files", "low", "recovered"),
    [(99, None, True, False), (100, None, False, False), (110, None, False, True), (10**9, 3, True, False)],
)
def test_when_a_disk_is_low(free: int, files: int | None, low: bool, recovered: bool) -> None:
    space = Space(Path("/x"), free, 100, "a test", files)
    assert (space.is_low, space.has_recovered) == (low, recovered)
    assert ("more files" in str(space)) == (files is not None and files < LEAST_FREE_FILES)


def test_a_home_that_is_not_there_yet_has_the_space_of_its_disk(tmp_path: Path) -> None:
    assert space_for(tmp_path / "a" / "b", 0, "").free > 0
    assert on_one_disk(tmp_path / "a" / "b", tmp_path)
    assert not on_one_disk(tmp_path, Path("/proc"))


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({}, ["failed"]),
        ({"parakeet/home": "HOME"}, ["failed"]),
        ({"parakeet/home": "/elsewhere"}, []),
        ({WILL_RETRY_TAG: "true"}, []),
        ({INTERRUPTED_TAG: ""}, []),
        ({FAILURES_TAG: "0"}, ["failed"]),
        ({FAILURES_TAG: "1"}, []),
        (SHELL_TAG, []),
    ],
)
def test_a_failed_run_is_told_unless_it_is_retried_or_of_another_home(
    watched: Watch, tags: dict[str, str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(watched.home))
    path = notified(watched)

    @dg.op
    def fails() -> None:
        raise dg.Failure("The disk is full. Free some.", allow_retries=False)

    @dg.job
    def failing() -> None:
        fails()

    result = failing.execute_in_process(
        instance=watched.instance,
        raise_on_error=False,
        tags={name: value.replace("HOME", str(watched.home)) for name, value in tags.items()},
    )
    event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    context = dg.build_run_status_sensor_context("run_failed", event, watched.instance, result.dagster_run)
    said = run_failed(context.for_run_failure())
    assert isinstance(said, dg.SkipReason)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    assert [line.partition(":")[0] for line in lines] == told
    assert all("of failing failed. The disk is full. Free some." in line for line in lines)


OLD = Decision(REFUSED, "old-0", "content", "mine", None, ("Too many bits.",), {})
DECIDING: dict[str, tuple[Callable[[], object], bool, bool]] = {
    "a refusal": (lambda: fail(f"{begins_refusal('old-0')}2026-11-28 13:35. Too many bits."), True, False),
    "another error of a step that decides": (lambda: fail("The disk is full. Free some."), True, True),
    "the refusal of a release that nobody recorded": (lambda: fail(f"{begins_refusal('x-0')}today."), True, True),
    "a gate": (lambda: None, False, False),
}


def fail(words: str) -> None:
    raise dg.Failure(words, allow_retries=False)


@pytest.mark.parametrize(("act", "passes", "told"), DECIDING.values(), ids=DECIDING.keys())
@pytest.mark.parametrize("name", ["comparison", "promotion"])
def test_only_a_refusal_itself_is_not_told_a_second_time(
    watched: Watch, name: str, act: Callable[[], object], passes: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else fails in a step that decides on a release is told, also after a refusal of any week."""
    monkeypatch.setenv("PARAKEET_HOME", str(watched.home))
    path = notified(watched)
    record(watched.home, OLD)

    @dg.asset(name=name)
    def deciding() -> None:
        act()

    @dg.asset_check(asset=deciding, blocking=True)
    def better() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passes, description="It is worse.")

    job = dg.Definitions(assets=[deciding], asset_checks=[better], jobs=[dg.define_asset_job("retrain")])
    result = job.resolve_job_def("retrain").execute_in_process(
        instance=watched.instance, raise_on_error=False, tags={"parakeet/recipe": "mine"}
    )
    event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    run_failed(
        dg.build_run_status_sensor_context("run_failed", event, watched.instance, result.dagster_run).for_run_failure()
    )
    is_gate = not passes and name == "comparison"
    assert path.exists() == (told or not (passes or is_gate))


def test_of_a_failed_check_its_description_is_told(watched: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(watched.home))
    path = notified(watched)

    @dg.asset
    def checkpoint() -> None:
        pass

    @dg.asset_check(asset=checkpoint, blocking=True)
    def training_converged() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="The loss did not fall.")

    job = dg.Definitions(
        assets=[checkpoint], asset_checks=[training_converged], jobs=[dg.define_asset_job("train_model")]
    ).resolve_job_def("train_model")
    result = job.execute_in_process(instance=watched.instance, raise_on_error=False)
    event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    run_failed(
        dg.build_run_status_sensor_context("run_failed", event, watched.instance, result.dagster_run).for_run_failure()
    )
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert line.endswith("of train_model failed. Check training_converged of checkpoint failed. The loss did not fall.")
