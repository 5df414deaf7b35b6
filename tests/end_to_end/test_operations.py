"""Months of operation in minutes: power cuts, gates and rollbacks under a real `dagster dev`. Run: make operations."""

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from parakeet.artifact import Artifact
from parakeet.release.history import decisions
from parakeet.training.logging import EVENTS_FILE, read_events
from parakeet.training.runs import load_run
from pipelines.schedules import local_time_zone

from .conftest import STAGES, parakeet, write_recipe
from .dagster_server import ENDED, DagsterServer

pytestmark = pytest.mark.operations

STEPS, KILLS = 1_500, 5
SENSOR, TICKS = "cheap_stages", 3
DIVERGING = 1.0
"""A learning rate at which 20 steps end with a higher loss than they began with."""


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterServer]:
    """A `dagster dev` that is not started yet, over an empty home."""
    server = DagsterServer(tmp_path / "home")
    try:
        yield server
    finally:
        server.stop()


def latest(home: Path) -> str:
    return (home / "releases" / "latest").resolve().name


def test_killed_five_times_with_everything_it_began_a_build_comes_to_the_same_weights(
    dagster: DagsterServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tokens=512 * STEPS, checkpoint_steps=25)
    home = dagster.home
    assert parakeet(home, "use", str(recipe)).returncode == 0
    assert parakeet(home, "build", "--recipe", str(recipe), "--select", "packing_plan").returncode == 0
    dagster.start()
    first = dagster.launch(job="full_build")
    done = 0
    for number in range(KILLS):

        def trained_on(done: int = done) -> bool:
            saved = sorted(home.glob("training_runs/*/step-*"))
            return bool(saved) and int(saved[-1].name.split("-")[1]) > done

        dagster.wait(trained_on, pause=0.05)
        (*_, last) = sorted(home.glob("training_runs/*/step-*"))
        done = int(last.name.split("-")[1])
        dagster.kill()
        dagster.start()
        print(f"kill {number + 1} after step {done}")
    dagster.wait(lambda: (home / "releases" / "latest").exists())
    runs = dagster.runs()
    assert dagster.status(first) == "FAILURE"
    # Each has the recipe of the first.
    assert {run["tags"].get("parakeet/recipe") for run in runs} == {"tiny"}
    (folder,) = home.glob("training_runs/*/")
    resumed = [event["step"] for event in read_events(folder / EVENTS_FILE) if event["kind"] == "resumed"]
    assert len(resumed) == KILLS

    alone = tmp_path / "alone"
    shutil.copytree(
        home, alone, symlinks=True, ignore=shutil.ignore_patterns("training_runs", "checkpoint", ".dagster")
    )
    built = parakeet(alone, "build", "--recipe", str(recipe), "--select", "checkpoint")
    assert built.returncode == 0, built.stderr.decode()
    weights = [
        Artifact.open(next(place.glob("checkpoint/*-0"))).manifest["files"]["model.safetensors"]["sha256"]
        for place in (home, alone)
    ]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def twice_promoted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home in which a release and then a better one were promoted, and the recipe of the better."""
    folder = tmp_path_factory.mktemp("promoted")
    for steps in (400, 800):
        recipe = judged_recipe(folder, steps)
        built = parakeet(folder / "home", "build", "--recipe", str(recipe))
        assert built.returncode == 0, built.stderr.decode()
    return folder / "home", recipe


@pytest.fixture
def released(dagster: DagsterServer, twice_promoted: tuple[Path, Path]) -> Path:
    """The home of `dagster`, with both releases."""
    original, home = twice_promoted[0], dagster.home
    shutil.copytree(original, home, symlinks=True)
    settings = home / ".dagster" / "dagster.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace(str(original), str(home)), encoding="utf-8")
    return home


def judged_recipe(folder: Path, steps: int, **training: Any) -> Path:
    """The recipe of the other tests with the default gates, trained for so many steps; retrained from new weights."""
    recipe = write_recipe(folder, tokens=512 * steps, warmup_steps=1, **training)
    values = json.loads(recipe.read_text(encoding="utf-8")) | {"retraining": {"start_from": "scratch"}}
    del values["gates"]  # null: the other tests train for a moment only
    recipe.write_text(json.dumps(values), encoding="utf-8")
    return recipe


def steps_trained(home: Path, release: str) -> int:
    """The optimizer steps in the record of the run that a release was trained by."""
    made = json.loads((home / "releases" / release / "training_manifest.json").read_text(encoding="utf-8"))
    return load_run(home / "training_runs" / made["stages"]["checkpoint"]["counts"]["run"]).step


def test_materialize_all_builds_and_promotes_a_recipe_like_the_demo(dagster: DagsterServer, tmp_path: Path) -> None:
    recipe = tmp_path / "small-demo.yaml"
    changes = {
        "sources": [{"name": "synthetic", "kind": "synthetic", "documents": 3_000, "near_duplicates": False}],
        "model": {"layers": 2, "heads": 4, "width": 128, "context": 512},
        "training": {"tokens": 1_024 * 200},
    }
    recipe.write_text(json.dumps({"extends": "demo", "name": "small-demo", **changes}), encoding="utf-8")
    home = dagster.home
    assert parakeet(home, "use", str(recipe)).returncode == 0
    dagster.start()
    run = dagster.launch_all()
    assert dagster.ended(run) == "SUCCESS"
    made = {name for name, newest in dagster.assets().items() if newest and newest[0]["runId"] == run}
    assert made == {*STAGES, "promotion"}
    (decision,) = decisions(home)[0]
    assert (decision.action, decision.release) == ("promoted", latest(home))
    assert steps_trained(home, decision.release) == 200
    assert parakeet(home, "chat", "-m", "Who are you?").returncode == 0


def test_a_model_of_twenty_steps_replaces_nothing_by_any_path_and_a_rollback_lasts(
    dagster: DagsterServer, released: Path, twice_promoted: tuple[Path, Path]
) -> None:
    home, promoted = released, latest(released)
    better = twice_promoted[1]
    first, second = (decision.release for decision in decisions(home)[0])
    assert promoted == second != first

    def assert_refused(number: int) -> None:
        refused = decisions(home)[0][2:]
        assert {decision.action for decision in refused} == {"refused"}
        assert all(decision.reasons for decision in refused)
        models = list(dict.fromkeys(decision.release for decision in refused))
        assert len(models) == number
        assert [steps_trained(home, release) for release in models] == [20] * number
        assert latest(home) == promoted
        assert parakeet(home, "chat", "-m", "hi").returncode == 0

    # By the shell.
    built = parakeet(home, "build", "--recipe", str(judged_recipe(better.parent, 20)))
    assert built.returncode == 1
    assert b"Traceback" not in built.stderr
    assert_refused(1)

    # By the pages: everything in one run, then the release and its promotion in runs of their own.
    assert parakeet(home, "use", str(judged_recipe(better.parent, 20, seed=2))).returncode == 0
    dagster.start()
    assert dagster.ended(dagster.launch_all()) == "FAILURE"
    assert_refused(2)
    dagster.ended(dagster.launch("release"))  # so short a training may already fail its checks: it may write nothing
    for asset in ("comparison", "promotion"):
        assert dagster.ended(dagster.launch(asset)) == "FAILURE"
    assert_refused(2)

    # By the schedule, as soon as its text has grown.
    story = better.with_name("story.txt")
    text = story.read_text(encoding="utf-8")
    try:
        story.write_text(f"{text}\n\n{text[::-1]}", encoding="utf-8")
        sunday = datetime(2026, 11, 29, 3, tzinfo=ZoneInfo(local_time_zone())).timestamp()
        assert dagster.ended(dagster.launch_tick("weekly_retraining", "retrain", sunday)) == "FAILURE"
        assert_refused(3)
    finally:
        story.write_text(text, encoding="utf-8")

    # Back to the first; building the second again, by shell and page, does not undo it.
    assert parakeet(home, "release", "rollback", "--reason", "a test").returncode == 0
    assert latest(home) == first
    parakeet(home, "build", "--recipe", str(better))
    assert latest(home) == first
    assert parakeet(home, "use", str(better)).returncode == 0
    dagster.stop()
    dagster.start()
    assert dagster.ended(dagster.launch("release")) == "SUCCESS"
    dagster.ended(dagster.launch("promotion"))
    assert latest(home) == first


def test_the_automation_of_a_running_daemon_asks_for_nothing_past_a_failed_gate(
    dagster: DagsterServer, released: Path, twice_promoted: tuple[Path, Path]
) -> None:
    home, promoted, folder = released, latest(released), twice_promoted[1].parent
    assert parakeet(home, "use", str(judged_recipe(folder, 20))).returncode == 0
    dagster.start()
    dagster.start_sensor(SENSOR)
    dagster.wait(lambda: bool(dagster.ticks(SENSOR)))

    def asked_after(run: str, how: str, ticks: int) -> set[str]:
        """What the next ticks ask for after a run that ends so."""
        before = len(dagster.ticks(SENSOR))
        assert dagster.ended(run) == how
        ended = len(dagster.ticks(SENSOR))
        dagster.wait(lambda: len(dagster.ticks(SENSOR)) >= ended + ticks)
        asked = dagster.ticks(SENSOR)[before:]
        print(f"{how}: {len(asked)} ticks asked for {sorted(set().union(*asked))}")
        return set().union(*asked)

    # The automation works: a checkpoint that passes its checks is evaluated.
    assert asked_after(dagster.launch("checkpoint"), "SUCCESS", 2) == {"evaluation", "memorisation", "report"}
    dagster.wait(lambda: all(run["status"] in ENDED for run in dagster.runs()))
    assert asked_after(dagster.launch("release", "comparison"), "FAILURE", TICKS) == set()
    assert decisions(home)[0][-1].action == "refused"
    assert steps_trained(home, decisions(home)[0][-1].release) == 20
    # Nor past a check of a stage before.
    dagster.use(judged_recipe(folder, 20, learning_rate=DIVERGING))
    assert asked_after(dagster.launch("checkpoint"), "FAILURE", TICKS) == set()
    assert latest(home) == promoted
