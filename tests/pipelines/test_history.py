"""Dagster's history: in a folder of any name, and one message where it cannot be used."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.progress import Progress
from pipelines import history
from pipelines.instance import open_instance

SIGNS = "[]?*{}!%#&=:;'\"\\ \n\t$~|<>@`^,.-aЖ漢ก😀é"
NAMES = st.text(st.sampled_from(SIGNS), min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
FILES = [str(file) for file in history.FILES]


@pytest.fixture(autouse=True)
def without_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def runs_in(root: Path) -> int:
    with open_instance(root, Progress()) as instance:
        return len(instance.get_run_records())


@example("feature%2Flogin")
@example("what?x=1")
@example("[x]*{a}!#")
@example("file::memory:")
@given(NAMES)
@settings(max_examples=3)
def test_a_home_of_any_name_holds_its_history(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    above = tmp_path_factory.mktemp("above")
    root = above / name
    assert runs_in(root) == 0
    assert [path.name for path in above.iterdir()] == [name]
    assert {str(path.relative_to(root / ".dagster" / "storage")) for path in root.rglob("*.db")} == set(FILES)
    assert (root / ".dagster" / "dagster.yaml").is_file()


def test_a_build_in_a_home_with_signs_and_what_dagster_shows_of_it(tmp_path: Path) -> None:
    root = tmp_path / "feature%2Flogin?x=1"
    (tmp_path / "notes.jsonl").write_text('{"text": "A note, long enough to be kept."}\n' * 3, encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: demo\nname: signs\nsources: [{name: notes, path: notes.jsonl}]\n", encoding="utf-8")
    command = [sys.executable, "-m", "parakeet.cli", "build", "--recipe", str(recipe), "--select", "documents"]
    built = subprocess.run(command, env=os.environ | {"PARAKEET_HOME": str(root)}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([root.name, "notes.jsonl", "r.yaml"])
    assert (root / "documents" / "latest" / "manifest.json").is_file()
    # As `dagster dev` opens it: by DAGSTER_HOME, without our code.
    show = "import dagster as dg; print([run.status.value for run in dg.DagsterInstance.get().get_runs()])"
    environment = os.environ | {"DAGSTER_HOME": str(root / ".dagster")}
    shown = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True)
    assert shown.stdout == "['SUCCESS']\n", shown.stderr


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("~nobody77/x", "PARAKEET_HOME is ~nobody77/x: there is no user 'nobody77'"),
        ("x" * 256, "longer than 255 bytes"),
        ("漢" * 90, "longer than 255 bytes"),
        ("file", "this is a file"),
        ("loop", "a symbolic link that leads to itself"),
        (os.fsdecode(b"caf\xe9"), "not UTF-8"),
    ],
)
def test_what_cannot_be_a_home_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("PARAKEET_HOME", named)
    with pytest.raises(ParakeetError, match=message):
        home()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_home_too_deep_for_sqlite_is_refused(tmp_path: Path) -> None:
    root = tmp_path.joinpath(*["d" * 100] * 4, "d" * 50)
    with pytest.raises(ParakeetError, match=r"too long for Dagster's history by .* bytes: set PARAKEET_HOME"):
        runs_in(root)
    assert list(tmp_path.iterdir()) == []
    below = len(str(Path(".dagster") / "storage" / history.LONGEST_FILE)) + 1
    deepest = Path(str(root)[: history.MOST_BYTES_OF_A_PATH - below])
    assert runs_in(deepest) == 0


@pytest.mark.parametrize(
    ("named", "folder"),
    [
        ("history", "current/history"),
        (".", "current"),
        ("../beside", "beside"),
        ("~/history", "user/history"),
        ("deep/er", "current/deep/er"),
        ("a%41?b", "current/a%41?b"),
        ("with[settings]", "current/with[settings]"),
    ],
)
def test_dagster_home_is_seen_from_the_current_or_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, folder: str
) -> None:
    for name in ("current/with[settings]", "user"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "current/with[settings]/dagster.yaml").write_text("nux: {enabled: false}\n", encoding="utf-8")
    before = set((tmp_path / "current").iterdir())
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DAGSTER_HOME", named)
    assert runs_in(tmp_path / "home") == 0
    assert (tmp_path / folder / "history" / "runs.db").is_file()
    assert not (tmp_path / "home").exists()
    if "current" not in Path(folder).parts[:-1] and folder != "current":
        assert set((tmp_path / "current").iterdir()) == before
    assert not (tmp_path / "user" / ".dagster").exists(), "Dagster's telemetry"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("nonsense_key: true\n", 'unexpected config entry "nonsense_key"'),
        ("a: [b\n", "line 2, column 1: expected ',' or ']'"),
        ("\tb: 1\n", "line 1, column 1"),
        ("- a\n", "not a mapping"),
        ("a: &a [*a]\n", "unexpected config entry"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("run_retries: {enabled: perhaps}\n", "dagster.yaml cannot be used"),
        ("compute_logs: {module: no.such, class: Thing}\n", "Couldn't import module no.such"),
        ("storage: {postgres: {postgres_url: x}}\n", "dagster_postgres"),
        ("storage: {sqlite: {base_dir: {env: NOT_SET_ANYWHERE}}}\n", "NOT_SET_ANYWHERE"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (None, "Is a directory"),
    ],
)
def test_a_bad_dagster_yaml_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str | bytes | None, message: str
) -> None:
    file = tmp_path / "dagster.yaml"
    if settings is None:
        file.mkdir()
    else:
        file.write_bytes(settings if isinstance(settings, bytes) else settings.encode())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(ParakeetError) as caught:
        runs_in(tmp_path / "home")
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sum(path.name == "dagster.yaml" for path in tmp_path.iterdir()) == 1


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a history."""
    root = tmp_path_factory.mktemp("used") / "home"
    assert runs_in(root) == 0
    return root


@pytest.mark.parametrize("file", FILES)
def test_a_locked_history_is_waited_for(used: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = used / ".dagster" / "storage" / file
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as other:
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(1.0, lambda: other.execute("ROLLBACK"))
        timer.start()
        began = time.monotonic()
        assert runs_in(used) == 0
        assert time.monotonic() - began >= 0.9
        timer.join()
    assert capsys.readouterr().err == f"Waiting for {path}, which another program has locked: at most 5 minutes.\n"


def test_a_history_that_stays_locked_is_one_sentence(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SECONDS_TO_WAIT", 0.1)
    path = used / ".dagster" / "storage" / "history" / "runs.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ParakeetError, match=r"runs\.db is locked by another program"):
            runs_in(used)
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *((file, "random") for file in FILES),
        ("history/runs.db", "first pages"),
        ("history/runs/index.db", "later pages"),
    ],
)
def test_a_damaged_history_is_named_and_can_be_moved_away(tmp_path: Path, used: Path, file: str, how: str) -> None:
    root = tmp_path / "a home"
    shutil.copytree(used, root)
    path = root / ".dagster" / "storage" / file
    good = path.read_bytes()
    damaged = {
        "random": random.Random(1).randbytes(20_000),
        "first pages": good[:5000],
        "later pages": good[:8192] + b"\xaa" * (len(good) - 8192),
    }[how]
    path.write_bytes(damaged)
    with pytest.raises(ParakeetError) as caught:
        runs_in(root)
    message, _, command = str(caught.value).rpartition(": ")
    assert message.startswith(f"{path} is damaged")
    assert "artefacts and models are not concerned" in message
    subprocess.run(command, shell=True, check=True)
    assert runs_in(root) == 0
