"""`python -m parakeet.training JOB.json [PARENT]`: the trainer as a process of its own, with or without Dagster.

With PARENT, a process id, the trainer saves and stops when that process is gone; with `-`, also when its standard
input ends. If the job asks for several processes, this one starts them and waits for them.
"""

import os
import select
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    # Until `_Stop` takes over: an interrupt during the imports, which take seconds, would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.failures import explain
from parakeet.locking import WaitStopped, exclusive
from parakeet.progress import Progress
from parakeet.training.job import FAILURE_FILE, LOCK_FILE, TRAINED, TrainingJob
from parakeet.training.launcher import FOLLOW_INPUT, launch, process_count
from parakeet.training.logging import DagsterReporter, open_reporter

PR_SET_PDEATHSIG = 1
NOT_BEGUN = (
    "Training had not begun: it was stopped while waiting for the process that trains this run. Nothing was changed; "
    "run the same command again."
)


def main(arguments: list[str]) -> int:
    """Exit status 0 after training to the end, 130 if stopped with a checkpoint or before it began, 1 on an error.

    Under torchrun 130 becomes 0, since torchrun kills the other ranks at any other status; FAILURE_FILE
    distinguishes the two. There a rank stopped before it began returns 1, since the others would wait for it.
    """
    if len(arguments) not in (1, 2):
        print("usage: python -m parakeet.training JOB.json [PARENT | -]", file=sys.stderr)
        return 2
    stop = _Stop()
    if len(arguments) == 2:
        stop.follow(arguments[1])
    # Read when CUDA starts. Without it, fragmentation costs up to 0.5 GiB of a 12 GiB GPU.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    path = Path(arguments[0])
    try:
        job = TrainingJob.load(path)
    except ParakeetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    under_torchrun = "RANK" in os.environ
    try:
        processes = 1 if under_torchrun else process_count(job.recipe.training)
        if processes > 1:
            return launch(job, path, processes, stop, Progress())
        status = _train(job, stop, under_torchrun)
    except WaitStopped:
        _write_failure(job.output, NOT_BEGUN)
        return 1 if under_torchrun else INTERRUPTED
    except Exception as error:
        _write_failure(job.run, str(explain(error, "training", job.run)))
        return 1
    return 0 if under_torchrun and status == INTERRUPTED else status


def _train(job: TrainingJob, stop: "_Stop", under_torchrun: bool) -> int:
    """Train as one rank. Only rank 0 locks the run, reports and prints."""
    leads = os.environ.get("RANK", "0") == "0"
    with open(os.devnull, "w") as nowhere:
        progress = Progress() if leads else Progress(nowhere)
        reporting = open_reporter() if leads else nullcontext(DagsterReporter())
        locked = exclusive(job.run / LOCK_FILE, TRAINED, progress, stop) if leads else nullcontext()
        with reporting as reporter, locked:
            if not under_torchrun:
                # The launcher did this for its ranks: by now one of them may have failed and written it again.
                (job.run / FAILURE_FILE).unlink(missing_ok=True)
            return _train_locked(job, progress, reporter, stop, leads)


def _train_locked(job: TrainingJob, progress: Progress, reporter: DagsterReporter, stop: "_Stop", leads: bool) -> int:
    """Train, and write the failure file before the lock is released to whoever waits for it."""
    from parakeet.training.distributed import PeerLost
    from parakeet.training.trainer import train

    try:
        outcome = train(job, progress, reporter, _run_id() if leads else "", stop)
    except Exception as error:
        # A process that lost another one leaves that one's own message, which says more.
        if not (isinstance(error, PeerLost) and (job.run / FAILURE_FILE).exists()):
            _write_failure(job.run, str(explain(error, "training", job.run)))
        return 1
    if outcome.finished:
        return 0
    if leads:
        text = f"Training stopped at step {outcome.step:,} with a checkpoint. Run the same command again to continue."
        _write_failure(job.run, text)
    return INTERRUPTED


def _write_failure(folder: Path, text: str) -> None:
    """Write the reason for the stage that waits for this process; if the disk is full, at least print it."""
    try:
        (folder / FAILURE_FILE).write_text(text, encoding="utf-8")
    except OSError:
        print(f"Error: {text}", file=sys.stderr)


def _run_id() -> str:
    """Dagster's run id, or else this process's id. Only for the rank that opened Dagster's pipes."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return str(os.getpid())
    from dagster_pipes import PipesContext

    return PipesContext.get().run_id


class _Stop:
    """Whether to save and stop. SIGINT and SIGTERM set it, however often they come, and do nothing else.

    Ctrl-C in a terminal reaches the trainer twice within 100 ms: from the terminal and from Dagster.
    """

    def __init__(self) -> None:
        self._requested = False
        self._follows_input = False
        signal.signal(signal.SIGINT, self._request)
        signal.signal(signal.SIGTERM, self._request)

    def __call__(self) -> bool:
        if self._follows_input and select.select([sys.stdin], [], [], 0)[0]:
            self._requested = True
        return self._requested

    def follow(self, parent: str) -> None:
        """Stop when `parent` is gone, so that no orphan keeps the GPU."""
        self._follows_input = parent == FOLLOW_INPUT
        _end_with(os.getppid() if self._follows_input else int(parent))

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True


def _end_with(parent: int) -> None:
    """Have Linux send SIGINT when the parent dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
