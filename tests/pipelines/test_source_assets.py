"""One asset for each remote source: in the graph, and built by real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact
from parakeet.clean import leftovers
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, active_recipe, use_recipe

from ..fake_hub import FakeHub
from ..fault_server import FaultServer, wait_until

LINES = b"".join(b'{"text": "This is line %06d of the text."}\n' % number for number in range(50_000))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with FaultServer(LINES) as running:
        yield running


def write_recipe(folder: Path, *sources: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"extends": "demo", "name": "remote", "sources": list(sources)}), encoding="utf-8")
    return path


def download(name: str, *addresses: str) -> dict[str, Any]:
    return {"kind": "download", "name": name, "licence": "MIT", "files": [{"url": address} for address in addresses]}


def hub(name: str) -> dict[str, Any]:
    return {"kind": "hub", "name": name, "dataset": "me/set", "files": ["**/*.jsonl"]}


def command(recipe: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "parakeet.cli", "build", "--recipe", str(recipe), *options]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PARAKEET_HOME": str(home), "OMP_NUM_THREADS": "1"}


def build(home: Path, recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        command(recipe, *options), env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in finished.stderr
    return finished


def fetched(home: Path, name: str) -> Artifact:
    return Artifact.open((home / "source_files" / name / "latest").resolve())


GRAPH = """
import json
import dagster as dg
from parakeet.home import home
from parakeet.stages import active_recipe
from pipelines.definitions import make_definitions

defs = make_definitions(active_recipe(home()))
repository = defs.get_repository_def()
graph = repository.asset_graph
told = {}
for key in graph.get_all_asset_keys():
    node = graph.get(key)
    told[key.to_user_string()] = {
        "group": node.group_name, "kinds": sorted(node.kinds), "owners": node.owners, "version": node.code_version,
        "description": node.description, "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
        "op": defs.get_assets_def(key).op.name if node.is_materializable else None,
    }
job = repository.get_job("prepare_data")
print(json.dumps([told, sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)]))
"""


def test_each_remote_source_is_an_asset_that_documents_are_made_from(tmp_path: Path) -> None:
    bucket = {"kind": "bucket", "name": "a-b", "path": "s3://bucket/*.jsonl"}
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    files = {"name": "local", "path": str(tmp_path / "a.txt")}
    recipe = write_recipe(tmp_path, download("a.b", "http://example.org/a.jsonl"), bucket, hub("a_b"), files)
    use_recipe(tmp_path / "home", load_recipe(str(recipe)))
    listing = subprocess.run(
        [sys.executable, "-c", GRAPH], env=environment(tmp_path / "home"), capture_output=True, text=True, check=True
    )
    graph, prepared = json.loads(listing.stdout)
    keys = ["source_files/a-b", "source_files/a.b", "source_files/a_b"]
    # Local ones are external assets, without an op.
    assert sorted(key for key, told in graph.items() if "/" in key and told["op"]) == keys
    assert graph["documents"]["parents"] == [*keys, "source_files/local"]
    assert set(keys) < set(prepared)
    assert [graph[key]["kinds"] for key in keys] == [["s3"], ["http"], ["huggingface"]]
    assert len({graph[key]["op"] for key in keys}) == 3
    for key in keys:
        assert graph[key]["group"] == "sources"
        assert graph[key]["owners"]
        assert graph[key]["version"]
        assert key.partition("/")[2] in graph[key]["description"]


def test_one_source_is_fetched_alone_and_again_and_another_ends_the_build(server: FaultServer, tmp_path: Path) -> None:
    gone = download("gone", server.address("status_404", "b.jsonl"))
    recipe = write_recipe(tmp_path, download("my.set-1", server.address("cut", "a.jsonl")), gone)
    name, home = "source_files/my.set-1", tmp_path / "home"
    first = build(home, recipe, "--select", name)
    assert first.returncode == 0, first.stderr
    assert re.search(rf"^{name} +made in .* 1 files, 2\.\d MiB$", first.stderr, re.MULTILINE)
    artifact = fetched(home, "my.set-1")
    assert artifact.stage == name
    assert [path.name for path in sorted(artifact.path.iterdir())] == ["a.jsonl", "manifest.json"]
    assert (artifact.path / "a.jsonl").read_bytes() == LINES
    refused = build(home, recipe, "--select", "documents", "--force", name)
    assert refused.returncode == 1
    again = fetched(home, "my.set-1")
    assert (again.path != artifact.path, again.content == artifact.content) == (True, True)
    (message,) = (line for line in refused.stderr.splitlines() if line.startswith("Error"))
    assert "Source gone: " in message
    assert "it has no such file (HTTP status 404 Not Found)" in message


def test_an_unknown_source_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, download("my.set-1", "http://example.org/a.jsonl"))
    refused = build(tmp_path / "home", recipe, "--force", "source_files/my.set")
    assert refused.returncode == 1
    assert "There is no asset 'source_files/my.set': did you mean source_files/my.set-1?" in refused.stderr


def test_kill_9_of_a_build_that_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    home, recipe = tmp_path / "home", write_recipe(tmp_path, hub("x"))
    with FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        running.commit("me/set", "main", {"a.jsonl": LINES, "b.jsonl": LINES[::-1]})
        running.held_bytes = 1_000_000
        process = subprocess.Popen(
            command(recipe, "--select", "source_files/x"), env=environment(home), stderr=subprocess.DEVNULL, text=True
        )
        parts = "source_files/x/.partial-*/work/parts/[!.]*[!n]"
        wait_until(lambda: any(path.stat().st_size for path in home.glob(parts)), process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
        running.released.set()
        running.requests.clear()
        finished = build(home, recipe, "--select", "source_files/x")
        assert finished.returncode == 0, finished.stderr
        assert [wanted.startswith("bytes=0-") for wanted in running.fetched("/cdn/")] == [False, True]
    artifact = fetched(home, "x")
    assert (artifact.path / "a.jsonl").read_bytes() == LINES
    assert (artifact.path / "b.jsonl").read_bytes() == LINES[::-1]
    assert not (artifact.path / "work").exists()


def test_clean_knows_the_sources(server: FaultServer, tmp_path: Path) -> None:
    home = tmp_path / "home"

    def make(recipe: Path, name: str) -> Artifact:
        use_recipe(home, load_recipe(str(recipe)))
        return Build(home, active_recipe(home)).ensure(f"source_files/{name}", Progress(), lambda command: None)[0]

    old = make(write_recipe(tmp_path, download("old", server.address("whole", "a.jsonl"))), "old")
    begun = download("begun", server.address("begins_then_refuses", "b.jsonl"))
    recipe = write_recipe(tmp_path, download("new", server.address("whole", "a.jsonl")), begun)
    make(recipe, "new")
    with pytest.raises(ParakeetError, match="too many people"):
        make(recipe, "begun")
    assert list(home.glob("source_files/begun/.partial-*/work/parts/[!.]*[!n]"))
    assert [entry.path for entry in leftovers(home).unreferenced] == [old.path]
