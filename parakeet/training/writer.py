"""Writes checkpoints beside the training: the tensors are copied, and a thread of its own brings them to the disk."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from parakeet.artifact import explain_os_error
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.training.checkpoint import HostCopy, RunState, Snapshot, prune, tidy, write_checkpoint
from parakeet.training.device import is_out_of_memory


class CheckpointWriter:
    """One at a time, in the background; to be used in a `with`, which waits for the last one.

    What a write came to is told in the thread that calls `poll`, `save`, `wait` or `close`, never in the
    writer's own: `saved(step)` after the checkpoint counts, `on_failure(step, text)` where it could not be written.
    So both may use what is not made for threads, such as Dagster's pipes.

    A save that failed on an OSError, a full disk say, or for want of memory for the copy, is said once and
    forgotten, since the next save writes everything again; only where no other save came after it, `close` raises
    it. Any other error is a mistake in the program and raised where it is told.

    Only one process may hold the writer of a run: it removes at once what a killed one left half written.
    """

    def __init__(
        self,
        run: Path,
        progress: Progress,
        *,
        keep_checkpoints: int,
        keep_every: int,
        saved: Callable[[int], None],
        on_failure: Callable[[int, str], None],
    ) -> None:
        self._run = run
        self._progress = progress
        self._keep_checkpoints = keep_checkpoints
        self._keep_every = keep_every
        self._saved = saved
        self._on_failure = on_failure
        self._write: _Write | None = None
        self._unsaved: ParakeetError | None = None
        tidy(run)

    def save(self, snapshot: Snapshot) -> None:
        """Copy the snapshot, then return while it is written; the copy is complete, so training may go on at once.

        A write under way is waited for before anything is copied, so that there are never two copies.
        """
        self.wait()
        copy = self._copied(snapshot)
        if copy is not None:
            self._write = _Write(self._run, copy, self._keep_checkpoints, self._keep_every)

    def _copied(self, snapshot: Snapshot) -> HostCopy | None:
        """None, and said, where there is no memory for it."""
        try:
            return HostCopy.of(snapshot)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        step = snapshot.state.step
        self._unsaved = ParakeetError(
            f"There was not enough memory to copy the checkpoint of step {step:,}. Nothing that was there before was "
            "lost or replaced: free memory of this machine and run the same command again."
        )
        text = f"The checkpoint of step {step:,} could not be saved: there is not enough memory for its copy."
        self._tell_failure(step, text, "free memory of this machine")
        return None

    def poll(self) -> None:
        """Tell what the latest write came to, if it has ended; takes no time."""
        if self._write is not None and self._write.ended:
            self.wait()

    def wait(self) -> None:
        """Let the write under way come to its end, and tell it. Raises what another save would not mend."""
        write, self._write = self._write, None
        if write is None:
            return
        write.join()
        if write.error is not None:
            raise write.error
        self._unsaved = write.unsaved
        if write.unsaved is None:
            self._saved(write.step)
        if write.failure:
            text = f"The checkpoint of step {write.step:,} {write.failure}."
            self._tell_failure(write.step, text, f"free space in {self._run}")

    def _tell_failure(self, step: int, text: str, advice: str) -> None:
        self._progress.say(f"{text} Training goes on and the next save tries again: {advice}.")
        self._on_failure(step, text)

    def close(self) -> None:
        """Wait for the last write. Raises ParakeetError where it failed: the run would go on from an earlier step."""
        self.wait()
        if self._unsaved is not None:
            raise self._unsaved

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the training itself failed, that is what is raised; a write that fails beside it is only said.
        (self.close if error is None else self.wait)()


class _Write:
    """A checkpoint on its way to the disk, in a thread that does not keep the interpreter from ending.

    Of an OSError only the words are kept: its traceback would hold the whole copy in memory.
    """

    def __init__(self, run: Path, copy: HostCopy, keep_checkpoints: int, keep_every: int) -> None:
        self.step = copy.state.step
        self.failure = ""
        self.unsaved: ParakeetError | None = None
        self.error: BaseException | None = None
        arguments = (run, copy, keep_checkpoints, keep_every)
        self._thread = threading.Thread(target=self._work, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def _work(self, run: Path, copy: HostCopy, keep_checkpoints: int, keep_every: int) -> None:
        try:
            self._save(run, copy)
            if self.unsaved is None:
                self._prune(run, copy.state, keep_checkpoints, keep_every)
        except BaseException as error:
            self.error = error

    def _save(self, run: Path, copy: HostCopy) -> None:
        try:
            write_checkpoint(run, copy)
        except OSError as error:
            self.failure = f"could not be saved: {_in_words(error)}"
            self.unsaved = explain_os_error(error, f"saving the checkpoint of step {self.step:,}")

    def _prune(self, run: Path, written: RunState, keep_checkpoints: int, keep_every: int) -> None:
        try:
            prune(run, written, keep_checkpoints, keep_every)
        except OSError as error:
            self.failure = f"was saved, but those before it could not be tidied up: {_in_words(error)}"


def _in_words(error: OSError) -> str:
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
