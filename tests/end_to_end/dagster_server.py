"""`dagster dev` from the repository's root, as a process, and the GraphQL that its pages use."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..program_server import PATIENCE
from .conftest import environment, parakeet

ROOT = Path(__file__).parents[2]
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
REPOSITORY = {"repositoryLocationName": "parakeet", "repositoryName": "__repository__"}
ASSET_JOB = "__ASSET_JOB"
CHECKS = """
{
  assetNodes {
    assetKey { path }
    isMaterializable
    assetChecksOrError { ... on AssetChecks { checks { name } } }
  }
}
"""
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
START_SENSOR = """
mutation($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
}
"""
TICKS = """
query($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    ... on Sensor { sensorState { ticks(limit: 100) { tickId status requestedAssetKeys { path } } } }
  }
}
"""
TRY_SCHEDULE = """
mutation($selector: ScheduleSelector!, $time: Float) {
  scheduleDryRun(selectorData: $selector, timestamp: $time) {
    ... on DryRunInstigationTick {
      evaluationResult {
        skipReason
        error { message }
        runRequests { runConfigYaml tags { key value } }
      }
    }
  }
}
"""


class DagsterServer:
    """`dagster dev` over the history beside a home; started, ended as by Ctrl-C, or killed with all that it began."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / "dagster.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until its pages show the assets."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(self.port),
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait(lambda: bool(self.assets()))

    def start_another(self) -> "subprocess.CompletedProcess[str]":
        """A second one on the same history, which is expected to end by itself."""
        return subprocess.run(
            self._command(0), cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=PATIENCE
        )

    @property
    def _environment(self) -> dict[str, str]:
        return environment(self.home) | {"DAGSTER_HOME": str(self.home / ".dagster")}

    @staticmethod
    def _command(port: int) -> list[str]:
        return [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)]

    def use(self, recipe: Path) -> None:
        """`parakeet use`, and wait until the pages show that recipe's assets."""
        before = self._versions()
        assert parakeet(self.home, "use", str(recipe)).returncode == 0
        self.wait(lambda: self._versions() != before)

    def _versions(self) -> list[Any]:
        return list(self.ask("{ assetNodes { assetKey { path } opVersion } }")["assetNodes"])

    def stop(self) -> None:
        """As Ctrl-C in its terminal does."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to it and to all processes of its session at once, trainers too: as a power cut."""
        assert self._process is not None
        members = _session(self._process.pid)
        for process in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        # Those that were begun meanwhile.
        for process in {*members, *_session(self._process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait(timeout=PATIENCE)
        self._process = None

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        address = f"http://127.0.0.1:{self.port}/graphql"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return json.loads(reply.read())["data"]

    def wait(self, condition: Callable[[], bool], pause: float = 0.5) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TypeError, KeyError):
                if condition():
                    return
            time.sleep(pause)
        said = self.log.read_text(errors="replace")[-3000:]
        pytest.fail(f"not within {PATIENCE} s; dagster dev said:\n{said}")

    def assets(self) -> dict[str, Any]:
        """The newest materialisation of each asset, by the first part of its key."""
        found = self.ask("{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }")
        return {node["assetKey"]["path"][0]: node["assetMaterializations"] for node in found["assetNodes"]}

    def launch(self, *assets: str, job: str = ASSET_JOB) -> str:
        """Materialise assets and run their checks, or run a job, as their pages do; the run's id."""
        nodes = [node for node in self.ask(CHECKS)["assetNodes"] if "/".join(node["assetKey"]["path"]) in assets]
        checks = [
            {"assetKey": node["assetKey"], "name": check["name"]}
            for node in nodes
            for check in node["assetChecksOrError"]["checks"]
        ]
        selection = {"assetSelection": [node["assetKey"] for node in nodes]} if assets else {}
        return self._launch({"pipelineName": job, **selection, "assetCheckSelection": checks})

    def launch_all(self) -> str:
        """*Materialize all* of the asset graph; the run's id."""
        nodes = self.ask(CHECKS)["assetNodes"]
        return self.launch(*("/".join(node["assetKey"]["path"]) for node in nodes if node["isMaterializable"]))

    def launch_tick(self, schedule: str, job: str, moment: float) -> str:
        """*Test schedule* and *Launch run*: what a tick of the schedule at this Unix time asks for; the run's id."""
        found = self.ask(TRY_SCHEDULE, selector=REPOSITORY | {"scheduleName": schedule}, time=moment)
        result = found["scheduleDryRun"]["evaluationResult"]
        assert result["runRequests"], result
        (request,) = result["runRequests"]
        return self._launch({"pipelineName": job}, request["runConfigYaml"], request["tags"])

    def _launch(self, selection: dict[str, Any], config: str = "{}", tags: Sequence[dict[str, str]] = ()) -> str:
        parameters = {"selector": REPOSITORY | selection, "runConfigData": config, "mode": "default"}
        launched = self.ask(LAUNCH, params=parameters | {"executionMetadata": {"tags": list(tags)}})
        launched = launched["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def start_sensor(self, name: str) -> None:
        started = self.ask(START_SENSOR, selector=REPOSITORY | {"sensorName": name})["startSensor"]
        assert started["__typename"] == "Sensor", started

    def ticks(self, sensor: str) -> list[set[str]]:
        """The assets that each finished tick of a sensor asked for, the first tick first."""
        found = self.ask(TICKS, selector=REPOSITORY | {"sensorName": sensor})["sensorOrError"]["sensorState"]["ticks"]
        ended = [tick for tick in reversed(found) if tick["status"] != "STARTED"]
        assert all(tick["status"] in ("SUCCESS", "SKIPPED") for tick in ended), ended
        return [{"/".join(key["path"]) for key in tick["requestedAssetKeys"]} for tick in ended]

    def terminate(self, run_id: str) -> None:
        answer = self.ask(TERMINATE, id=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run_id: str) -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.ask(query, id=run_id)["runOrError"]["status"])

    def ended(self, run_id: str) -> str:
        """How a run ended."""
        self.wait(lambda: self.status(run_id) in ENDED)
        return self.status(run_id)

    def runs(self) -> list[dict[str, Any]]:
        """{"runId", "status", "tags"} of the newest hundred runs, the newest first."""
        query = "{ runsOrError(limit: 100) { ... on Runs { results { runId status tags { key value } } } } }"
        found = self.ask(query)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name) state parent group session: the name may hold spaces.
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    found.append(int(folder.name))
    return found
