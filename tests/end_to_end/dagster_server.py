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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import environment, parakeet

ROOT = Path(__file__).parents[2]
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
SELECTOR = {
    "repositoryLocationName": "parakeet",
    "repositoryName": "__repository__",
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
        self.wait(lambda: bool(self.assets()), 120)

    def start_another(self) -> "subprocess.CompletedProcess[str]":
        """A second one on the same history, which is expected to end by itself."""
        return subprocess.run(
            self._command(0), cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120
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
        self.wait(lambda: self._versions() != before, 120)

    def _versions(self) -> list[Any]:
        return list(self.ask("{ assetNodes { assetKey { path } opVersion } }")["assetNodes"])

    def stop(self) -> None:
        """As Ctrl-C in its terminal does."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(timeout=30)
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
        self._process.wait(timeout=30)
        self._process = None

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        address = f"http://127.0.0.1:{self.port}/graphql"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())["data"]

    def wait(self, condition: Callable[[], bool], seconds: float, pause: float = 0.5) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TypeError, KeyError):
                if condition():
                    return
            time.sleep(pause)
        said = self.log.read_text(errors="replace")[-3000:]
        pytest.fail(f"not within {seconds} s; dagster dev said:\n{said}")

    def assets(self) -> dict[str, Any]:
        """The newest materialisation of each asset, by the first part of its key."""
        found = self.ask("{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }")
        return {node["assetKey"]["path"][0]: node["assetMaterializations"] for node in found["assetNodes"]}

    def launch(self, *assets: str, job: str = "__ASSET_JOB") -> str:
        """Materialise assets, as their pages do; the run's id."""
        selection = {"assetSelection": [{"path": name.split("/")} for name in assets]} if assets else {}
        selector = SELECTOR | {"pipelineName": job} | selection
        launched = self.ask(LAUNCH, params={"selector": selector, "runConfigData": {}, "mode": "default"})
        launched = launched["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        answer = self.ask(TERMINATE, id=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run_id: str) -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.ask(query, id=run_id)["runOrError"]["status"])

    def ended(self, run_id: str, seconds: float = 300) -> str:
        """How a run ended."""
        self.wait(lambda: self.status(run_id) in ENDED, seconds)
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
