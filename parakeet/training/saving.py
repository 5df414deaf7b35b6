"""Checkpoints as the trainer sees them: one rank writes them; a run that goes back removes what it leaves."""

import shutil
from pathlib import Path
from types import TracebackType

from parakeet.artifact import PARTIAL_PREFIX
from parakeet.errors import ParakeetError
from parakeet.training.checkpoint import Snapshot, checkpoints, read_state
from parakeet.training.job import TrainingJob
from parakeet.training.schedule import Schedule
from parakeet.training.watch import Watch
from parakeet.training.writer import CheckpointWriter


class Saver:
    """The writer of the one rank that leads; the others have none. To be used in a `with`."""

    def __init__(self, job: TrainingJob, leads: bool, watch: Watch) -> None:
        self._writer = (
            CheckpointWriter(
                job.run,
                watch.progress,
                keep_checkpoints=job.training.keep_checkpoints,
                keep_every=job.training.keep_every,
                saved=watch.saved,
                on_failure=watch.save_failed,
            )
            if leads
            else None
        )

    def save(self, snapshot: Snapshot) -> None:
        if self._writer is not None:
            self._writer.save(snapshot)

    def poll(self) -> None:
        if self._writer is not None:
            self._writer.poll()

    def wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Wait for the last one; ParakeetError where it could not be written."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


def discard_after(run: Path, schedule: Schedule, step: int) -> None:
    """Remove the checkpoints after `step` on the way of a run of `schedule`, the newest first.

    Killed between two of them, the run goes on from one that is left, and comes to the same decision again.
    """
    for path in reversed(checkpoints(run)):
        try:
            state = read_state(path)
        except ParakeetError:
            continue
        if state.step > step and schedule.shares_past(state.step, state.schedule):
            shutil.rmtree(path.rename(path.with_name(f"{PARTIAL_PREFIX}{path.name}")), ignore_errors=True)
