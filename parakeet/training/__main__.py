"""`python -m parakeet.training JOB.json [PARENT]`: the trainer as a process of its own, with or without Dagster.

With PARENT, a process id, the trainer saves and stops when that process is gone.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from parakeet.artifact import explain_os_error
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.locking import exclusive
from parakeet.progress import Progress
from parakeet.training.job import FAILURE_FILE, LOCK_FILE, TrainingJob

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Exit status 0 when trained to the end, 130 when stopped with a checkpoint saved, 1 on an error."""
    if len(arguments) not in (1, 2):
        print("usage: python -m parakeet.training JOB.json [PARENT]", file=sys.stderr)
        return 2
    stop = _StopFlag()
    if len(arguments) == 2:
        _end_with(int(arguments[1]))
    try:
        job = TrainingJob.load(Path(arguments[0]))
    except ParakeetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    try:
        with _reporter() as report, _run_lock(job):
            from parakeet.training.trainer import Trainer

            trainer = Trainer(job, Progress())
            finished = trainer.run(lambda: stop.raised, lambda step: report(f"Checkpoint of step {step:,} saved."))
    except (ParakeetError, OSError) as error:
        known = error if isinstance(error, ParakeetError) else explain_os_error(error, "training")
        _leave_word(job.run, str(known))
        return 1
    if not finished:
        text = f"Training was stopped at step {trainer.step:,} with a checkpoint. Run the same command again to go on."
        _leave_word(job.run, text)
        return INTERRUPTED
    return 0


def _leave_word(run: Path, text: str) -> None:
    """Tell the stage that waits for this process; where the disk is full, at least the terminal."""
    try:
        (run / FAILURE_FILE).write_text(text, encoding="utf-8")
    except OSError:
        print(f"Error: {text}", file=sys.stderr)


class _StopFlag:
    """SIGINT and SIGTERM, any number of them, only raise a flag: the trainer saves between two steps.

    Ctrl-C in a terminal reaches the trainer twice within 100 ms, once from the terminal and once from Dagster.
    """

    def __init__(self) -> None:
        self.raised = False
        signal.signal(signal.SIGINT, self._raise)
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


def _end_with(parent: int) -> None:
    """Ask Linux for a SIGINT when the parent dies, so that no orphan goes on holding the GPU."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGINT)


def _run_lock(job: TrainingJob) -> Any:
    return exclusive(job.run / LOCK_FILE, "this run is being trained", Progress())


@contextmanager
def _reporter() -> Iterator[Any]:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda message: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.log.info


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
