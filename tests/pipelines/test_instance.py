import importlib.util
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from pipelines.history import DagsterSqliteStorage, is_server
from pipelines.instance import open_instance, prepare_history, settings_missing, write_settings

OPEN = """
import sys
from pathlib import Path
from parakeet.progress import Progress
from pipelines.instance import open_instance

with open_instance(Path(sys.argv[1]), Progress()) as instance:
    print(len(instance.get_run_records()))
"""


def test_a_new_history_can_be_opened_by_many_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 4, [err for (_, err), _ in ended]
    assert [out for (out, _), _ in ended] == ["0\n"] * 4


def settings_of(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / ".dagster" / "dagster.yaml").read_text()))


def edit(root: Path, **sections: Any) -> None:
    file = root / ".dagster" / "dagster.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    there = settings_of(root) if file.exists() else {}
    file.write_text(f"# mine\n{yaml.safe_dump(there | sections)}")


POSTGRES = {"postgres": {"postgres_url": {"env": "DATABASE"}}}


@pytest.mark.parametrize(
    "sections",
    [
        {"storage": POSTGRES},
        {"storage": {"sqlite": {"base_dir": "/elsewhere"}}},
        {"storage": {"mysql": {"mysql_url": "x"}}},
        {"run_monitoring": {"enabled": False}},
        {"concurrency": {"pools": {"default_limit": 3}}, "retention": {"sensor": {"purge_after_days": 5}}},
        {"python_logs": {"python_log_level": "INFO"}},
        {"compute_logs": {"module": "a", "class": "b", "config": {"base_dir": "relative"}}},
    ],
)
def test_what_a_user_changes_in_dagster_yaml_stays(tmp_path: Path, sections: dict[str, Any]) -> None:
    write_settings(tmp_path)
    before = settings_of(tmp_path)
    edit(tmp_path, **sections)
    for _ in range(2):
        assert write_settings(tmp_path) == before | sections
        assert settings_of(tmp_path) == before | sections
    assert (tmp_path / ".dagster" / "dagster.yaml").read_text().startswith("# mine"), "comments are lost for nothing"


def test_a_setting_that_parakeet_changes_arrives_unless_the_user_has_one(tmp_path: Path) -> None:
    ours = write_settings(tmp_path)
    written = tmp_path / ".dagster" / "dagster.yaml.written"
    old = ours | {"run_retries": {"enabled": True}, "concurrency": {"pools": {"default_limit": 7}}}
    written.write_text(yaml.safe_dump(old))
    edit(tmp_path, run_retries={"enabled": True}, concurrency={"pools": {"default_limit": 9}})
    assert write_settings(tmp_path) == ours | {"concurrency": {"pools": {"default_limit": 9}}}


@pytest.mark.parametrize(
    ("sections", "kept"),
    [
        ({"storage": POSTGRES}, True),
        ({"schedules": {"use_threads": True}}, True),
        ({"storage": {"sqlite": {"base_dir": "/before/the/home/was/moved"}}}, False),
        ({"storage": {"custom": {"module": "pipelines.history", "class": "x", "config": {}}}}, False),
        ({"run_retries": {"enabled": True, "max_retries": 3}}, False),
    ],
)
def test_the_dagster_yaml_of_an_earlier_version(tmp_path: Path, sections: dict[str, Any], kept: bool) -> None:
    """It has no note of what was written, and every build replaced it."""
    ours = write_settings(tmp_path)
    (tmp_path / ".dagster" / "dagster.yaml.written").unlink()
    edit(tmp_path, **sections)
    assert write_settings(tmp_path) == (ours | sections if kept else ours)


def test_a_moved_home_has_its_history_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    before, after = tmp_path / "before", tmp_path / "after"
    with open_instance(before, Progress()) as instance:
        assert instance.get_runs() == []
    before.rename(after)
    with open_instance(after, Progress()):
        assert not before.exists()
    assert str(before) not in (after / ".dagster" / "dagster.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage: [", "cannot be read as YAML"),
        ("nothing: here\n", 'unexpected config entry "nothing"'),
        ("storage: {postgres: {postgres_url: x}}\n", "pip install 'parakeet-lm[postgres]'"),
    ],
)
def test_a_bad_dagster_yaml_in_the_home_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    file = tmp_path / ".dagster" / "dagster.yaml"
    file.parent.mkdir()
    file.write_text(text)
    if "postgres" in text and _has_postgres():
        pytest.skip("dagster_postgres is installed")
    with pytest.raises(ParakeetError, match=re.escape(message)) as caught, open_instance(tmp_path, Progress()):
        pass
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def _has_postgres() -> bool:
    return importlib.util.find_spec("dagster_postgres") is not None


def test_use_writes_what_dagster_needs_to_open_a_new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = CliRunner().invoke(main, ["use", "demo"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "home" / ".dagster"
    assert f"DAGSTER_HOME={folder} dagster dev" in result.output
    assert settings_of(tmp_path / "home")["run_monitoring"]["enabled"]
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    assert settings_missing() is None


@pytest.mark.parametrize("text", [None, "", "telemetry: {enabled: false}\n"])
def test_definitions_name_the_command_if_dagster_has_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".dagster"))
    (tmp_path / ".dagster").mkdir()
    if text is not None:
        (tmp_path / ".dagster" / "dagster.yaml").write_text(text)
    message = settings_missing() or ""
    assert "concurrency" in message
    assert "python -m pipelines.instance" in message
    prepare_history(tmp_path)
    assert settings_missing() is None


@pytest.mark.parametrize("file", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_history_ends_dagster_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    damaged = tmp_path / file
    damaged.parent.mkdir(parents=True)
    connection = sqlite3.connect(damaged)
    connection.executescript("CREATE TABLE runs (id TEXT); INSERT INTO runs VALUES ('x')")
    connection.close()
    with damaged.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * 4096)
    for command in (["/x/bin/dagster-daemon", "run"], ["/x/bin/dagster-webserver"]):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(click.ClickException, match=f"{re.escape(str(damaged))} is damaged") as caught:
            open_history(tmp_path)
        assert "\n" not in caught.value.message
    monkeypatch.setattr(sys, "argv", ["/x/bin/dagster", "api", "execute_run"])
    assert not is_server()


def open_history(folder: Path) -> None:
    DagsterSqliteStorage.from_config_value(None, {"base_dir": str(folder)})
