"""`dagster dev` from the repository's root, as a process, through the GraphQL that its pages use."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import EVENTS_FILE, read_events

from .conftest import STAGES, environment, parakeet, write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Query = Callable[..., Any]

SELECTOR = {
    "repositoryLocationName": "parakeet",
    "repositoryName": "__repository__",
    "pipelineName": "__ASSET_JOB",
    "assetCheckSelection": [],
}
LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""

TERMINATE = """
mutation($id: String!) {
  terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message }
  }
}
"""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
STEPS = 300
"""About 8 s of training: long enough to be ended by hand in the middle."""


class Server:
    """A `dagster dev` over a home of its own, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "home", folder / "log.txt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        command = [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(self.home) | {"DAGSTER_HOME": str(self.home / ".dagster")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: bool(assets(self.ask)), 120, self.log)
        return self.process

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())["data"]

    def use(self, recipe: Path) -> None:
        """`parakeet use`, and wait until the page shows that recipe's assets."""
        before = versions(self.ask)
        assert parakeet(self.home, "use", str(recipe)).returncode == 0
        wait_until(lambda: versions(self.ask) != before, 120, self.log)


@pytest.fixture(scope="module")
def server(built: tuple[Path, Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("dagster")
    home = folder / "home"
    shutil.copytree(built[0], home, symlinks=True)
    settings = (home / ".dagster" / "dagster.yaml").read_text(encoding="utf-8").replace(str(built[0]), str(home))
    (home / ".dagster" / "dagster.yaml").write_text(settings, encoding="utf-8")
    server = Server(folder)
    yield server
    os.killpg(server.process.pid, signal.SIGINT)
    try:
        server.process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)


@pytest.fixture
def dagster(server: Server) -> tuple[Path, Query]:
    """The home of the running `dagster dev`, and a function that asks it."""
    return server.home, server.ask


def wait_until(condition: Callable[[], bool], seconds: float, log: Path, pause: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TypeError, KeyError):
            if condition():
                return
        time.sleep(pause)
    pytest.fail(f"not within {seconds} s; dagster dev said:\n{log.read_text(errors='replace')[-3000:]}")


def assets(ask: Query) -> dict[str, Any]:
    nodes = ask("{ assetNodes { assetKey { path } groupName assetMaterializations(limit: 1) { runId } } }")[
        "assetNodes"
    ]
    return {node["assetKey"]["path"][0]: node["assetMaterializations"] for node in nodes}


def versions(ask: Query) -> dict[str, str]:
    nodes = ask("{ assetNodes { assetKey { path } opVersion } }")["assetNodes"]
    return {node["assetKey"]["path"][0]: node["opVersion"] for node in nodes}


def launch(ask: Query, *names: str) -> str:
    """Materialise assets, as the page does; the run's id."""
    selector = SELECTOR | {"assetSelection": [{"path": [name]} for name in names]}
    launched = ask(LAUNCH, params={"selector": selector, "runConfigData": {}, "mode": "default"})
    launched = launched["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def status(ask: Query, run_id: str) -> str:
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    return str(ask(query, id=run_id)["runOrError"]["status"])


def observed_steps(ask: Query) -> list[int]:
    """Steps of the checkpoint's observations, oldest first."""
    query = """{
      assetNodes(assetKeys: [{path: ["checkpoint"]}]) {
        assetObservations(limit: 1000) { metadataEntries { label ... on IntMetadataEntry { intValue } } }
      }
    }"""
    found = ask(query)["assetNodes"][0]["assetObservations"]
    entries = [entry for observation in reversed(found) for entry in observation["metadataEntries"]]
    return [entry["intValue"] for entry in entries if entry["label"] == "step"]


def training_pool(ask: Query) -> dict[str, Any]:
    fields = "limit claimedSlots { runId } activeRunIds"
    pool: dict[str, Any] = ask(f'{{ instance {{ concurrencyLimit(concurrencyKey: "training") {{ {fields} }} }} }}')
    return pool["instance"]["concurrencyLimit"]  # type: ignore[no-any-return]


def test_the_builds_of_the_shell_are_shown_and_the_release_can_be_materialised(
    dagster: tuple[Path, Query],
) -> None:
    home, ask = dagster
    shown = assets(ask)
    assert set(shown) == {*STAGES, "promotion", "original_checkpoint", "original_model"}
    assert all(shown[name] for name in STAGES), "an asset that parakeet build made is not shown as materialised"
    shutil.rmtree(home / "releases")
    run_id = launch(ask, "release", "comparison", "promotion")
    wait_until(lambda: status(ask, run_id) in ENDED, 120, home.parent / "log.txt")
    assert status(ask, run_id) == "SUCCESS"
    assert assets(ask)["release"][0]["runId"] == run_id
    assert (home / "releases" / "latest" / "model.safetensors").is_file()


def test_terminate_leaves_a_checkpoint_and_a_free_slot_and_the_next_run_resumes(
    dagster: tuple[Path, Query], server: Server, tmp_path: Path
) -> None:
    """The second run is queued behind the first, so that only a slot that was freed lets it begin."""
    home, ask = dagster
    log = home.parent / "log.txt"
    recipe = write_recipe(tmp_path, tokens=512 * STEPS, checkpoint_steps=50, learning_rate=1e-4)
    server.use(recipe)
    runs_before, observed_before = set((home / "training_runs").iterdir()), len(observed_steps(ask))
    first = launch(ask, "checkpoint")
    wait_until(lambda: bool(set((home / "training_runs").iterdir()) - runs_before), 120, log)
    (run,) = set((home / "training_runs").iterdir()) - runs_before
    # Live: the trainer's first figures are in the page's plots before it has saved anything. It is held meanwhile,
    # however slow the pages are.
    wait_until(lambda: (run / METRICS_FILE).exists(), 120, log, pause=0.01)
    trainer = int((run / "run.holder").read_text(encoding="utf-8").split()[1])
    os.kill(trainer, signal.SIGSTOP)
    wait_until(lambda: len(observed_steps(ask)) > observed_before, 120, log)
    assert status(ask, first) == "STARTED"
    second = launch(ask, "checkpoint")
    os.kill(trainer, signal.SIGCONT)
    wait_until(lambda: bool(list(run.glob("step-*"))), 120, log, pause=0.01)
    os.kill(trainer, signal.SIGSTOP)
    assert status(ask, second) == "QUEUED"

    terminated = ask(TERMINATE, id=first)["terminateRun"]
    os.kill(trainer, signal.SIGCONT)
    assert terminated["__typename"] == "TerminateRunSuccess", terminated
    wait_until(lambda: status(ask, first) in ENDED, 120, log)
    assert status(ask, first) == "CANCELED"
    stopped = [event for event in read_events(run / EVENTS_FILE) if event["kind"] == "stopped"]
    assert len(stopped) == 1
    assert max(run.glob("step-*")).name.startswith(f"step-{stopped[0]['step']:08d}")
    pool = training_pool(ask)
    assert pool["limit"] == 1
    assert first not in {*pool["activeRunIds"], *(slot["runId"] for slot in pool["claimedSlots"])}

    wait_until(lambda: status(ask, second) in ENDED, 300, log)
    assert status(ask, second) == "SUCCESS"
    resumed = [event["step"] for event in read_events(run / EVENTS_FILE) if event["kind"] == "resumed"]
    assert resumed == [stopped[0]["step"]]
    assert assets(ask)["checkpoint"][0]["runId"] == second
    steps = observed_steps(ask)[observed_before:]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (1, STEPS)
    assert training_pool(ask)["activeRunIds"] == []


def test_a_run_keeps_its_recipe_through_a_switch_and_goes_on_after_kill_9_of_everything(
    server: Server, tmp_path: Path
) -> None:
    ask, home = server.ask, server.home
    server.use(write_recipe(tmp_path, tokens=512 * STEPS, checkpoint_steps=20, learning_rate=2e-4))
    before = set((home / "training_runs").iterdir())
    first = launch(ask, "checkpoint")
    wait_until(lambda: bool(set((home / "training_runs").iterdir()) - before), 120, server.log)
    (run,) = set((home / "training_runs").iterdir()) - before
    wait_until(lambda: bool(list(run.glob("step-*"))), 120, server.log, pause=0.01)
    trainer = int((run / "run.holder").read_text(encoding="utf-8").split()[1])
    os.kill(trainer, signal.SIGSTOP)
    server.use(write_recipe(tmp_path, tokens=512 * STEPS, learning_rate=3e-4))
    assert status(ask, first) == "STARTED"

    refused = subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), "dev", "-p", "0"],
        cwd=ROOT,
        env=environment(home) | {"DAGSTER_HOME": str(home / ".dagster")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 1
    assert f"process {server.process.pid} since" in refused.stderr

    os.kill(trainer, signal.SIGKILL)
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server.start()
    children = 'query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/parent_run_id", value: $id}]}) '
    children += "{ ... on Runs { results { runId } } } }"

    def following(run_id: str) -> list[str]:
        return [found["runId"] for found in ask(children, id=run_id)["runsOrError"]["results"]]

    wait_until(lambda: bool(following(first)), 120, server.log)
    (second,) = following(first)
    wait_until(lambda: status(ask, second) in ENDED, 200, server.log)
    assert (status(ask, first), status(ask, second)) == ("FAILURE", "SUCCESS")
    assert [event["kind"] for event in read_events(run / EVENTS_FILE)].count("resumed") == 1
    assert set((home / "training_runs").iterdir()) == {*before, run}, "another recipe was trained"
    assert following(second) == []
