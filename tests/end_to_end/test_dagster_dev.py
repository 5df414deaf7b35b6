"""`dagster dev` from the repository's root, as a process, through the GraphQL that its pages use."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import EVENTS_FILE, read_events

from .conftest import STAGES, write_recipe
from .dagster_server import DagsterServer

pytestmark = pytest.mark.slow

STEPS = 120
"""About 3 s of training: long enough to be ended by hand in the middle."""


@pytest.fixture(scope="module")
def dagster(built: tuple[Path, Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterServer]:
    """A running `dagster dev` over a home of its own."""
    home = tmp_path_factory.mktemp("dagster") / "home"
    shutil.copytree(built[0], home, symlinks=True)
    settings = (home / ".dagster" / "dagster.yaml").read_text(encoding="utf-8").replace(str(built[0]), str(home))
    (home / ".dagster" / "dagster.yaml").write_text(settings, encoding="utf-8")
    server = DagsterServer(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def observed_steps(dagster: DagsterServer) -> list[int]:
    """Steps of the checkpoint's observations, oldest first."""
    query = """{
      assetNodes(assetKeys: [{path: ["checkpoint"]}]) {
        assetObservations(limit: 1000) { metadataEntries { label ... on IntMetadataEntry { intValue } } }
      }
    }"""
    found = dagster.ask(query)["assetNodes"][0]["assetObservations"]
    entries = [entry for observation in reversed(found) for entry in observation["metadataEntries"]]
    return [entry["intValue"] for entry in entries if entry["label"].startswith("step (")]


def training_pool(dagster: DagsterServer) -> dict[str, Any]:
    fields = "limit claimedSlots { runId } activeRunIds"
    pool: dict[str, Any] = dagster.ask(
        f'{{ instance {{ concurrencyLimit(concurrencyKey: "training") {{ {fields} }} }} }}'
    )
    return pool["instance"]["concurrencyLimit"]  # type: ignore[no-any-return]


def test_the_builds_of_the_shell_are_shown_and_the_release_can_be_materialised(
    dagster: DagsterServer,
) -> None:
    home = dagster.home
    shown = dagster.assets()
    assert set(shown) - {"source_files"} == {
        *STAGES,
        "promotion",
        "studies",
        "original_checkpoint",
        "original_model",
    }
    assert all(shown[name] for name in STAGES), "an asset that parakeet build made is not shown as materialised"
    shutil.rmtree(home / "releases")
    run_id = dagster.launch("release", "comparison", "promotion")
    assert dagster.ended(run_id) == "SUCCESS"
    assert dagster.assets()["release"][0]["runId"] == run_id
    assert (home / "releases" / "latest" / "model.safetensors").is_file()


def test_terminate_leaves_a_checkpoint_and_a_free_slot_and_the_next_run_resumes(
    dagster: DagsterServer, tmp_path: Path
) -> None:
    """The second run is queued behind the first, so that only a slot that was freed lets it begin."""
    home = dagster.home
    recipe = write_recipe(tmp_path, tokens=512 * STEPS, checkpoint_steps=20, learning_rate=1e-4)
    dagster.use(recipe)
    runs_before, observed_before = set((home / "training_runs").iterdir()), len(observed_steps(dagster))
    first = dagster.launch("checkpoint")
    dagster.wait(lambda: bool(set((home / "training_runs").iterdir()) - runs_before))
    (run,) = set((home / "training_runs").iterdir()) - runs_before
    # Live: the trainer's first figures are in the page's plots before it has saved anything. It is held meanwhile,
    # however slow the pages are, and not before its second step: that is written after the first one was sent.
    metrics = run / METRICS_FILE
    dagster.wait(lambda: metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") > 1, pause=0.01)
    trainer = int((run / "run.holder").read_text(encoding="utf-8").split()[1])
    os.kill(trainer, signal.SIGSTOP)
    dagster.wait(lambda: len(observed_steps(dagster)) > observed_before)
    assert dagster.status(first) == "STARTED"
    second = dagster.launch("checkpoint")
    os.kill(trainer, signal.SIGCONT)
    dagster.wait(lambda: bool(list(run.glob("step-*"))), pause=0.01)
    os.kill(trainer, signal.SIGSTOP)
    assert dagster.status(second) == "QUEUED"

    dagster.terminate(first)
    os.kill(trainer, signal.SIGCONT)
    assert dagster.ended(first) == "CANCELED"
    stopped = [event for event in read_events(run / EVENTS_FILE) if event["kind"] == "stopped"]
    assert len(stopped) == 1
    assert max(run.glob("step-*")).name.startswith(f"step-{stopped[0]['step']:08d}")
    pool = training_pool(dagster)
    assert pool["limit"] == 1
    assert first not in {*pool["activeRunIds"], *(slot["runId"] for slot in pool["claimedSlots"])}

    assert dagster.ended(second) == "SUCCESS"
    resumed = [event["step"] for event in read_events(run / EVENTS_FILE) if event["kind"] == "resumed"]
    assert resumed == [stopped[0]["step"]]
    assert dagster.assets()["checkpoint"][0]["runId"] == second
    steps = observed_steps(dagster)[observed_before:]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (1, STEPS)
    assert training_pool(dagster)["activeRunIds"] == []


def test_a_run_keeps_its_recipe_through_a_switch_and_goes_on_after_kill_9_of_everything(
    dagster: DagsterServer, tmp_path: Path
) -> None:
    home = dagster.home
    dagster.use(write_recipe(tmp_path, tokens=512 * STEPS, checkpoint_steps=20, learning_rate=2e-4))
    before = set((home / "training_runs").iterdir())
    first = dagster.launch("checkpoint")
    dagster.wait(lambda: bool(set((home / "training_runs").iterdir()) - before))
    (run,) = set((home / "training_runs").iterdir()) - before
    dagster.wait(lambda: bool(list(run.glob("step-*"))), pause=0.01)
    trainer = int((run / "run.holder").read_text(encoding="utf-8").split()[1])
    os.kill(trainer, signal.SIGSTOP)
    dagster.use(write_recipe(tmp_path, tokens=512 * STEPS, learning_rate=3e-4))
    assert dagster.status(first) == "STARTED"

    refused = dagster.start_another()
    assert refused.returncode == 1
    assert f"process {dagster.process_id} since" in refused.stderr

    dagster.kill()
    dagster.start()

    def following(run_id: str) -> list[str]:
        return [one["runId"] for one in dagster.runs() if one["tags"].get("dagster/parent_run_id") == run_id]

    dagster.wait(lambda: bool(following(first)))
    (second,) = following(first)
    assert dagster.ended(second) == "SUCCESS"
    assert dagster.status(first) == "FAILURE"
    assert [event["kind"] for event in read_events(run / EVENTS_FILE)].count("resumed") == 1
    assert set((home / "training_runs").iterdir()) == {*before, run}, "another recipe was trained"
    assert following(second) == []
