"""Two processes on one run, with gloo: they train as one process does, and are stopped and killed like one."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import distributed

from parakeet.errors import INTERRUPTED
from parakeet.locking import is_held
from parakeet.training.distributed import PeerLost, Ranks
from parakeet.training.job import FAILURE_FILE, LAUNCH_LOCK_FILE, LOCK_FILE, TrainingJob

from .conftest import SECONDS, ForkServer, MakeJob, events, failure, history, until

STEPS = 60
SETTINGS: dict[str, Any] = {"model": {"dropout": 0.0}, "tokens": 256 * STEPS}


def launch(job: Path) -> subprocess.Popen[str]:
    """The command that the stage starts, in a session of its own so that a test that fails leaves nothing behind."""
    command = ["nice", "-n", "10", sys.executable, "-m", "parakeet.training", str(job)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ranks_of(job: Path) -> list[int]:
    """The processes that train it, rank 0 first."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
            environment = (folder / "environ").read_text()
        except OSError:
            continue
        if str(job) in command and "\0RANK=" in environment:
            found[int(environment.split("\0RANK=")[1].split("\0")[0])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def steps_made(job: Path) -> int:
    return len(history(job))


@pytest.fixture(scope="module")
def alone(write_job: MakeJob, trainers: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that two must match."""
    job = write_job(tmp_path_factory.mktemp("runs") / "alone", **SETTINGS)
    trainers.finish(job)
    return job


def assert_same_training(job: Path, alone: Path) -> None:
    assert [line[0] for line in history(job)] == list(range(1, STEPS + 1))
    for place in (1, -1):  # the loss, the held-out loss
        mine, theirs = ([line[place] for line in history(each) if line[place] is not None] for each in (job, alone))
        assert mine == pytest.approx(theirs, rel=1e-6)
    assert (TrainingJob.load(job).output / "model.safetensors").exists()


def test_two_processes_train_as_one_with_the_same_batch(make_job: MakeJob, alone: Path, trainers: ForkServer) -> None:
    """As torchrun starts them, without torchrun."""
    job = make_job("two", **SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [trainers.start(job, environment={**where, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].printed()
    assert_same_training(job, alone)
    assert not ranks[1].printed(), "only rank 0 speaks"


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_the_launchers_processes_stop_and_end_together(make_job: MakeJob, alone: Path, trainers: ForkServer) -> None:
    job = make_job("launched", **SETTINGS, processes=2)
    process = launch(job)
    until(lambda: steps_made(job) >= 2 or process.poll() is not None)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=SECONDS)
    assert process.returncode == INTERRUPTED, printed
    assert "Run the same command again" in failure(job)
    assert "Traceback" not in printed

    # A rank dies: the others end too, with one message.
    process = launch(job)
    until(lambda: bool(events(job, "resumed")))
    os.kill(ranks_of(job)[1], signal.SIGKILL)
    _, printed = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "One of the 2 training processes ended early" in failure(job)
    assert "Traceback" not in printed

    # The launcher dies: they save and end by themselves.
    process = launch(job)
    begun = len(events(job, "saved"))
    until(lambda: len(events(job, "resumed")) == 2)
    process.kill()
    process.wait()
    until(lambda: not ranks_of(job))
    assert len(events(job, "saved")) > begun
    assert not is_held(job.parent / LOCK_FILE)

    # Another number of processes continues.
    assert "made by 2 processes and 1 continue" in trainers.finish(make_job("launched", **SETTINGS))
    assert_same_training(job, alone)


@pytest.mark.parametrize("held", [LAUNCH_LOCK_FILE, LOCK_FILE])
def test_a_signal_ends_the_launchers_wait_for_the_run(make_job: MakeJob, held: str) -> None:
    job = make_job("waiting", processes=2)
    with FileLock(job.parent / held):
        process = launch(job)
        assert process.stderr is not None
        assert "Waiting: this run is being trained by" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=SECONDS)
    assert process.returncode == INTERRUPTED, printed
    assert "Traceback" not in printed
    assert "had not begun" in (TrainingJob.load(job).output / FAILURE_FILE).read_text(encoding="utf-8")
    assert not (job.parent / FAILURE_FILE).exists()
    assert not history(job)


def test_sequences_that_cannot_be_shared_are_one_message(make_job: MakeJob) -> None:
    job = make_job("three", processes=3)
    process = launch(job)
    _, printed = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "8 sequences of 32 tokens a step, which 3 processes cannot share" in failure(job)
    assert "Traceback" not in printed


def test_the_reason_for_a_failed_sum_is_shown() -> None:
    """NCCL's failures are RuntimeErrors, as gloo's is for a type that it cannot add up."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(PeerLost, match=r"One of the 2 training processes ended early.* torch reported: .*type"):
            Ranks(0, 2, torch.device("cpu")).sum_in_place(torch.zeros(2, dtype=torch.float8_e5m2))
    finally:
        distributed.destroy_process_group()
