"""Writes checkpoints while training continues: the tensors are copied, and a background thread writes the copy."""

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
    """Writes one checkpoint at a time. Use it in a `with`, which waits for the last one.

    The outcome of a write is reported by the thread that calls `poll`, `save`, `wait` or `close`, never by the
    background thread: `saved(step)` once the checkpoint counts, `on_failure(step, text)` if it could not be written.
    Both callbacks may therefore use things that are not thread-safe, such as Dagster's pipes.

    A save that fails with an OSError (a full disk) or for lack of memory is reported once and dropped, since the next
    save writes everything again. Only if no later save succeeds does `close` raise it. Any other error is a bug, and
    is raised where it is noticed.

    Only one process may hold the writer of a run: it deletes what a killed one left half written. Ranks that do not
    lead have `enabled=False` and write nothing.
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
        enabled: bool = True,
    ) -> None:
        self._run = run
        self._progress = progress
        self._keep_checkpoints = keep_checkpoints
        self._keep_every = keep_every
        self._saved = saved
        self._on_failure = on_failure
        self._enabled = enabled
        self._write: _Write | None = None
        self._unsaved: ParakeetError | None = None
        if enabled:
            tidy(run)

    def save(self, snapshot: Snapshot) -> None:
        """Copy the snapshot and start writing it; training may change everything as soon as this returns.

        Waits for a write in progress before it copies, so that there are never two copies.
        """
        if not self._enabled:
            return
        self.wait()
        step = snapshot.state.step
        try:
            copy = HostCopy.of(snapshot)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._unsaved = ParakeetError(
                f"There was not enough memory to copy the checkpoint of step {step:,}. Earlier checkpoints are "
                "unchanged. Free some memory on this machine and run the same command again."
            )
            text = f"The checkpoint of step {step:,} could not be saved: there is not enough memory to copy it."
            self._report_failure(step, text, "free some memory on this machine")
            return
        self._write = _Write(self._run, copy, self._keep_checkpoints, self._keep_every)

    def poll(self) -> None:
        """Report the latest write if it has ended; returns at once."""
        if self._write is not None and self._write.ended:
            self.wait()

    def wait(self) -> None:
        """Wait for the write in progress and report it. Raises errors that another save would not fix."""
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
            self._report_failure(write.step, text, f"free some space in {self._run}")

    def _report_failure(self, step: int, text: str, advice: str) -> None:
        self._progress.say(f"{text} Training continues and the next save retries: {advice}.")
        self._on_failure(step, text)

    def close(self) -> None:
        """Wait for the last write. ParakeetError if it failed: the run would resume from an earlier step."""
        self.wait()
        if self._unsaved is not None:
            raise self._unsaved

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If the training itself failed, its error is the one to raise; a write that failed too is only reported.
        (self.close if error is None else self.wait)()


class _Write:
    """A checkpoint being written by a daemon thread, which does not keep the interpreter from ending.

    An OSError is kept only as text: its traceback would hold the whole copy in memory.
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
            self.failure = f"could not be saved: {_reason(error)}"
            self.unsaved = explain_os_error(error, f"saving the checkpoint of step {self.step:,}")

    def _prune(self, run: Path, written: RunState, keep_checkpoints: int, keep_every: int) -> None:
        try:
            prune(run, written, keep_checkpoints, keep_every)
        except OSError as error:
            self.failure = f"was saved, but older ones could not be removed: {_reason(error)}"


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
