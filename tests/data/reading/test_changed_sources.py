"""A source that changes while it is read: it is noticed, and nothing is made of it."""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parakeet.data.documents import parts, read_documents
from parakeet.data.reading.pieces import divided
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.progress import Progress, Task
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build

OLD, NEW = (
    "".join(json.dumps({"text": f"{word} text of line {number:04d}"}) + "\n" for number in range(3000))
    for word in ("old", "new")
)


def rewrite(path: Path) -> None:
    """In place, of the same size, with the same time of change."""
    times = path.stat()
    with path.open("r+", encoding="utf-8") as file:
        file.seek(len(OLD) // 2)
        file.write(NEW[len(OLD) // 2 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    path.with_name("new").write_text(NEW, encoding="utf-8")
    path.with_name("new").replace(path)


def append(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(NEW)


CHANGES: dict[str, Callable[[Path], None]] = {
    "rewritten in place": rewrite,
    "replaced": replace,
    "longer": append,
    "shorter": lambda path: os.truncate(path, 1000),
    "gone": Path.unlink,
}


class Meddling(Progress):
    """Calls `change` when the task of this name begins or ends."""

    def __init__(self, name: str, when: str, change: Callable[[], object]) -> None:
        super().__init__(io.StringIO())
        self._moment = name, when
        self._change = change

    @contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        if self._moment == (name, "begins"):
            self._change()
        with super().task(name, total, unit) as task:
            yield task
        if self._moment == (name, "ends"):
            self._change()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.jsonl").write_text(OLD, encoding="utf-8")
    (tmp_path / "set.jsonl").write_text(OLD, encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"text": "something else, in thirteen words"}\n' * 10, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "extends: demo\nname: mine\nsources: [{name: mine, path: mine.jsonl}, {name: other, path: other.jsonl}]\n"
        "decontamination: {sets: [{name: set, path: set.jsonl}], words: 5}\nexecutor: {workers: 1}\n",
        encoding="utf-8",
    )
    return path


def make(home: Path, recipe: Path, stage: str, progress: Progress) -> list[str]:
    artifact, _ = Build(home, load_recipe(str(recipe))).ensure(stage, progress, lambda command: None)
    return [document.content for document in read_documents(parts(artifact.path))]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["begins", "ends"])
def test_a_change_is_noticed_and_nothing_is_made(tmp_path: Path, recipe: Path, change: str, when: str) -> None:
    home, source = tmp_path / "home", tmp_path / "mine.jsonl"
    with pytest.raises(ParakeetError, match=r"mine\.jsonl was changed while it was read"):
        make(home, recipe, "documents", Meddling("documents", when, lambda: CHANGES[change](source)))
    assert not [path for path in (home / "documents").glob("*") if not path.name.startswith(".")]
    # Put back, what was read of the other file is not taken for the old one.
    source.write_text(OLD, encoding="utf-8")
    texts = make(home, recipe, "documents", Progress(io.StringIO()))
    assert "".join(json.dumps({"text": text}) + "\n" for text in texts[:3000]) == OLD


@pytest.mark.parametrize("change", ["rewritten in place", "longer"])
def test_the_same_command_again_reads_the_new_file(tmp_path: Path, recipe: Path, change: str) -> None:
    source = tmp_path / "mine.jsonl"
    meddling = Meddling("documents", "begins", lambda: CHANGES[change](source))
    with pytest.raises(ParakeetError, match="run the same command again"):
        make(tmp_path / "home", recipe, "documents", meddling)
    texts = make(tmp_path / "home", recipe, "documents", Progress(io.StringIO()))
    assert texts[2999].startswith("new") or len(texts) > 3010


def test_a_file_that_is_added_to_a_folder(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl").write_text(OLD, encoding="utf-8")
    recipe.write_text("extends: demo\nname: mine\nsources: [{name: mine, path: folder}]\n", encoding="utf-8")
    meddling = Meddling("documents", "begins", lambda: (folder / "b.jsonl").write_text(NEW, encoding="utf-8"))
    with pytest.raises(ParakeetError, match=r"b\.jsonl was added while its folder was read.* run the same command"):
        make(tmp_path / "home", recipe, "documents", meddling)
    assert len(make(tmp_path / "home", recipe, "documents", Progress(io.StringIO()))) == 6000


def test_an_evaluation_set_that_changes(tmp_path: Path, recipe: Path) -> None:
    make(tmp_path / "home", recipe, "documents", Progress(io.StringIO()))
    meddling = Meddling("evaluation sets", "begins", lambda: rewrite(tmp_path / "set.jsonl"))
    with pytest.raises(ParakeetError, match=r"set\.jsonl was changed while it was read"):
        make(tmp_path / "home", recipe, "clean_documents", meddling)


def test_a_task_looks_before_and_after_its_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(OLD, encoding="utf-8")
    HashCache(tmp_path / "cache.json").sha256([path])  # waits until a later change has another time
    ((piece,),) = divided([path], tmp_path)
    records = piece.records(None)
    next(records)
    rewrite(path)
    with pytest.raises(ParakeetError, match=r"a\.jsonl was changed while it was read"):
        list(records)
    with pytest.raises(ParakeetError, match=r"a\.jsonl was changed while it was read"):
        next(piece.records(None))


def test_a_hash_is_not_remembered_for_a_file_that_was_rewritten_under_its_old_time(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache.json"
    path.write_text(OLD, encoding="utf-8")
    before = HashCache(cache).sha256([path])
    rewrite(path)
    assert HashCache(cache).sha256([path]) != before


def test_what_an_earlier_version_remembered_is_used(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache.json"
    path.write_text(OLD, encoding="utf-8")
    status = path.stat()
    cache.write_text(json.dumps({str(path): [status.st_size, status.st_mtime_ns, "remembered"]}), encoding="utf-8")
    assert HashCache(cache).sha256([path]) == {path: "remembered"}
