"""Locks between processes: what their holder is called, and that a look at them does not count as holding."""

import subprocess
import sys
from pathlib import Path

import pytest

from parakeet.command_line import command_line
from parakeet.locking import claim, exclusive
from parakeet.progress import Progress

SECRET = "T0ken-0f-the-hook"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--set", f"notify.url=https://a.b/{SECRET}"], ("--set", "notify.url=…")),
        ([f"--set=notify.url=https://a.b/?key={SECRET}"], ("--set=notify.url=…",)),
        (["--set", f" notify = {{url: 'https://a.b/{SECRET}'}}"], ("--set", " notify =…")),
        (["--set", f"notify.command=tell\n{SECRET}"], ("--set", "notify.command=…")),
        (
            ["--set", "training.tokens=1e6", "--data", "notify.txt"],
            ("--set", "training.tokens=1e6", "--data", "notify.txt"),
        ),
    ],
)
def test_no_holder_and_no_record_shows_whom_a_build_tells(
    given: list[str], shown: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/parakeet", "build", *given])
    assert command_line() == ("parakeet", "build", *shown)
    with exclusive(tmp_path / "a.lock", "it is used", Progress()):
        holder = (tmp_path / "a.holder").read_text(encoding="utf-8")
    assert SECRET not in holder
    assert " ".join(shown)[:100] in holder


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which no file can be made")
def test_a_folder_that_takes_no_lock_is_an_error_and_no_wait() -> None:
    with pytest.raises(OSError, match=r"x\.lock"), exclusive(Path("/proc/x.lock"), "it is used", Progress()):
        pass


def test_a_claim_survives_a_look_at_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.with_suffix(".holder").write_text("process 1, long dead", encoding="utf-8")
    code = "import sys, time; from filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as looks:
        assert looks.stdout is not None
        assert looks.stdout.readline() == b"held\n"
        assert claim(path) is None
