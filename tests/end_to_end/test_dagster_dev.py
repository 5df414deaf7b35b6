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

from .conftest import STAGES, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Query = Callable[..., Any]

SELECTOR = {
    "repositoryLocationName": "parakeet",
    "repositoryName": "__repository__",
    "pipelineName": "__ASSET_JOB",
    "assetSelection": [{"path": ["release"]}],
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


@pytest.fixture
def dagster(built: tuple[Path, Path, bytes], tmp_path: Path) -> Iterator[tuple[Path, Query]]:
    """A running `dagster dev` over a home of its own, and a function that asks it."""
    home = tmp_path / "home"
    shutil.copytree(built[0], home, symlinks=True)
    settings = (home / ".dagster" / "dagster.yaml").read_text(encoding="utf-8").replace(str(built[0]), str(home))
    (home / ".dagster" / "dagster.yaml").write_text(settings, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)]
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(home) | {"DAGSTER_HOME": str(home / ".dagster")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def ask(query: str, **variables: Any) -> Any:
            body = json.dumps({"query": query, "variables": variables}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.loads(reply.read())["data"]

        try:
            wait_until(lambda: bool(assets(ask)), 120, (tmp_path / "log.txt"))
            yield home, ask
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TypeError, KeyError):
            if condition():
                return
        time.sleep(0.5)
    pytest.fail(f"not within {seconds} s; dagster dev said:\n{log.read_text(errors='replace')[-3000:]}")


def assets(ask: Query) -> dict[str, Any]:
    nodes = ask("{ assetNodes { assetKey { path } groupName assetMaterializations(limit: 1) { runId } } }")[
        "assetNodes"
    ]
    return {node["assetKey"]["path"][0]: node["assetMaterializations"] for node in nodes}


def test_the_builds_of_the_shell_are_shown_and_the_release_can_be_materialised(
    dagster: tuple[Path, Query],
) -> None:
    home, ask = dagster
    shown = assets(ask)
    assert set(shown) == {*STAGES, "original_checkpoint", "original_model"}
    assert all(shown[name] for name in STAGES), "an asset that parakeet build made is not shown as materialised"
    shutil.rmtree(home / "releases")
    launched = ask(LAUNCH, params={"selector": SELECTOR, "runConfigData": {}, "mode": "default"})
    launched = launched["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    done = ("SUCCESS", "FAILURE", "CANCELED")
    wait_until(lambda: ask(query, id=run_id)["runOrError"]["status"] in done, 120, home.parent / "log.txt")
    assert ask(query, id=run_id)["runOrError"]["status"] == "SUCCESS"
    assert assets(ask)["release"][0]["runId"] == run_id
    assert (home / "releases" / "latest" / "model.safetensors").is_file()
