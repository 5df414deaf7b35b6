"""Runs several training processes under torchrun. Imports torch only in the child process.

launcher   started by `parakeet build` or Dagster; it waits, and on a signal it closes the pipe to the ranks
  torchrun   one child in a session of its own, so that the terminal's signals do not reach it: 30 s after one it
             would kill the ranks, saved or not
    ranks      their standard input is the launcher's pipe. When it ends, because the launcher closed it or died,
               they agree on a step, save and stop, however long that takes
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.locking import WaitStopped, exclusive
from parakeet.progress import Progress
from parakeet.recipe import Training
from parakeet.training.job import FAILURE_FILE, LAUNCH_LOCK_FILE, LOCK_FILE, TRAINED, TrainingJob

FOLLOW_INPUT = "-"
SECONDS_BETWEEN_LOOKS = 0.1


def process_count(training: Training) -> int:
    """Processes that the recipe asks for; 0 means one for each CUDA device."""
    if training.processes:
        return training.processes
    if training.device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def check_sequences(job: TrainingJob, processes: int) -> None:
    """ParakeetError unless the processes can share the sequences of every step equally."""
    sizes = job.recipe.training.batch_sizes.items()
    for sequence_length, (name, batch_tokens) in product(job.recipe.packing.lengths, sizes):
        sequences = batch_tokens // sequence_length
        if sequences % processes:
            raise ParakeetError(
                f"{name} {batch_tokens:,} makes {sequences:,} sequences of {sequence_length:,} tokens a step, which "
                f"{processes} processes cannot share equally. Make it a multiple of "
                f"{processes * sequence_length:,} or make training.processes a divisor of {sequences:,}."
            )


def launch(job: TrainingJob, job_file: Path, processes: int, stop: Callable[[], bool], progress: Progress) -> int:
    """Train with `processes` processes until they end; `stop` makes them save and end.

    Returns the exit status of one process: 0, INTERRUPTED, or 1 with the reason in FAILURE_FILE. Raises WaitStopped if
    `stop` is true before anything was started.
    """
    failure = job.run / FAILURE_FILE
    with exclusive(job.run / LAUNCH_LOCK_FILE, TRAINED, progress, stop):
        # A process may train this run without a launcher. Released again, since rank 0 takes this lock itself.
        with exclusive(job.run / LOCK_FILE, TRAINED, progress, stop):
            for folder in (job.run, job.output):
                (folder / FAILURE_FILE).unlink(missing_ok=True)
        try:
            check_sequences(job, processes)
        except ParakeetError as error:
            failure.write_text(str(error), encoding="utf-8")
            return 1
        return _status(job, processes, _run_torchrun(job_file, processes, stop))


def _status(job: TrainingJob, processes: int, of_torchrun: int) -> int:
    failure = job.run / FAILURE_FILE
    if of_torchrun == 0:
        return INTERRUPTED if failure.exists() else 0
    if (job.output / FAILURE_FILE).exists():
        # Another process took the run's lock before rank 0, and the signal came while rank 0 waited.
        raise WaitStopped
    if not failure.exists():
        failure.write_text(
            f"The {processes} training processes ended early. Run the same command again: training continues from "
            f"its last checkpoint in {job.run}.",
            encoding="utf-8",
        )
    return 1


def _run_torchrun(job_file: Path, processes: int, stop: Callable[[], bool]) -> int:
    command = [sys.executable, "-m", "parakeet.training.launcher", str(processes), str(job_file)]
    # With a thread for every core in every process, the threads would only wait for one another.
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    # Otherwise c10d warns about every host name that it cannot resolve.
    environment = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True) as torchrun:
        assert torchrun.stdin is not None
        while True:
            if stop():
                torchrun.stdin.close()
            try:
                return torchrun.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue


def _be_torchrun(processes: str, job_file: str) -> int:
    """torchrun without its log: the ranks report errors themselves, once."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    # A free port, and no lookup of this machine's name, which could hang without a network.
    where = ["--standalone", "--local-addr", "127.0.0.1"]
    try:
        run.main([*where, "--nproc-per-node", processes, "-m", "parakeet.training", job_file, FOLLOW_INPUT])
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_be_torchrun(*sys.argv[1:]))
