"""Months of operation in minutes: power cuts, gates and rollbacks under a real `dagster dev`. Run: make operations."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from parakeet.artifact import Artifact
from parakeet.release.history import decisions
from parakeet.training.logging import EVENTS_FILE, read_events

from .conftest import parakeet, write_recipe
from .dagster_server import DagsterServer

pytestmark = pytest.mark.operations

STEPS, KILLS = 1_500, 5


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

        dagster.wait(trained_on, 240, pause=0.05)
        (*_, last) = sorted(home.glob("training_runs/*/step-*"))
        done = int(last.name.split("-")[1])
        dagster.kill()
        dagster.start()
        print(f"kill {number + 1} after step {done}")
    dagster.wait(lambda: (home / "releases" / "latest").exists(), 600)
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


def test_a_model_of_twenty_steps_replaces_nothing_and_a_rollback_lasts(dagster: DagsterServer, tmp_path: Path) -> None:
    home = dagster.home
    good = write_recipe(tmp_path, tokens=512 * 400)
    better = write_recipe(tmp_path, tokens=512 * 800)
    bad = write_recipe(tmp_path, tokens=512 * 20, warmup_steps=1)
    for recipe in (good, better, bad):
        values = json.loads(recipe.read_text(encoding="utf-8"))
        del values["gates"]  # null: the other tests train for a moment only
        recipe.write_text(json.dumps(values), encoding="utf-8")
    for recipe in (good, better):
        built = parakeet(home, "build", "--recipe", str(recipe))
        assert built.returncode == 0, built.stderr.decode()
    promoted = latest(home)
    first, second = (decision.release for decision in decisions(home)[0])
    assert promoted == second != first

    # By the shell.
    built = parakeet(home, "build", "--recipe", str(bad))
    assert built.returncode == 1
    assert b"Traceback" not in built.stderr
    assert latest(home) == promoted
    refused = decisions(home)[0][-1]
    assert refused.action == "refused"
    assert refused.reasons

    # By the pages: everything in one run, then the release and its promotion in runs of their own.
    assert parakeet(home, "use", str(bad)).returncode == 0
    dagster.start()
    assert dagster.ended(dagster.launch(job="full_build")) == "FAILURE"
    assert latest(home) == promoted
    assert dagster.ended(dagster.launch("release")) == "SUCCESS"
    assert dagster.ended(dagster.launch("promotion")) == "FAILURE"
    assert latest(home) == promoted

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
