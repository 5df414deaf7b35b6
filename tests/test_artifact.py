"""Artefacts against interruption, damage and full disks: with real processes, real signals and real files."""

import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact, Store, Work
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.locking import is_held
from parakeet.progress import Progress

from .conftest import without_root_rights


def work(version: int = 1, **settings: Any) -> Work:
    return Work("letters", version, settings)


def write_letters(output: Path, progress: Progress) -> dict[str, Any]:
    (output / "part").mkdir()
    (output / "part" / "a.txt").write_text("aaa", encoding="utf-8")
    (output / "b.txt").write_text("bbb", encoding="utf-8")
    return {"letters": 6}


def test_made_once_then_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, made = store.ensure(work(), write_letters, Progress())
    again, remade = store.ensure(work(), write_letters, Progress())
    assert (made, remade) == (True, False)
    assert again.path == artifact.path
    assert artifact.counts == {"letters": 6}
    assert sorted(artifact.manifest["files"]) == ["b.txt", "part/a.txt"]
    assert (tmp_path / "letters" / "latest").resolve() == artifact.path


def test_a_build_that_waited_for_a_study_finds_what_that_made(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()
    printed = io.StringIO()

    def slowly(output: Path, progress: Progress) -> dict[str, Any]:
        begun.set()
        assert may_end.wait(60)
        return write_letters(output, progress)

    with ThreadPoolExecutor() as pool:
        study = pool.submit(Store(tmp_path, side_by_side=True).ensure, work(), slowly, Progress())
        assert begun.wait(60)
        build = pool.submit(Store(tmp_path).ensure, work(), write_letters, Progress(printed))
        while "Waiting: letters is being made" not in printed.getvalue() and not build.done():
            time.sleep(0.01)
        may_end.set()
        assert (study.result()[1], build.result()[1]) == (True, False)
    assert len(Store(tmp_path).directories("letters")) == 1


def test_another_setting_version_or_input_is_another_artefact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, _ = store.ensure(work(), write_letters, Progress())
    others = [
        work(2),
        work(size=1),
        Work("letters", 1, {}, inputs={"x": first}),
        Work("letters", 1, {}, files={"f": "0"}),
    ]
    fingerprints = {w.fingerprint for w in [work(), *others]}
    assert len(fingerprints) == 5


def test_force_makes_a_new_one_with_the_same_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, _ = store.ensure(work(), write_letters, Progress())
    second, made = store.ensure(work(), write_letters, Progress(), force=True)
    assert made
    assert second.path != first.path
    assert second.content == first.content
    assert store.find(work()).path == second.path  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("since", "found"),
    [
        ([], True),
        ([Work("letters", 4, {"size": 1, "metrics": 1}, files={"f": "0"})], False),
        ([Work("letters", 5, {"size": 1}, files={"f": "0"})], False),
        ([Work("letters", 3, {"size": 1, "metrics": 1}, files={"f": "0"})], False),
        ([Work("letters", 2, {"size": 1, "metrics": 1}, files={"f": "0"})], True),
        ([Work("letters", 4, {"size": 2, "metrics": 1}, files={"f": "0"})], True),
        ([Work("letters", 4, {"size": 1, "metrics": 1}, files={"f": "1"})], True),
    ],
    ids=[
        "nothing",
        "forced",
        "of a later Parakeet",
        "same version",
        "of an older Parakeet",
        "other recipe",
        "other text",
    ],
)
def test_an_artefact_of_an_earlier_version_counts_until_a_newer_one_is_made_of_the_same(
    tmp_path: Path, since: list[Work], found: bool
) -> None:
    store = Store(tmp_path)
    before = Work("letters", 3, {"size": 1}, files={"f": "0"})
    wanted = Work(
        "letters",
        4,
        {"size": 1, "metrics": 2},
        files={"f": "0"},
        earlier=((before.fingerprint, 3),),
        new_settings=frozenset({"metrics"}),
    )
    for earlier in (Work("letters", 4, {"size": 1, "metrics": 3}, files={"f": "0"}), before, *since):
        store.ensure(earlier, write_letters, Progress())
    assert (store.find(wanted) is not None) == found


def test_records_of_the_making_are_no_part_of_the_content(tmp_path: Path) -> None:
    def timed(text: str) -> Any:
        def make(output: Path, progress: Progress) -> dict[str, Any]:
            (output / "speed.txt").write_text(text, encoding="utf-8")
            return write_letters(output, progress)

        return make

    described = Work("letters", 1, {}, records=("speed.txt",))
    store = Store(tmp_path)
    first, _ = store.ensure(described, timed("1"), Progress())
    second, _ = store.ensure(described, timed("2"), Progress(), force=True)
    assert first.content == second.content


def test_a_stage_inside_a_folder_of_stages(tmp_path: Path) -> None:
    store = Store(tmp_path)
    nested, _ = store.ensure(Work("source_files/my.set-1", 1, {}), write_letters, Progress())
    assert nested.path.parent == tmp_path / "source_files" / "my.set-1"
    assert store.directories("source_files/my.set-1") == [nested.path]
    assert (tmp_path / ".locks" / "source_files" / "my.set-1.lock").exists()
    made, _ = store.ensure(Work("letters", 1, {}, inputs={"x": nested}), write_letters, Progress())
    assert (tmp_path / made.manifest["inputs"]["x"]["path"]).resolve() == nested.path.resolve()


def test_a_missing_latest_is_repaired(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.ensure(work(), write_letters, Progress())
    link = tmp_path / "letters" / "latest"
    link.unlink()
    store.ensure(work(), write_letters, Progress())
    assert link.resolve() == artifact.path


@pytest.mark.parametrize("content", [b"aab", b"", b"aaaa", None])
def test_one_changed_byte_is_named_with_the_command_that_repairs_it(tmp_path: Path, content: bytes | None) -> None:
    store = Store(tmp_path)
    artifact, _ = store.ensure(work(), write_letters, Progress())
    file = artifact.path / "part" / "a.txt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ParakeetError, match=r"part/a\.txt .*--force letters"):
        store.find(work())
    store.ensure(work(), write_letters, Progress(), force=True)
    assert store.find(work()) is not None


def test_a_file_touched_but_not_changed_is_fine(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.ensure(work(), write_letters, Progress())
    shutil.copytree(artifact.path, tmp_path / "copy")
    Artifact.open(tmp_path / "copy").check()
    os.utime(artifact.path / "b.txt", (1, 1))
    assert store.find(work()) is not None


def test_an_input_that_was_changed_is_found_before_it_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.ensure(work(), write_letters, Progress())
    file = artifact.path / "b.txt"
    times = file.stat()
    file.write_text("bbc", encoding="utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ParakeetError, match="sha256"):
        store.ensure(Work("next", 1, {}, inputs={"letters": artifact}), write_letters, Progress())


def test_a_failing_stage_leaves_the_old_world(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact, _ = store.ensure(work(), write_letters, Progress())

    def fail(output: Path, progress: Progress) -> dict[str, Any]:
        (output / "half.txt").write_text("half", encoding="utf-8")
        raise ParakeetError("no")

    with pytest.raises(ParakeetError, match="no"):
        store.ensure(work(2), fail, Progress())
    assert (tmp_path / "letters" / "latest").resolve() == artifact.path
    assert store.directories("letters") == [artifact.path]


def test_too_little_space_is_reported_before_anything_is_made(tmp_path: Path) -> None:
    huge = Work("letters", 1, {}, expected_bytes=1 << 60)
    with pytest.raises(ParakeetError, match="Too little disk space for letters"):
        Store(tmp_path).ensure(huge, lambda output, progress: pytest.fail("made"), Progress())
    assert not list(tmp_path.glob("letters/*"))


SCRIPT = """
    import resource, signal, sys, time
    from pathlib import Path
    from parakeet.artifact import Store, Work
    from parakeet.errors import ParakeetError
    from parakeet.progress import Progress

    def make(output, progress):
        {limit}
        for number in range(200):
            (output / f"{{number}}.txt").write_text("x" * 2000)
            time.sleep({pause})
        return {{}}

    print("started", flush=True)
    try:
        Store(Path(sys.argv[1])).ensure(Work("letters", 1, {{}}), make, Progress())
    except ParakeetError as error:
        sys.exit(str(error))
"""


def run_script(root: Path, limit: str = "", pause: float = 0.0, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    code = textwrap.dedent(SCRIPT).format(limit=limit, pause=pause)
    command = [*prefix, sys.executable, "-c", code, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path: Path) -> None:
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    process = run_script(tmp_path, limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "while making letters. Nothing that was there before was lost" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "letters" / "latest").exists()


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.4, 0.8])
def test_kill_9_at_any_moment_leaves_the_old_world_or_the_new(tmp_path: Path, seconds: float) -> None:
    process = run_script(tmp_path, pause=0.002)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    store = Store(tmp_path)
    found = store.find(Work("letters", 1, {}))
    if found is not None:
        found.check(thorough=True)
    assert not is_held(tmp_path / ".locks" / "letters.lock")
    finished = run_script(tmp_path)
    finished.communicate(timeout=60)
    assert finished.returncode == 0
    made = store.find(Work("letters", 1, {}))
    assert made is not None
    assert len(made.manifest["files"]) == 200


def test_the_second_of_two_builds_waits_and_names_the_first(tmp_path: Path) -> None:
    first = run_script(tmp_path, pause=0.01)
    assert first.stdout is not None
    first.stdout.readline()
    time.sleep(1.0)
    second = run_script(tmp_path)
    _, errors = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert f"process {first.pid} since" in errors
    assert len(Store(tmp_path).directories("letters")) == 1


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".locks").mkdir()
    tmp_path.chmod(0o555)
    process = run_script(tmp_path, prefix=without_root_rights())
    _, errors = process.communicate(timeout=60)
    tmp_path.chmod(0o755)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert f"{tmp_path} cannot be written to: change its permissions, or set PARAKEET_HOME" in errors


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ParakeetError, match="preparing the assets folder"):
        Store(tmp_path / "file" / "assets").ensure(work(), write_letters, Progress())


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "[1]"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParakeetError, match="not an artefact"):
        Artifact.open(tmp_path)
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ParakeetError, match=r"manifest\.json"):
        Artifact.open(tmp_path)


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = tmp_path / "a.txt", tmp_path / "cache.json"
    file.write_text("one", encoding="utf-8")
    first = HashCache(cache).sha256([file])
    with monkeypatch.context() as unreadable:
        unreadable.setattr("parakeet.hashes.sha256_of", lambda path: pytest.fail(f"{path} was read again"))
        assert HashCache(cache).sha256([file]) == first
    file.write_text("two!", encoding="utf-8")
    assert HashCache(cache).sha256([file]) != first
    cache.write_text("broken", encoding="utf-8")
    assert len(HashCache(cache).sha256([file])) == 1
    with pytest.raises(ParakeetError, match="gone"):
        HashCache(cache).sha256([tmp_path / "gone"])
