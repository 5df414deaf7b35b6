"""Resumable stages continue what an interrupted try left, whenever it was killed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import SPARE_BYTES, Artifact, Store, Work
from parakeet.clean import leftovers
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, use_recipe

WORK = Work("letters", 1, {}, resumable=True)
PARTIAL = f"letters/.partial-{WORK.fingerprint}"


class Interrupted(BaseException):
    """In place of SIGKILL: nothing of ours catches it."""


def write_letters(output: Path, progress: Progress) -> dict[str, Any]:
    """One letter a try, interrupted before the third."""
    (output / "work").mkdir(exist_ok=True)
    for letter in "abc":
        if not (output / f"{letter}.txt").exists():
            (output / f"{letter}.txt").write_text(letter, encoding="utf-8")
            (output / "work" / f"{letter}.log").touch()
            if letter < "c":
                raise Interrupted
    return {"letters": 3}


def undisturbed(folder: Path) -> Artifact:
    store = Store(folder)
    for _ in range(2):
        with pytest.raises(Interrupted):
            store.ensure(WORK, write_letters, Progress())
    return store.ensure(WORK, write_letters, Progress())[0]


def test_it_continues_where_it_stopped_and_leaves_no_scratch(tmp_path: Path) -> None:
    artifact = undisturbed(tmp_path)
    assert sorted(artifact.manifest["files"]) == ["a.txt", "b.txt", "c.txt"]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["a.txt", "b.txt", "c.txt", "manifest.json"]
    assert not (tmp_path / PARTIAL).exists()


def test_with_force_it_starts_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(Interrupted):
        store.ensure(WORK, write_letters, Progress())
    first = (tmp_path / PARTIAL / "a.txt").stat().st_ino
    os.link(tmp_path / PARTIAL / "a.txt", tmp_path / "kept")  # so that no new file gets its number
    with pytest.raises(Interrupted):
        store.ensure(WORK, write_letters, Progress(), force=True)
    assert (tmp_path / PARTIAL / "a.txt").stat().st_ino != first
    assert not (tmp_path / PARTIAL / "b.txt").exists()


def test_killed_between_manifest_and_rename_only_the_rename_is_made(tmp_path: Path) -> None:
    artifact = undisturbed(tmp_path / "other")
    shutil.copytree(artifact.path, tmp_path / PARTIAL)
    (tmp_path / PARTIAL / "work").mkdir()

    def refuse(output: Path, progress: Progress) -> dict[str, Any]:
        raise AssertionError("made again")

    found, made = Store(tmp_path).ensure(WORK, refuse, Progress())
    assert made
    assert found.content == artifact.content
    assert not (found.path / "work").exists()


def test_what_was_half_written_when_it_was_killed_is_no_part_of_it(tmp_path: Path) -> None:
    """`replace_file` writes `.name.<process>` first."""
    expected = undisturbed(tmp_path / "other").content
    (tmp_path / PARTIAL).mkdir(parents=True)
    for name in (".manifest.json.4711", ".dropped.jsonl.4711"):
        (tmp_path / PARTIAL / name).write_text('{"half', encoding="utf-8")
    assert undisturbed(tmp_path).content == expected


def test_what_is_there_already_needs_no_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("letters", 1, {}, resumable=True, expected_bytes=3 * SPARE_BYTES)
    partial = Store(tmp_path).partial_of(work)
    partial.mkdir(parents=True)
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ParakeetError, match="Too little disk space for letters"):
        Store(tmp_path).ensure(work, write_letters, Progress())
    with (partial / "a.txt").open("wb") as file:
        file.truncate(2 * SPARE_BYTES)
    with pytest.raises(Interrupted):
        Store(tmp_path).ensure(work, write_letters, Progress())


def test_clean_leaves_the_active_recipes_unfinished_stages_alone(tmp_path: Path) -> None:
    recipe = load_recipe("demo")
    use_recipe(tmp_path, recipe)
    begun = Build(tmp_path, recipe).store.partial_of(Build(tmp_path, recipe).work("documents"))
    other = tmp_path / "documents" / ".partial-0123456789abcdef"
    for folder in (begun, other):
        folder.mkdir(parents=True)
    found = leftovers(tmp_path)
    assert (found.unreferenced, [entry.path for entry in found.unfinished]) == ([], [other])
