"""The files of docs/deployment, as far as this machine can try them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "deployment"
UNITS = (
    "parakeet-daemon.service",
    "parakeet-webserver.service",
    "parakeet-pages.service",
    "parakeet-server.service",
)
POSTGRES = "/usr/lib/postgresql"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_units_are_valid(tmp_path: Path) -> None:
    programs = tmp_path / "opt" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "dagster-daemon", "dagster-webserver", "parakeet"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for unit in UNITS:
        text = (FILES / unit).read_text().replace("/opt/parakeet", str(tmp_path / "opt"))
        (tmp_path / unit).write_text(text.replace("User=parakeet", "User=root"))
    command = ["systemd-analyze", "verify", *(str(tmp_path / unit) for unit in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_unit_waits_longer_than_a_trainer_may_save() -> None:
    text = (FILES / UNITS[0]).read_text()
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    seconds = re.search(r"TimeoutStopSec=(\d+)", text)
    assert seconds is not None
    assert int(seconds[1]) > settings["run_monitoring"]["cancel_timeout_seconds"]
    assert "KillSignal=SIGINT" in text


def test_what_the_dockerfile_names_exists() -> None:
    text = (FILES / "Dockerfile").read_text()
    assert (ROOT / "docs/deployment/container.py").is_file()
    assert "docs/deployment/container.py" in text
    extras = re.findall(r"'\.\[(\w+)\]'", text)
    assert extras
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras)


def test_the_image_holds_nothing_that_git_ignores() -> None:
    """`COPY . .` would take weights, and recipe.yaml with the address of `notify`, into it."""
    left_out = (FILES / "Dockerfile.dockerignore").read_text().splitlines()
    for pattern in (ROOT / ".gitignore").read_text().splitlines():
        name = pattern.replace("!/", "!").strip("/")
        assert (name if pattern.startswith(("/", "!")) else f"**/{name}") in left_out, pattern


TRAINER = """
import signal, subprocess, sys, time
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
if sys.argv[2:]:  # a run, in a session of its own, which starts a trainer and ends before it
    subprocess.Popen([sys.executable, "-c", open(sys.argv[0]).read(), sys.argv[1]], start_new_session=True)
print("begun", file=open(sys.argv[1] + (".run" if sys.argv[2:] else ""), "a"), flush=True)
while not stopped:
    time.sleep(0.01)
if not sys.argv[2:]:
    time.sleep(0.5)
    print("saved", file=open(sys.argv[1], "a"), flush=True)
"""


@pytest.fixture
def namespace() -> list[str]:
    """A command that makes another the first process of a namespace, as in a container."""
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("namespaces of processes are not allowed here")
    return command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_container_that_is_stopped_waits_until_a_trainer_has_saved(
    tmp_path: Path, namespace: list[str], number: signal.Signals
) -> None:
    script, log = tmp_path / "run.py", tmp_path / "log"
    script.write_text(TRAINER)
    entry = [sys.executable, str(FILES / "container.py"), sys.executable, str(script), str(log), "run"]
    environment = os.environ | {"PARAKEET_HOME": str(tmp_path / "home")}
    with subprocess.Popen([*namespace, *entry], cwd=ROOT, env=environment) as process:
        wait_for(log)
        wait_for(Path(f"{log}.run"))
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), number)
        assert process.wait(timeout=60) == 0
    assert log.read_text() == "begun\nsaved\n"
    assert (tmp_path / "home" / ".dagster" / "dagster.yaml").is_file()


def test_a_container_whose_home_cannot_be_written_to_says_so(tmp_path: Path, namespace: list[str]) -> None:
    (tmp_path / "home").write_text("in the way")
    command = [*namespace, sys.executable, str(FILES / "container.py"), "false"]
    environment = os.environ | {"PARAKEET_HOME": str(tmp_path / "home")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Error: " in ended.stderr
    assert "Traceback" not in ended.stderr


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_refuses_to_signal_every_process_of_a_whole_machine() -> None:
    refused = subprocess.run([sys.executable, str(FILES / "container.py"), "true"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "first process of a container" in refused.stderr


@pytest.fixture
def postgres() -> Iterator[int]:
    """A Postgres of our own with a database `parakeet`; its port."""
    pytest.importorskip("dagster_postgres", reason="needs: pip install 'parakeet-lm[postgres]'")
    programs = max(Path(POSTGRES).glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("Postgres is not installed")
    # Not pytest's folder, which is for one user only; Postgres refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    port = 40_000 + os.getpid() % 20_000
    data, options = folder / "data", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"

    def call(program: str, *arguments: str) -> None:
        subprocess.run([*user, str(programs / program), *arguments], check=True, capture_output=True, cwd="/")

    call("initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "-U", "parakeet")
    call("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "parakeet", "parakeet")
        yield port
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_build_keeps_its_history_in_postgres(postgres: int, tmp_path: Path) -> None:
    block = (ROOT / "dagster.yaml").read_text()
    lines = [line[2:] for line in block.splitlines() if re.match(r"# (storage:| )", line)]
    storage = yaml.safe_load("\n".join(lines))
    storage["storage"]["postgres"]["postgres_db"] |= {"port": postgres}
    home = tmp_path / "home"
    settings = home / ".dagster" / "dagster.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text(yaml.safe_dump(storage))
    (tmp_path / "notes.jsonl").write_text('{"text": "A note, long enough to be kept."}\n' * 3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: demo\nname: notes\nsources: [{name: notes, path: notes.jsonl}]\n")
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {"PARAKEET_HOME": str(home), "PARAKEET_POSTGRES_PASSWORD": "any"}
    build = [sys.executable, "-m", "parakeet.cli", "build", "--recipe", str(recipe), "--select", "documents"]
    for _ in range(2):
        built = subprocess.run(build, env=environment, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
    assert yaml.safe_load(settings.read_text())["storage"] == storage["storage"]
    assert not list((home / ".dagster").rglob("*.db"))
    show = "import dagster as dg; print([run.status.value for run in dg.DagsterInstance.get().get_runs()])"
    shown = subprocess.run(
        [sys.executable, "-c", show],
        env=environment | {"DAGSTER_HOME": str(settings.parent)},
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "['SUCCESS', 'SUCCESS']\n", shown.stderr
    settings.write_text(settings.read_text().replace(str(postgres), "1"))
    down = subprocess.run(build, env=environment, capture_output=True, text=True)
    assert down.returncode == 1
    assert "Dagster's history of runs is in Postgres, which cannot be used (connection to server" in down.stderr
    assert "Traceback" not in down.stderr
