"""What an earlier artefact of a source holds is not fetched again; neither is what only more is expected of."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import DownloadSource, HubSource, Source
from parakeet.stages import Build

from ..fake_hub import FakeHub
from ..fault_server import FaultServer

FILES = {f"{name}.jsonl": f'{{"text": "{name}"}}\n'.encode() * 20_000 for name in "abc"}
NAME = "source_files/x"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        running.commit("me/set", "main", FILES)
        yield running


def recipe_of(source: Source, limit: float = 1.0) -> Recipe:
    return Recipe.model_validate({**dict(load_recipe("demo")), "sources": [source], "limit": limit})


def made(home: Path, globs: list[str], limit: float = 1.0, force: bool = False) -> Artifact:
    source = HubSource(kind="hub", name="x", dataset="me/set", files=globs)
    return Build(home, recipe_of(source, limit)).ensure(NAME, Progress(), lambda command: None, force)[0]


def fetched(hub: FakeHub) -> int:
    """How many files were asked for since the last time."""
    asked = len(hub.fetched("/cdn/"))
    hub.requests.clear()
    return asked


def test_an_edited_glob_fetches_what_is_new(hub: FakeHub, tmp_path: Path) -> None:
    first = made(tmp_path, ["[ab].jsonl"])
    assert fetched(hub) == 2
    second = made(tmp_path, ["[abc].jsonl"])
    assert fetched(hub) == 1
    assert {name: (second.path / name).read_bytes() for name in FILES} == FILES
    assert os.path.samefile(first.path / "a.jsonl", second.path / "a.jsonl")
    assert second.counts["entries"][:2] == first.counts["entries"]
    first.check(thorough=True)
    second.check(thorough=True)


def test_a_slice_takes_over_whole_files_but_is_never_taken_over_as_one(hub: FakeHub, tmp_path: Path) -> None:
    made(tmp_path, ["*"], limit=0.5)
    assert fetched(hub) == 2
    whole = made(tmp_path, ["*"])
    assert fetched(hub) == 2  # b.jsonl was cut
    assert {name: (whole.path / name).read_bytes() for name in FILES} == FILES
    made(tmp_path, ["*"], limit=0.45)
    assert fetched(hub) == 1


def test_what_was_damaged_or_replaced_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    first = made(tmp_path, ["[ab].jsonl"])
    (first.path / "a.jsonl").write_bytes(FILES["a.jsonl"][::-1])
    hub.commit("me/set", "main", {**FILES, "b.jsonl": FILES["b.jsonl"].upper()})
    fetched(hub)
    second = made(tmp_path, ["[abc].jsonl"])
    assert fetched(hub) == 3
    assert (second.path / "a.jsonl").read_bytes() == FILES["a.jsonl"]
    assert (second.path / "b.jsonl").read_bytes() == FILES["b.jsonl"].upper()
    assert (first.path / "a.jsonl").read_bytes() == FILES["a.jsonl"][::-1]


def test_a_download_is_taken_over_by_its_hash(tmp_path: Path) -> None:
    with FaultServer(FILES["a.jsonl"]) as server:
        file = {"url": server.address("whole", "a.jsonl"), "sha256": hashlib.sha256(FILES["a.jsonl"]).hexdigest()}
        for files in ([file], [file, {**file, "file_name": "b.jsonl"}]):
            source = DownloadSource.model_validate({"kind": "download", "name": "x", "files": files})
            asked = len(server.requests)
            Build(tmp_path, recipe_of(source)).ensure(NAME, Progress(), lambda command: None)
        assert len(server.requests) == asked  # the second has the same content


def test_what_is_expected_of_a_file_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(**file: Any) -> str:
        source = DownloadSource.model_validate({"kind": "download", "name": "x", "files": [file]})
        return Build(tmp_path, recipe_of(source)).work(NAME).fingerprint

    plain = fingerprint(url="http://x/a.txt")
    assert fingerprint(url="http://x/a.txt", sha256="0" * 64, n_bytes=7) == plain
    assert fingerprint(url="http://x/b.txt") != plain
    assert fingerprint(url="http://x/a.txt", file_name="c.txt") != plain
