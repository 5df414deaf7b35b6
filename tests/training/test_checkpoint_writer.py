"""The background writer, also as a real process that runs out of disk, fails, or is killed while it writes."""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.training.checkpoint import CheckpointWriter, checkpoints, read_state, restore_newest

from . import toy_run
from .toy_run import LARGEST_FILE, SCHEDULE, SMALLEST_FILE, ToyRun, let_files_grow_to, open_writer, run_state

ROOT = Path(__file__).parents[2]


class Reports:
    """Records a writer's callbacks and their threads."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.failed: list[tuple[int, str]] = []
        self.threads: set[int] = set()
        self.printed = io.StringIO()

    def writer(self, run: Path, keep_checkpoints: int = 2, keep_every: int = 0) -> CheckpointWriter:
        return CheckpointWriter(
            run,
            Progress(self.printed),
            keep_checkpoints=keep_checkpoints,
            keep_every=keep_every,
            report=self._report,
        )

    def _report(self, kind: str, step: int, text: str) -> None:
        self.threads.add(threading.get_ident())
        if kind == "saved":
            self.saved.append(step)
        else:
            self.failed.append((step, text))


class Forked:
    """`python -m tests.training.toy_run`, as a fork of this process, which has already imported torch."""

    def __init__(self, run: Path, *arguments: str) -> None:
        # No files: their size may be limited.
        (reading, out), (reading_errors, errors) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(out, 1)
                os.dup2(errors, 2)
                sys.stdout = open(1, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
                toy_run.main(str(run), *arguments)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(out)
        os.close(errors)
        self.stdout = open(reading, encoding="utf-8")  # noqa: SIM115
        self._errors = open(reading_errors, encoding="utf-8")  # noqa: SIM115
        self.returncode: int | None = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """All that it prints until it ends."""
        with self.stdout, self._errors:
            printed = self.stdout.read(), self._errors.read()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return printed


def poll_until_saved(writer: CheckpointWriter, reports: Reports, count: int) -> None:
    deadline = time.monotonic() + 600
    while len(reports.saved) < count:
        assert time.monotonic() < deadline
        writer.poll()
        time.sleep(0.001)


def test_training_may_change_everything_as_soon_as_save_returns(tmp_path: Path) -> None:
    toy, reports = ToyRun(width=64), Reports()
    toy.make_step(1)
    expected = toy.bits()
    with reports.writer(tmp_path) as writer:
        snapshot = toy.snapshot(1)
        writer.save(*snapshot)
        toy.make_step(2)
        snapshot[2].loaders["0"]["epoch"] = 5
    restored = ToyRun(width=64, seed=2)
    assert restore_newest(tmp_path, restored.model, restored.optimizer, SCHEDULE, Progress()) == run_state(1)
    assert restored.bits() == expected


def test_callbacks_run_in_the_thread_that_polls(tmp_path: Path) -> None:
    toy, reports = ToyRun(), Reports()
    with reports.writer(tmp_path) as writer:
        writer.save(*toy.snapshot(1))
        assert reports.saved == []
        poll_until_saved(writer, reports, 1)
        writer.poll()
        writer.save(*toy.snapshot(2))
    assert reports.saved == [1, 2]
    assert reports.threads == {threading.get_ident()}


def test_a_save_waits_for_the_one_before_it(tmp_path: Path) -> None:
    toy, reports = ToyRun(width=256), Reports()
    with reports.writer(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.save(*toy.snapshot(step))
            assert reports.saved == list(range(1, step))
            assert sum(thread.name == "checkpoint" for thread in threading.enumerate()) <= 1
            assert [read_state(path).step for path in checkpoints(tmp_path)][: step - 1] == list(range(1, step))[-2:]


def test_every_save_prunes(tmp_path: Path) -> None:
    toy, reports = ToyRun(), Reports()
    with reports.writer(tmp_path, keep_checkpoints=1, keep_every=3) as writer:
        for step in range(798, 806):
            loss = 1.5 if step == 800 else 2.0
            writer.save(*toy.snapshot(step, validation_loss=loss))
    assert [read_state(path).step for path in checkpoints(tmp_path)] == [798, 800, 801, 804, 805]


def test_a_full_disk_is_reported_and_the_next_save_succeeds(tmp_path: Path) -> None:
    process = Forked(tmp_path, "limited", "free", "full", "full", "free")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    reports = out.splitlines()
    assert [line.split()[:2] for line in reports] == [["saved", "1"], ["failed", "2"], ["failed", "3"], ["saved", "4"]]
    assert "could not be saved" in reports[1]
    assert "File too large" in reports[1]
    assert errors.count("\n") == 2
    assert errors.count("Training continues and the next save retries: free some space in") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000004"]


def test_a_last_save_that_fails_is_an_error(tmp_path: Path) -> None:
    process = Forked(tmp_path, "limited", "free", "full")
    _, errors = process.communicate()
    assert process.returncode == 1
    message = errors.splitlines()[-1]
    assert message.startswith("parakeet.errors.ParakeetError: ")
    assert "while saving the checkpoint of step 2. Nothing that was there before was lost" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_ulimit_is_a_full_disk(tmp_path: Path) -> None:
    """As the shell sets it: for the whole process, which therefore never saves anything."""
    command = [sys.executable, "-m", "tests.training.toy_run", str(tmp_path), "limited", "as it is"]
    limited = ["bash", "-c", 'ulimit -f 2; exec "$@"', "limited", *command]
    finished = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 1
    assert "saving the checkpoint of step 1" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def alone(function: Callable[[Path], None], run: Path) -> None:
    """Run it in a process of its own: memory that other tests have freed would be enough for a copy."""
    code = "import pathlib, sys; from tests.training.test_checkpoint_writer import *; "
    code += f"{function.__name__}(pathlib.Path(sys.argv[1]))"
    finished = subprocess.run(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr


def test_a_failed_save_keeps_no_copy_in_memory(tmp_path: Path) -> None:
    alone(fail_to_save, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory by /proc and RLIMIT_AS")
def test_a_copy_without_memory_is_reported_and_the_next_save_succeeds(tmp_path: Path) -> None:
    alone(fail_to_copy, tmp_path)


def fail_to_save(tmp_path: Path) -> None:
    toy, reports = ToyRun(width=1024), Reports()
    writer = reports.writer(tmp_path)
    let_files_grow_to(SMALLEST_FILE)
    try:
        before = resident_bytes()
        writer.save(*toy.snapshot(1))
        writer.wait()
        after = resident_bytes()
    finally:
        let_files_grow_to(LARGEST_FILE)
    assert [step for step, _ in reports.failed] == [1]
    n_bytes = sum(4 * parameter.numel() for parameter in toy.model.parameters())
    assert after - before < n_bytes / 2
    with pytest.raises(ParakeetError, match="saving the checkpoint of step 1"):
        writer.close()


def fail_to_copy(tmp_path: Path) -> None:
    toy, reports = ToyRun(width=1024), Reports()
    writer = reports.writer(tmp_path)
    writer.save(*toy.snapshot(1))
    writer.wait()
    for step in (2, 3):
        with no_more_memory():
            writer.save(*toy.snapshot(step))
    assert (reports.saved, [step for step, _ in reports.failed]) == ([1], [2, 3])
    assert "not enough memory to copy it" in reports.failed[0][1]
    assert reports.printed.getvalue().count("Training continues and the next save retries: free some memory") == 2
    with pytest.raises(ParakeetError, match="not enough memory to copy the checkpoint of step 3"):
        writer.close()
    writer.save(*toy.snapshot(4))
    writer.close()
    assert reports.saved == [1, 4]
    assert [read_state(path).step for path in checkpoints(tmp_path)] == [1, 4]


@contextmanager
def no_more_memory() -> Iterator[None]:
    """Limit this process to a mebibyte of addresses beyond those it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def resident_bytes() -> int:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux reports a process's memory in /proc")
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_failed_training_ends_with_its_own_error_and_a_whole_checkpoint(tmp_path: Path) -> None:
    process = Forked(tmp_path, "failing")
    out, errors = process.communicate()
    assert process.returncode == 1
    assert out.startswith("saved 1 ")
    assert errors.splitlines()[-1] == "RuntimeError: the training failed"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_writer_that_nobody_closed_does_not_hold_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.toy_run", str(tmp_path), "left"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode != 0
    assert "nobody closed the writer" in finished.stderr
    open_writer(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("seed", range(3))
def test_a_writer_killed_at_any_moment_leaves_whole_checkpoints(tmp_path: Path, seed: int) -> None:
    process = Forked(tmp_path, "forever")
    for _ in range(2):
        assert process.stdout.readline().startswith("saved")
    time.sleep(random.Random(seed).random() * 0.4)
    process.kill()
    process.communicate()
    reports = Reports()
    reports.writer(tmp_path).close()
    assert all(path.name.startswith(("step-", "best.json")) for path in tmp_path.iterdir())
    restored, undisturbed = ToyRun(width=256, seed=2), ToyRun(width=256)
    state = restore_newest(tmp_path, restored.model, restored.optimizer, SCHEDULE, Progress(reports.printed))
    assert state is not None
    assert reports.printed.getvalue() == ""
    for step in range(1, state.step + 1):
        undisturbed.make_step(step)
    assert restored.bits() == undisturbed.bits()


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """A process was killed between the two renames: the old checkpoint is aside, the new one not yet in place."""
    toy = ToyRun()
    path = toy.save(tmp_path, 1)
    path.rename(tmp_path / f".replaced-{path.name}")
    (tmp_path / f".partial-{path.name}").mkdir()
    open_writer(tmp_path).close()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert restore_newest(tmp_path, toy.model, toy.optimizer, SCHEDULE, Progress()) == run_state(1)


def test_the_same_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    toy, reports = ToyRun(), Reports()
    with reports.writer(tmp_path) as writer:
        writer.save(*toy.snapshot(1, validation_loss=3.0))
        writer.save(*toy.snapshot(1, validation_loss=2.0))
    assert reports.saved == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "step-00000001"]
    assert read_state(tmp_path / "step-00000001") == run_state(1, validation_loss=2.0)


def test_a_missing_run_folder_is_a_failed_save_not_a_crash(tmp_path: Path) -> None:
    toy, reports = ToyRun(), Reports()
    run = tmp_path / "run"
    run.mkdir()
    with reports.writer(run) as writer:
        run.rmdir()
        writer.save(*toy.snapshot(1))
        writer.wait()
        run.mkdir()
        writer.save(*toy.snapshot(2))
    assert ([step for step, _ in reports.failed], reports.saved) == ([1], [2])
