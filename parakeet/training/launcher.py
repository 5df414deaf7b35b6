"""Several processes for one run, under torchrun. Imports no torch before it has to.

launcher   what `parakeet build` or Dagster started; it waits, and a signal makes it close the pipe below
  torchrun   one child in a session of its own, so that no signal of the terminal reaches it: it would kill the
             processes 30 s after one, saved or not
    ranks      their standard input is the launcher's pipe: when it ends, because the launcher closed it or
               because the launcher is dead, they agree on a step, save and stop, however long that takes
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.locking import WaitStopped, exclusive
from parakeet.progress import Progress
from parakeet.recipe import Training
from parakeet.training.job import FAILURE_FILE, LAUNCH_LOCK_FILE, LOCK_FILE, TRAINED, TrainingJob

FOLLOW_INPUT = "-"
SECONDS_BETWEEN_LOOKS = 0.1


def process_count(training: Training) -> int:
    """Processes that the recipe asks for; for 0, one for each CUDA device."""
    if training.processes:
        return training.processes
    if training.device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def check_rows(job: TrainingJob, processes: int) -> None:
    """ParakeetError unless the rows of every step divide among the processes."""
    for row_tokens in job.packing.lengths:
        rows = job.training.batch_tokens // row_tokens
        if rows % processes:
            raise ParakeetError(
                f"training.batch_tokens makes {rows:,} rows of {row_tokens:,} tokens a step, which {processes} "
                f"processes cannot share. Make it a multiple of {processes * row_tokens:,}, or training.processes a "
                f"divisor of {rows:,}."
            )


def launch(job: TrainingJob, job_file: Path, processes: int, stop: Callable[[], bool], progress: Progress) -> int:
    """Train with `processes` processes until they have ended; `stop` makes them save and end.

    The exit status is that of one process: 0, INTERRUPTED, or 1 with the reason in FAILURE_FILE. Raises WaitStopped
    where `stop` said so before anything was started.
    """
    failure = job.run / FAILURE_FILE
    with exclusive(job.run / LAUNCH_LOCK_FILE, TRAINED, progress, stop):
        # Whoever trains it without a launcher; rank 0 takes this lock again.
        with exclusive(job.run / LOCK_FILE, TRAINED, progress, stop):
            for folder in (job.run, job.output):
                (folder / FAILURE_FILE).unlink(missing_ok=True)
        try:
            check_rows(job, processes)
        except ParakeetError as error:
            failure.write_text(str(error), encoding="utf-8")
            return 1
        return _status(job, processes, _run_torchrun(job_file, processes, stop))


def _status(job: TrainingJob, processes: int, of_torchrun: int) -> int:
    failure = job.run / FAILURE_FILE
    if of_torchrun == 0:
        return INTERRUPTED if failure.exists() else 0
    if (job.output / FAILURE_FILE).exists():
        # Somebody took the run's lock before rank 0 did, and the signal came while it waited.
        raise WaitStopped
    if not failure.exists():
        failure.write_text(
            f"The {processes} training processes ended early. Run the same command again: training goes on from its "
            f"last checkpoint in {job.run}.",
            encoding="utf-8",
        )
    return 1


def _run_torchrun(job_file: Path, processes: int, stop: Callable[[], bool]) -> int:
    command = [sys.executable, "-m", "parakeet.training.launcher", str(processes), str(job_file)]
    # As many threads as there are cores for each of several processes would only wait for one another.
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    # c10d warns in C++ of every name that it cannot look up.
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
    """torchrun without its log: the ranks tell what there is to tell, once."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    # A port of its own, and no look-up of this machine's name, which could hang without a network.
    where = ["--standalone", "--local-addr", "127.0.0.1"]
    try:
        run.main([*where, "--nproc-per-node", processes, "-m", "parakeet.training", job_file, FOLLOW_INPUT])
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_be_torchrun(*sys.argv[1:]))
