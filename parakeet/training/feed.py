"""The batches of a run's steps, in their order; the next one is read while the present one is trained on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from parakeet.data.tokens.loader import Batch, Loader, LoaderState
from parakeet.data.tokens.packing import Plan
from parakeet.data.tokens.shards import TokenShards
from parakeet.training.job import TrainingJob
from parakeet.training.schedule import Schedule


@dataclass(frozen=True)
class _Read:
    """A batch, and where its phase's loader stands after it."""

    batch: Batch
    phase: int
    state: dict[str, Any]


class Feed:
    """One loader for each phase of the schedule that has begun. To be used in a `with`, which ends the reading."""

    def __init__(self, job: TrainingJob, shards: TokenShards, padding: int, schedule: Schedule) -> None:
        self._job = job
        self._shards = shards
        self._padding = padding
        self._schedule = schedule
        self._taken: dict[str, dict[str, Any]] = {}
        self._loaders: dict[int, Loader] = {}
        self._ahead: tuple[int, Future[_Read]] | None = None
        self._reader = ThreadPoolExecutor(1, "feed")

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Where each phase's loader stands after the batches that were taken, whatever was read ahead."""
        return dict(self._taken)

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on from `state`; ParakeetError, here or from `take`, if it belongs to other data."""
        self._forget_read()
        self._taken = dict(state)

    def take(self, step: int) -> tuple[Batch, float]:
        """The batch of `step`, and the seconds that were spent waiting for it.

        A step that does not follow the last one, as after going back, gets the next rows of its phase all the same.
        """
        began = time.monotonic()
        if self._ahead is None or self._ahead[0] != step:
            self._forget_read()
            self._read_ahead(step)
        assert self._ahead is not None
        read = self._ahead[1].result()
        self._taken[str(read.phase)] = read.state
        self._ahead = None
        if step < self._schedule.total_steps:
            self._read_ahead(step + 1)
        return read.batch, time.monotonic() - began

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read_ahead(self, step: int) -> None:
        self._ahead = (step, self._reader.submit(self._read, step))

    def _forget_read(self) -> None:
        """Loaders stand behind what they read ahead: they are made again where that was not taken."""
        if self._ahead is not None:
            self._ahead[1].exception()
            self._ahead = None
        self._loaders.clear()

    def _read(self, step: int) -> _Read:
        phase = self._schedule.phase(step)
        loader = self._loader(phase)
        batch = loader.next_batch(self._job.training.batch_tokens // self._schedule.row_tokens(step))
        return _Read(batch, phase, loader.state)

    def _loader(self, phase: int) -> Loader:
        if phase not in self._loaders:
            row_tokens = self._schedule.phases[phase].row_tokens
            # A seed for each phase: two of one length would else begin with the same rows.
            start = LoaderState(
                self._job.shards_content, self._job.plan_digests[str(row_tokens)], self._job.packing.seed + phase
            )
            loader = Loader(self._shards, Plan(self._job.plan, row_tokens), row_tokens, self._padding, start)
            if str(phase) in self._taken:
                loader.restore(self._taken[str(phase)])
            self._loaders[phase] = loader
        return self._loaders[phase]
