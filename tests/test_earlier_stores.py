"""A store that the version before this one made: found, continued and read, and nothing of it is built again.

stores/store_0_1.tar.xz was made by Parakeet 0.1 at commit 1eac929 with the two recipes that it holds: `small.yaml` was
built to its release; of `longer.yaml`, training was interrupted after step 119.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from parakeet.clean import leftovers
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, active_recipe, stages_of

ARCHIVE = Path(__file__).parent / "stores" / "store_0_1.tar.xz"
STEPS_BEFORE = 119


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "home", filter="data")
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path / "home"


def parakeet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parakeet.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_every_artefact_is_found(store: Path) -> None:
    build = Build(store, load_recipe(str(store / "small.yaml")))
    made = {name: build.find(name) for name in build.stages if name != "original_model"}
    assert [name for name, artifact in made.items() if artifact is None] == []


@pytest.mark.slow
def test_a_build_makes_nothing_and_chat_answers(store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*-0") if path.is_dir()}
    finished = parakeet("build", "--recipe", str(store / "small.yaml"))
    assert finished.returncode == 0, finished.stderr
    names = [stage.name for stage in stages_of(load_recipe("demo")) if stage.group != "original"]
    assert re.findall(r"^(\w+) +up to date", finished.stderr, re.MULTILINE) == names
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*-0") if path.is_dir()} == before
    assert parakeet("verify", str(store / "releases" / "latest")).returncode == 0
    replied = parakeet("chat", "-m", "Hello!", "--temperature", "0", "--max-tokens", "5")
    assert (replied.returncode, replied.stderr) == (0, "")


@pytest.mark.slow
def test_an_interrupted_training_run_is_continued(store: Path) -> None:
    """With fewer tokens than it was begun for, which is a change that a run may see."""
    recipe = store / "longer.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("tokens: 2560000", "tokens: 32000"), encoding="utf-8")
    runs = sorted((store / "training_runs").iterdir())
    finished = parakeet("build", "--recipe", str(recipe))
    assert finished.returncode == 0, finished.stderr
    assert sorted((store / "training_runs").iterdir()) == runs
    (run,) = (folder for folder in runs if json.loads((folder / "job.json").read_text())["training"]["seed"] == 2)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # Every step once: none was trained again.
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert steps[-1] == 125
    events = (run / "events.jsonl").read_text(encoding="utf-8")
    assert f"step {STEPS_BEFORE}" in events
    assert re.findall(r"^(\w+) +made in", finished.stderr, re.MULTILINE) == [
        *("checkpoint", "evaluation", "release"),
    ]


def test_clean_offers_neither_models_nor_unfinished_runs(store: Path) -> None:
    """The active recipe is `longer`; `small` was built before it, and its release is the latest."""
    assert active_recipe(store).name == "longer"
    found = leftovers(store)
    offered = {(entry.path.parent.name, entry.path.name.startswith(".partial-")) for entry in found.unreferenced}
    # The checkpoint's directory is empty until training has ended: all that was trained is in the run's folder.
    assert offered == {("checkpoint", True), ("data_card", False)}
    assert found.unfinished == []


def test_an_unfinished_run_of_another_recipe_stays_unless_it_is_asked_for(store: Path) -> None:
    assert parakeet("use", str(store / "small.yaml")).returncode == 0
    (run,) = (entry.path for entry in leftovers(store).unfinished)
    listed = parakeet("clean", "--yes")
    assert listed.returncode == 0, listed.stderr
    assert "Unfinished work, which stays unless you add --unfinished:" in listed.stdout
    assert str(run) in listed.stdout
    assert run.is_dir()
    removed = parakeet("clean", "--unfinished", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not run.exists()
    assert Build(store, load_recipe(str(store / "small.yaml"))).find("release") is not None
